"""Crossovers of experiments as thresholds of routes."""

import random

import pytest

from service.core.errors import InvalidRequest
from service.core.experiments.experiment import Experiment
from service.core.experiments.plan import Arm, Plan, SyntheticPrompts
from service.core.experiments.report import ReportCrossover
from service.core.experiments.trial import Trial
from service.core.routes.by_context import ByContextRoute, Threshold
from service.core.routes.route import Arm as RouteArm
from service.core.routes.route import WeightedRoute
from service.serving.routes.costs.crossovers import ExperimentCrossovers, thresholds_of
from service.serving.routes.table import RouteTable
from service.storage.experiments.memory import MemoryExperimentStore

CONTEXTS = (64, 128, 256, 512, 1024)
BETWEEN = ("a", "b", "c")


def crossing(first, second, at, lower, reason=None):
    return ReportCrossover(
        metric="memory_bytes", arms=(first, second), context_tokens=at, low=at, high=at,
        reason=reason, lower_before=lower,
    )  # fmt: skip


def test_three_curves_have_two_thresholds():
    """Each model where it is the lowest; that of a and c lies above b and counts for nothing."""
    found = thresholds_of(
        [crossing("a", "b", 400.7, "a"), crossing("a", "c", 600, "a"),
         crossing("c", "b", 1200, "b")],
        BETWEEN,
    )  # fmt: skip
    assert found == (
        Threshold(model="a", up_to_tokens=400),
        Threshold(model="b", up_to_tokens=1200),
        Threshold(model="c"),
    )


def test_a_model_that_is_nowhere_the_lowest_has_no_threshold():
    """It is never chosen."""
    found = thresholds_of(
        [crossing("a", "b", None, "a", "they do not cross"), crossing("a", "c", 500, "a"),
         crossing("b", "c", 300, "b")],
        BETWEEN,
    )  # fmt: skip
    assert found == (Threshold(model="a", up_to_tokens=500), Threshold(model="c"))


def test_curves_that_do_not_cross_leave_one_model():
    """For any length."""
    assert thresholds_of([crossing("a", "b", None, "b", "no crossing")], ("a", "b")) == (
        Threshold(model="b"),
    )


@pytest.mark.parametrize(
    ("crossings", "message"),
    [
        ([], "did not compare a and b"),
        ([crossing("a", "b", None, None, "2 contexts measured")], "2 contexts measured"),
    ],
)
def test_what_the_experiment_cannot_say_is_an_error(crossings, message):
    """With the report's own reason."""
    with pytest.raises(InvalidRequest, match=message):
        thresholds_of(crossings, ("a", "b"))


def test_crossovers_that_contradict_each_other_are_an_error():
    """A below b below c below a."""
    with pytest.raises(InvalidRequest, match="contradict"):
        thresholds_of(
            [crossing("a", "b", None, "a"), crossing("b", "c", None, "b"),
             crossing("c", "a", None, "c")],
            BETWEEN,
        )  # fmt: skip


@pytest.fixture
def store():
    """An experiment whose arms' memory crosses at 500 tokens: 1000 a token against 500,000."""
    plan = Plan(
        name="state",
        arms=(Arm(model="a"), Arm(model="b")),
        prompts=SyntheticPrompts(context_tokens=CONTEXTS),
        measures=("memory",),
    )
    known = Experiment(id="exp-1", plan=plan, created_at_ns=1, planned_trials=50, state="done")
    made, noise = MemoryExperimentStore(), random.Random(3)
    made.put(known)
    number = 0
    for repetition in range(5):
        for tokens in CONTEXTS:
            for arm, value in enumerate((1000 * tokens, 500_000)):
                number += 1
                trial = Trial(
                    number=number, arm=arm, measure="memory", prompt_id=f"{tokens}",
                    repetition=repetition, context_tokens=tokens, state="done",
                    prompt_tokens=tokens, completion_tokens=1,
                    values={"memory_bytes": value * noise.uniform(0.99, 1.01)},
                )  # fmt: skip
                made.write_trial("exp-1", trial)
    made.put(Experiment(id="exp-2", plan=plan, created_at_ns=2, planned_trials=9, state="running"))
    return made


@pytest.mark.parametrize("name", ["exp-1", "state"])
def test_thresholds_are_read_from_the_trials(store, name):
    """By the id of the experiment, or by its name: the newest that is done."""
    short, long = ExperimentCrossovers(store).thresholds(name, "memory_bytes", ("a", "b"))
    assert (short.model, long) == ("a", Threshold(model="b"))
    assert short.up_to_tokens == pytest.approx(500, rel=0.05)


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("exp-9", "memory_bytes", "there is no experiment"),
        ("exp-2", "memory_bytes", "is running"),
        ("exp-1", "ttft_ms", "did not compare"),
    ],
)
def test_an_experiment_that_gives_no_thresholds_is_refused(store, name, metric, message):
    """The reason is named."""
    with pytest.raises(InvalidRequest, match=message):
        ExperimentCrossovers(store).thresholds(name, metric, ("a", "b"))


async def test_a_route_by_an_experiment_is_checked_when_it_is_created(store):
    """It is refused, or it can be used at once."""
    table = RouteTable({}, ["a", "b"], crossovers=ExperimentCrossovers(store))
    by = {"metric": "memory_bytes", "between": ("a", "b")}
    with pytest.raises(InvalidRequest, match="is running"):
        await table.create("r", ByContextRoute(experiment="exp-2", **by))
    await table.create("r", ByContextRoute(experiment="exp-1", **by))
    assert table["r"].models == ("a", "b")
    await table.create("s", WeightedRoute(arms=(RouteArm(model="a"),)))
    assert len(table) == 2
