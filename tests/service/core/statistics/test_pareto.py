"""Who is dominated by whom."""

from service.core.statistics.intervals import Estimate
from service.core.statistics.pareto import dominated_by, relation


def estimate(value, spread):
    """Return a value with its interval."""
    return Estimate(value=value, low=value - spread, high=value + spread, n=10)


def dominated(arms):
    """Return who dominates whom among arms of estimates by metric, lower being better."""
    return dominated_by(
        list(arms),
        ["bits", "bytes"],
        lambda metric, a, b: relation(arms[a][metric], arms[b][metric]),
    )


def test_better_everywhere_dominates():
    """Arm b needs fewer bits and fewer bytes."""
    found = dominated(
        {
            "a": {"bits": estimate(2.0, 0.1), "bytes": estimate(90, 0)},
            "b": {"bits": estimate(1.5, 0.1), "bytes": estimate(80, 0)},
        }
    )

    assert found == {"a": ["b"], "b": []}


def test_an_exact_tie_does_not_protect():
    """The same bytes and fewer bits dominate."""
    found = dominated(
        {
            "a": {"bits": estimate(2.0, 0.1), "bytes": estimate(80, 0)},
            "b": {"bits": estimate(1.5, 0.1), "bytes": estimate(80, 0)},
        }
    )

    assert found["a"] == ["b"]


def test_uncertain_domination_is_none():
    """Intervals of bits overlap: a may be the better one."""
    found = dominated(
        {
            "a": {"bits": estimate(2.0, 0.5), "bytes": estimate(90, 0)},
            "b": {"bits": estimate(1.9, 0.5), "bytes": estimate(80, 0)},
        }
    )

    assert found == {"a": [], "b": []}


def test_higher_can_be_better():
    """Accuracies: more is better."""
    assert relation(estimate(0.5, 0.1), estimate(0.9, 0.1), higher_is_better=True) == "better"
    assert relation(estimate(0.9, 0.1), estimate(0.5, 0.1), higher_is_better=True) == "worse"


def test_a_value_without_interval_relates_to_nothing():
    """A single observation is no evidence."""
    single = Estimate(value=1.0, low=None, high=None, n=1)

    assert relation(single, estimate(5, 0.1)) == "unknown"
