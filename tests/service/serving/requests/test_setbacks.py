"""Models that failed lately rest, each for a while."""

import pytest

from service.core.errors import (
    ContextOverflow,
    EngineDied,
    ModelNotPulled,
    ModelNotReady,
    Overloaded,
)
from service.serving.requests.setbacks import Setbacks
from support.clock import Clock


@pytest.mark.parametrize(
    ("error", "rest_s"), [(ModelNotReady("x"), 30), (ModelNotPulled("x"), 30), (EngineDied("x"), 5)]
)
def test_a_model_rests_as_long_as_its_failure_probably_lasts(error, rest_s):
    """A load is not repeated soon, a process is back within seconds."""
    clock = Clock(100)
    setbacks = Setbacks(clock)
    setbacks.note("a", error)
    clock.now += rest_s - 0.1
    assert setbacks.resting == {"a": error.code}
    clock.now += 0.2
    assert setbacks.resting == {}


@pytest.mark.parametrize("error", [Overloaded("x"), ContextOverflow("x")])
def test_what_is_not_the_models_fault_is_not_held_against_it(error):
    """Another request may be answered."""
    setbacks = Setbacks()
    setbacks.note("a", error)
    assert setbacks.resting == {}


def test_an_answer_ends_the_rest():
    """Of that model alone."""
    setbacks = Setbacks()
    for name in "ab":
        setbacks.note(name, EngineDied("x"))
    setbacks.clear("a")
    assert set(setbacks.resting) == {"b"}
