"""Experiments over HTTP: created, watched, read, cancelled; refusals name the field."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def plan(**fields):
    return {
        "name": "two models",
        "arms": [{"model": "echo"}, {"model": "other"}],
        "prompts": {"kind": "synthetic", "context_tokens": [8, 16], "new_tokens": 3},
        "repetitions": 2,
        **fields,
    }


def events(live, experiment_id):
    with live.client.stream("GET", f"/v1/experiments/{experiment_id}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    assert found[-1] == "[DONE]"
    return [json.loads(each) for each in found[:-1]]


def ended(live, experiment_id):
    events(live, experiment_id)
    return live.get(f"/v1/experiments/{experiment_id}").json()


def test_an_experiment_runs_to_its_end(live):
    """Created with 201, watched until `done`, with one trial an arm, length and repetition."""
    created = live.post("/v1/experiments", plan())
    assert created.status_code == 201
    body = created.json()
    assert (body["object"], body["planned"], body["name"]) == ("experiment", 12, "two models")

    last = events(live, body["id"])[-1]
    assert (last["state"], last["done"], last["failed"]) == ("done", 12, 0)

    trials = live.get(f"/v1/experiments/{body['id']}/trials").json()["data"]
    measured = [trial for trial in trials if not trial["warmup"]]
    assert {(t["arm"], t["prompt_id"], t["context_tokens"]) for t in measured} == {
        (arm, text, tokens) for arm in (0, 1) for text in ("text-1", "text-2") for tokens in (8, 16)
    }
    assert all(trial["prompt_tokens"] == trial["context_tokens"] for trial in trials)
    assert all(trial["completion_tokens"] == 3 for trial in trials)
    assert all(trial["values"]["ttft_ms"] >= 0 for trial in trials)


def test_each_trial_is_a_recorded_request(live):
    """Its record has the experiment's id, the arm, and the endpoint `experiment`."""
    created = live.post("/v1/experiments", plan(repetitions=1)).json()
    ended(live, created["id"])
    trial = live.get(f"/v1/experiments/{created['id']}/trials").json()["data"][-1]

    record = live.record(trial["request_id"])

    assert (record["experiment_id"], record["endpoint"]) == (created["id"], "experiment")
    assert record["arm"] == trial["arm"]


def test_arms_read_the_same_text(live):
    """Echo models repeat their prompt: equal texts give equal answers, other texts others."""
    created = live.post("/v1/experiments", plan(measures=["memory"])).json()
    ended(live, created["id"])
    trials = live.get(f"/v1/experiments/{created['id']}/trials").json()["data"]
    answers = {}
    for trial in trials:
        answers.setdefault(trial["prompt_id"], set()).add(trial["text_sha256"])

    assert [len(each) for each in answers.values()] == [1, 1, 1]
    assert len(set().union(*answers.values())) == 3


def test_turns_send_the_whole_conversation(live):
    """Prompts grow by what was said; each turn is a trial of its own."""
    asked = plan(
        measures=["turns"],
        repetitions=1,
        arms=[{"model": "echo"}],
        conversation={"turns": 3, "turn_words": 5, "new_tokens": 4},
    )
    created = live.post("/v1/experiments", asked).json()
    assert ended(live, created["id"])["state"] == "done"
    trials = live.get(f"/v1/experiments/{created['id']}/trials").json()["data"]
    lengths = [trial["prompt_tokens"] for trial in trials if not trial["warmup"]]

    assert len(lengths) == 3
    assert lengths == sorted(set(lengths))


def test_conversations_and_texts_of_the_plan_are_asked(live):
    """Prompts of kind `inline`; sampling of an arm is obeyed."""
    asked = plan(
        arms=[{"model": "echo"}, {"model": "other", "sampling": {"stop": ["two"]}}],
        prompts={
            "kind": "inline",
            "items": ["one two three", [{"role": "user", "content": "one two"}]],
            "new_tokens": 2,
        },
        repetitions=1,
    )
    created = live.post("/v1/experiments", asked).json()
    assert ended(live, created["id"])["failed"] == 0
    trials = live.get(f"/v1/experiments/{created['id']}/trials").json()["data"]
    measured = {(t["arm"], t["prompt_id"]): t["text_sha256"] for t in trials if not t["warmup"]}

    assert measured[0, "item-1"] == measured[0, "item-2"]
    assert measured[0, "item-1"] != measured[1, "item-1"]


