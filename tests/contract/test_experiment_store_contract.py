"""Every store of experiments is asked the same questions."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from service.core.errors import StoreUnavailable
from service.core.experiments.experiment import Experiment, TrialCounts
from service.core.experiments.plan import Arm, InlinePrompts, Plan
from service.core.experiments.ports import ExperimentStore
from service.core.experiments.trial import Trial
from service.storage import open_store
from service.storage.experiments import open_experiments

PLAN = Plan(
    name="trio",
    arms=(Arm(model="a", sampling={"temperature": 0.5}), Arm(model="b")),
    prompts=InlinePrompts(items=("text", [{"role": "user", "content": "Wie heißt du? 🐍"}])),
    measures=("speed", "turns"),
)


def experiment(id_: str = "exp-1", **fields) -> Experiment:
    return Experiment(id=id_, plan=PLAN, created_at_ns=2**62, planned_trials=7, **fields)


def trial(number: int, **fields) -> Trial:
    values = {"number": number, "arm": 1, "measure": "turns", "prompt_id": "c", "repetition": 0}
    return Trial(**(values | {"state": "done"} | fields))


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ExperimentStore]:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/records.db"}
    opened = open_experiments(urls[request.param])
    yield opened
    opened.close()


def test_an_experiment_comes_back_equal(store: ExperimentStore) -> None:
    """Every field survives, also after it was replaced."""
    first = experiment(record_ids=("req-1",))
    store.put(first)
    assert store.get("exp-1") == first

    ended = structs.replace(
        first, state="done", ended_at_ns=5, continued=2, environment={"cores": 2}, error="no"
    )
    store.put(ended)

    assert store.get("exp-1") == ended
    assert store.get("exp-2") is None


def test_a_trial_comes_back_equal_and_is_replaced_by_its_number(store: ExperimentStore) -> None:
    """What a continued run writes again stands in place of what was there."""
    full = trial(
        2, turn=3, request_id="req-9", values={"ttft_ms": 1.25, "energy_j": None},
        prompt_tokens=4, disturbances=("beside_requests",), cold=True, text_sha256="ab",
    )  # fmt: skip
    store.put(experiment())
    store.write_trial("exp-1", full)
    store.write_trial("exp-1", trial(1))
    store.write_trial("exp-1", trial(1, state="failed", error="it died"))

    assert store.trials("exp-1") == (trial(1, state="failed", error="it died"), full)
    assert store.trials("nobody") == ()


def test_trials_are_counted_for_each_experiment(store: ExperimentStore) -> None:
    """Failed ones apart; none is zero."""
    for name in ("exp-1", "exp-2"):
        store.put(experiment(name))
    for number in range(3):
        store.write_trial("exp-1", trial(number, state="failed" if number == 1 else "done"))

    assert store.counts(["exp-1", "exp-2"]) == {
        "exp-1": TrialCounts(ended=3, failed=1),
        "exp-2": TrialCounts(),
    }
    assert store.counts([]) == {}


def test_pages_are_newest_first(store: ExperimentStore) -> None:
    """Each page continues after the last one's oldest experiment."""
    for number in range(5):
        store.put(experiment(f"exp-{number}"))

    first = store.page(limit=3)
    rest = store.page(limit=3, before=first[-1].id)

    assert [each.id for each in (*first, *rest)] == [f"exp-{n}" for n in (4, 3, 2, 1, 0)]


def test_unfinished_ones_are_found_oldest_first(store: ExperimentStore) -> None:
    """They are what a start goes on with."""
    states = ("done", "running", "cancelled", "queued", "failed")
    for number, state in enumerate(states):
        store.put(experiment(f"exp-{number}", state=state))

    assert [each.id for each in store.unfinished()] == ["exp-1", "exp-3"]


def test_trials_and_records_are_written_at_once(tmp_path: Path, make_record) -> None:
    """Two threads on one file wait for each other; neither finds it locked."""
    url = f"sqlite:///{tmp_path}/records.db"
    records, experiments = open_store(url), open_experiments(url)
    experiments.put(experiment())
    failures: list[StoreUnavailable] = []

    def guarded(work) -> None:
        try:
            for number in range(150):
                work(number)
        except StoreUnavailable as error:
            failures.append(error)

    threads = [
        threading.Thread(target=guarded, args=(work,))
        for work in (
            lambda n: records.write([make_record(f"r{n}")]),
            lambda n: experiments.write_trial("exp-1", trial(n)),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(experiments.trials("exp-1")) == 150
    records.close()
    experiments.close()
