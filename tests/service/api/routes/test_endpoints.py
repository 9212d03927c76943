"""Routes over HTTP."""

import pytest

WEIGHTED = {"policy": "weighted", "arms": [{"model": "echo"}, {"model": "other", "weight": 2}]}
FALLBACK = {"policy": "fallback", "arms": [{"model": "broken"}, {"model": "other"}]}


@pytest.fixture
def own(serve):
    """A service without routes of a configuration."""
    return serve()


def create(live, name="mine", route=WEIGHTED):
    return live.post("/v1/routes", {"id": name, "route": route})


def put(live, name, route):
    return live.client.put(f"/v1/routes/{name}", json=route)


def test_a_route_of_the_configuration_is_listed(live):
    """With its definition, as read-only."""
    entries = {one["id"]: one for one in live.get("/v1/routes").json()["data"]}
    half = entries["half-half"]
    assert (half["source"], half["policy"], half["models"]) == (
        "configuration", "weighted", ["echo", "other"],
    )  # fmt: skip
    assert half["route"]["sticky_header"] == "x-session"
    assert half["created_at_ns"] is None


def test_a_created_route_can_be_asked_for_at_once(own):
    """By any client, as a model; the record says which arm answered and by what."""
    created = create(own)
    assert created.status_code == 201
    assert created.json()["source"] == "api"
    answer = own.chat(model="mine")
    record = own.record(answer.headers["x-request-id"])
    assert (record["requested_model"], record["route"]) == ("mine", "weighted")
    assert record["model"] in ("echo", "other")
    assert record["route_inputs"]["definition"]["arms"][1] == {"model": "other", "weight": 2.0}
    assert "mine" in [card["id"] for card in own.get("/v1/models").json()["data"]]


def test_created_routes_outlive_a_restart(serve):
    """They are read again from the database."""
    first = serve()
    create(first)
    first.stop()
    again = serve()
    assert again.get("/v1/routes/mine").json()["models"] == ["echo", "other"]
    assert again.chat(model="mine").status_code == 200


def test_a_route_can_be_changed(own):
    """The next request goes by the new definition."""
    created = create(own).json()
    changed = put(own, "mine", FALLBACK).json()
    assert (changed["policy"], changed["models"]) == ("fallback", ["broken", "other"])
    assert changed["created_at_ns"] == created["created_at_ns"] < changed["changed_at_ns"]
    record = own.record(own.chat(model="mine").headers["x-request-id"])
    assert (record["route"], record["model"]) == ("fallback", "other")