@pytest.mark.parametrize(
    ("fields", "status", "param", "named"),
    [
        ({"arms": [{"model": "nobody"}]}, 404, "arms[0].model", "nobody"),
        ({"arms": [{"model": "echo"}, {"model": "half-half"}]}, 400, "arms[1].model", "route"),
        ({"arms": []}, 400, "arms", "length"),
        ({"arms": [{"model": "echo", "sampling": {"top_q": 1}}]}, 400, "arms[0].sampling.top_q",
         "top_p"),
        ({"arms": [{"model": "echo", "sampling": {"top_p": 7}}]}, 400, "arms[0].sampling.top_p",
         "<= 1"),
        ({"arms": [{"model": "echo", "sampling": {"max_tokens": 7}}]}, 400,
         "arms[0].sampling.max_tokens", "new_tokens"),
        ({"prompts": {"kind": "file", "path": "/etc/passwd"}}, 400, "prompts.kind", "inline"),
        ({"prompts": {"kind": "synthetic", "context_tokens": [8, 900]}}, 400,
         "prompts.context_tokens", "other has a context of 64"),
        ({"prompts": {"kind": "inline", "items": [""]}}, 400, "prompts.items[0]", "empty"),
        ({"prompts": {"kind": "inline", "items": [[{"role": "king", "content": "x"}]]}}, 400,
         "prompts.items[0]", "king"),
        ({"prompts": {"kind": "inline", "items": ["x"], "new_tokens": 99_999}}, 400,
         "prompts.new_tokens", "4096"),
        ({"prompts": {"kind": "records", "filter": {"colour": "red"}}}, 400,
         "prompts.filter.colour", "endpoint"),
        ({"prompts": {"kind": "records", "filter": {"family": "plant"}}}, 400, "prompts.filter",
         "plant"),
        ({"prompts": {"kind": "records"}}, 400, "prompts.filter", "store_content"),
        ({"measures": ["score"]}, 400, "measures", "inline"),
        ({"measures": ["probes"], "probes": {"levels": {"recall": [10_000]}}}, 400,
         "probes.levels.recall", "levels 1 to"),
        ({"unknown": 1}, 400, "unknown", "unknown"),
        ({"repetitions": 0}, 400, "repetitions", ">= 1"),
        ({"repetitions": 1000, "prompts": {"kind": "inline", "items": ["x"] * 60}}, 400,
         "repetitions", "100000"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_run_is_refused(live, fields, status, param, named):
    """With the field at fault and what would be right; nothing is created."""
    before = len(live.get("/v1/experiments?limit=1000").json()["data"])
    answer = live.post("/v1/experiments", plan(**fields))
    error = answer.json()["error"]

    assert (answer.status_code, error["param"]) == (status, param)
    assert named in error["message"]
    assert len(live.get("/v1/experiments?limit=1000").json()["data"]) == before


def test_an_experiment_is_cancelled(serve):
    """DELETE ends it at once, its running request too; what was measured stays."""
    live = serve()
    asked = plan(arms=[{"model": "slow"}, {"model": "echo"}], repetitions=1000)
    created = live.post("/v1/experiments", asked).json()
    waiting = live.post("/v1/experiments", plan()).json()
    live.until(lambda: live.get(f"/v1/experiments/{created['id']}").json()["done"] > 3)

    for experiment in (waiting, created):
        assert live.client.delete(f"/v1/experiments/{experiment['id']}").json()["state"] == (
            "cancelled"
        )

    again = live.client.delete(f"/v1/experiments/{created['id']}")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")
    trials = live.get(f"/v1/experiments/{created['id']}/trials").json()["data"]
    assert len(trials) == again.json()["done"] > 3
    assert events(live, created["id"])[-1]["state"] == "cancelled"
    live.until(lambda: live.requests == 0)


def test_pages_are_newest_first(serve):
    """`next_cursor` continues; the last page has none."""
    live = serve()
    ids = [live.post("/v1/experiments", plan(repetitions=1)).json()["id"] for _ in range(3)]

    first = live.get("/v1/experiments?limit=2").json()
    rest = live.get(f"/v1/experiments?limit=2&cursor={first['next_cursor']}").json()

    assert [each["id"] for each in (*first["data"], *rest["data"])] == ids[::-1]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("path", ["", "/events", "/trials", "/report.json", "/report.html"])
def test_an_unknown_experiment_is_not_found(live, path):
    """In OpenAI's form, also for the stream."""
    answer = live.get(f"/v1/experiments/nobody{path}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_prompts_of_records_are_asked_again(serve):
    """Where contents are stored; answers of the experiment's own requests included on demand."""
    live = serve(store_content="full")
    live.chat("tell me more", max_tokens=2)
    asked = plan(
        prompts={"kind": "records", "filter": {"endpoint": "chat"}, "new_tokens": 3}, repetitions=1
    )
    created = live.post("/v1/experiments", asked).json()
    assert ended(live, created["id"])["failed"] == 0
    trials = live.get(f"/v1/experiments/{created['id']}/trials").json()["data"]

    assert {trial["arm"] for trial in trials} == {0, 1}
    assert len({trial["prompt_id"] for trial in trials}) == 1
    assert {trial["completion_tokens"] for trial in trials} == {3}


def test_a_failed_trial_is_not_the_end(serve):
    """It keeps its reason; the other arm is measured."""
    live = serve()
    asked = plan(arms=[{"model": "broken"}, {"model": "echo"}], repetitions=1)
    created = live.post("/v1/experiments", asked).json()
    experiment = ended(live, created["id"])
    trials = live.get(f"/v1/experiments/{created['id']}/trials").json()["data"]

    assert (experiment["state"], experiment["failed"]) == ("done", 4)
    assert {t["error"] for t in trials if t["arm"] == 0} == {"no memory for it"}
    assert {t["state"] for t in trials if t["arm"] == 1} == {"done"}
    assert experiment["environment"]["cores"] >= 1


def test_texts_are_scored_once_by_each_arm(live):
    """Echo models are certain of everything: 0 bits per byte."""
    asked = plan(
        measures=["score"],
        prompts={"kind": "inline", "items": ["one two", "three"]},
        repetitions=3,
    )
    created = live.post("/v1/experiments", asked).json()
    assert ended(live, created["id"])["failed"] == 0
    trials = live.get(f"/v1/experiments/{created['id']}/trials").json()["data"]

    assert {(t["arm"], t["prompt_id"], t["measure"]) for t in trials} == {
        (arm, item, "score") for arm in (0, 1) for item in ("item-1", "item-2")
    }
    assert {t["values"]["bits_per_byte"] for t in trials} == {0.0}
    assert live.record(trials[0]["request_id"])["experiment_id"] == created["id"]


def test_probes_are_asked_and_graded(live):
    """An echo of the request to copy has more words than the copy; it never recalls a value."""
    asked = plan(
        arms=[{"model": "echo"}],
        measures=["probes"],
        probes={"kinds": ["recall", "copy"], "levels": {"recall": [2, 4], "copy": [3]}},
    )
    created = live.post("/v1/experiments", asked).json()
    assert ended(live, created["id"])["failed"] == 0
    trials = live.get(f"/v1/experiments/{created['id']}/trials").json()["data"]

    assert {(t["probe"], t["level"], t["repetition"]) for t in trials} == {
        (probe, level, repetition)
        for probe, level in (("recall", 2), ("recall", 4), ("copy", 3))
        for repetition in (0, 1)
    }
    assert {t["values"][t["probe"]] for t in trials} == {0.0}


def test_reports_come_as_json_markdown_and_a_page(live):
    """Of what was measured: every arm, and the environment."""
    created = live.post("/v1/experiments", plan(name="two <models>")).json()
    ended(live, created["id"])
    address = f"/v1/experiments/{created['id']}/report"
    as_json, as_text, page = (live.get(f"{address}.{form}") for form in ("json", "md", "html"))

    report = as_json.json()
    assert [(arm["model"], arm["done"]) for arm in report["arms"]] == [("echo", 4), ("other", 4)]
    assert report["trials"] == 8
    assert report["environment"]["cores"] >= 1
    assert as_text.headers["content-type"] == "text/markdown; charset=utf-8"
    assert as_text.text.startswith("# ")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "two &lt;models&gt;" in page.text


def test_a_report_can_be_read_while_the_experiment_runs(serve):
    """As far as it is."""
    live = serve()
    asked = plan(arms=[{"model": "slow"}, {"model": "echo"}], repetitions=1000)
    created = live.post("/v1/experiments", asked).json()
    live.until(lambda: live.get(f"/v1/experiments/{created['id']}").json()["done"] > 8)
    report = live.get(f"/v1/experiments/{created['id']}/report.json").json()

    assert 0 < report["trials"] < created["planned"]
    live.client.delete(f"/v1/experiments/{created['id']}")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["name", "arms", "prompts", "measures", "conversation", "probes", "repetitions", "seed",
     "margin", "pause_when_busy"]
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(KEYS, JSON, max_size=4))
def test_no_plan_is_an_internal_error(live, fields):
    """Whatever its fields hold, it is refused: at the latest, for a model that does not exist."""
    answer = live.post("/v1/experiments", plan(arms=[{"model": "nobody"}]) | fields)

    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["message"]
