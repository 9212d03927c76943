"""Which arms are dominated by which, where that is certain."""

from collections.abc import Callable, Hashable, Sequence
from typing import Literal, TypeVar

from service.core.statistics.intervals import Estimate

Relation = Literal["better", "worse", "same", "unknown"]
Arm = TypeVar("Arm", bound=Hashable)


def relation(a: Estimate, b: Estimate, *, higher_is_better: bool = False) -> Relation:
    """Return how `b` stands to `a`, from intervals of their own: unknown where these overlap.

    Prefer paired verdicts where both arms answered the same prompts: they tell more.
    """
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return "unknown"
    if a.low == a.high == b.low == b.high:
        return "same"
    if b.high < a.low:
        return "worse" if higher_is_better else "better"
    if b.low > a.high:
        return "better" if higher_is_better else "worse"
    return "unknown"


def dominated_by(
    arms: Sequence[Arm],
    metrics: Sequence[str],
    relate: Callable[[str, Arm, Arm], Relation],
) -> dict[Arm, list[Arm]]:
    """Return by arm the arms that are at least as good in every metric and better in one.

    Args:
        arms: what is compared.
        metrics: names that `relate` knows.
        relate: how the last arm stands to the one before it in a metric. An `unknown` relation
            is none: an arm that may be better somewhere is not dominated.
    """
    return {
        arm: [other for other in arms if other != arm and _dominates(arm, other, metrics, relate)]
        for arm in arms
    }


def _dominates(
    arm: Arm, other: Arm, metrics: Sequence[str], relate: Callable[[str, Arm, Arm], Relation]
) -> bool:
    relations = [relate(metric, arm, other) for metric in metrics]
    return "better" in relations and all(known in ("better", "same") for known in relations)