def test_a_deleted_route_is_not_found(own):
    """Neither as a route nor as a model."""
    create(own)
    assert own.client.delete("/v1/routes/mine").status_code == 204
    assert own.get("/v1/routes/mine").status_code == 404
    answer = own.chat(model="mine")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_route_of_the_configuration_is_read_only(live, method):
    """Its file decides."""
    body = {"json": WEIGHTED} if method == "PUT" else {}
    answer = live.client.request(method, "/v1/routes/chain", **body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert live.get("/v1/routes/chain").json()["policy"] == "fallback"


@pytest.mark.parametrize(
    ("name", "status"), [("mine", 409), ("echo", 409), ("echo:half", 400), ("No Name", 400)]
)
def test_an_id_in_use_or_of_wrong_shape_is_refused(own, name, status):
    """A model is never hidden by a route."""
    create(own)
    assert create(own, name).status_code == status


@pytest.mark.parametrize(
    ("route", "status", "param"),
    [
        ({"policy": "weighted", "arms": [{"model": "nobody"}]}, 404, "route"),
        ({"policy": "weighted", "arms": [{"model": "first"}]}, 400, "route"),
        ({"policy": "weighted", "arms": []}, 400, "route.arms"),
        ({"policy": "guess", "arms": [{"model": "echo"}]}, 400, "route.policy"),
        ({"policy": "fallback", "arms": [{"model": "echo"}], "weight": 1}, 400, "route.weight"),
        ({"policy": "by_context", "thresholds": [{"model": "echo", "up_to_tokens": 5}]},
            400, "route"),
        (
            {"policy": "by_context", "experiment": "exp-1", "between": ["echo", "other"]},
            400,
            "route.experiment",
        ),
    ],
)  # fmt: skip
def test_a_wrong_definition_is_refused_by_name(own, route, status, param):
    """A missing model by its own name."""
    create(own, "first")
    answer = create(own, "second", route)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert own.get("/v1/routes/second").status_code == 404


def test_changing_an_unknown_route_is_404(own):
    """PUT creates nothing."""
    assert put(own, "mine", WEIGHTED).status_code == 404
    assert own.client.delete("/v1/routes/mine").status_code == 404


def test_a_decision_is_explained(live):
    """The recorded decision, its facts, and the same decision computed from them."""
    answer = live.chat(model="half-half", user="ann")
    explained = live.get(f"/v1/records/{answer.headers['x-request-id']}/route").json()
    assert explained["policy"] == "weighted"
    assert explained["same"] is True
    assert explained["recomputed_arms"] == explained["arms"] == [explained["served_by"]]
    assert explained["facts"]["key"] not in (None, "ann")
    assert explained["definition"]["policy"] == "weighted"


def test_an_arm_that_failed_is_in_the_explanation(live):
    """After what was decided beforehand."""
    live.get("/v1/models/broken")
    answer = live.chat(model="chain")
    explained = live.get(f"/v1/records/{answer.headers['x-request-id']}/route").json()
    assert explained["same"] is True
    assert explained["served_by"] == "echo"
    assert "broken" in explained["reason"]


def test_a_request_that_named_a_model_is_explained_shortly(live):
    """Nothing was decided."""
    answer = live.chat()
    explained = live.get(f"/v1/records/{answer.headers['x-request-id']}/route").json()
    assert (explained["policy"], explained["arms"], explained["facts"]) == (
        "direct",
        ["echo"],
        None,
    )


def test_a_request_that_was_never_routed_has_no_explanation(live):
    """As one for a model that does not exist."""
    answer = live.chat(model="nobody")
    missing = live.get(f"/v1/records/{answer.headers['x-request-id']}/route")
    assert missing.status_code == 404


CHEAPEST = {
    "policy": "cheapest", "explore": 0, "min_observations": 1,
    "arms": [{"model": "slow"}, {"model": "other"}],
}  # fmt: skip


def test_a_cheapest_route_learns_from_what_it_measured(serve):
    """Without data the first arm, then the fastest; a restart knows it from the records."""
    live = serve(preload=("slow", "other"))
    create(live, "thrifty", CHEAPEST)
    first = live.record(live.chat(model="thrifty").headers["x-request-id"])
    assert first["model"] == "slow"
    assert "no data on latency of any arm" in first["route_reason"]
    for words in range(3, 9):
        for model in ("slow", "other"):
            live.chat("word " * words, model=model)
    learned = live.record(live.chat(model="thrifty").headers["x-request-id"])
    assert learned["model"] == "other", learned["route_reason"]
    live.stop()

    again = serve(preload=("slow", "other"))
    reason = ""

    def knows():
        nonlocal reason
        record = again.record(again.chat(model="thrifty").headers["x-request-id"])
        reason = record["route_reason"]
        return record["model"] == "other" and "predicted" in reason

    again.until(knows)
    assert "slow:" in reason  # with its cost, or that it is unknown while it is loaded


def test_statistics_count_each_arm(own):
    """Requests to the route alone, with percentiles and tokens."""
    create(own)
    for number in range(20):
        own.chat(model="mine", user=f"user {number}")
    own.chat(model="echo")
    stats = own.get("/v1/routes/mine/stats").json()
    assert sum(arm["requests"] for arm in stats["arms"]) == stats["compared_requests"] == 20
    assert {arm["model"] for arm in stats["arms"]} == {"echo", "other"}
    assert all(arm["ttft_ms"]["p50"] > 0 for arm in stats["arms"])
    assert "20 of 20 requests were kept" in stats["notes"][0]
    assert own.get("/v1/routes/nothing/stats").status_code == 404
    assert own.get("/v1/routes/mine/stats?since=yesterday").status_code == 400
    assert own.get("/v1/routes/mine/stats?sinse=1").json()["error"]["param"] == "sinse"
