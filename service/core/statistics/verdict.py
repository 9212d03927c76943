"""Verdict: what can be said about two arms in one metric."""

from typing import Final, Literal

from msgspec import Struct

NO_DIFFERENCE: Final = "no_difference"
UNDECIDED: Final = "undecided"

Kind = Literal["resolved", "equivalent", "unresolved", "not_tested"]


class Verdict(Struct, frozen=True, kw_only=True):
    """What can be said about two arms in one metric."""

    metric: str
    arms: tuple[str, str]
    ratio: float | None
    """b/a; None for right and wrong answers, which have a `difference`."""
    low: float | None
    high: float | None
    n: int
    """Independent pairs."""
    verdict: str
    """The better arm, `no_difference` within the margin, or `undecided`."""
    reason: str | None
    """Why it is undecided, or what to know about the pairs."""
    kind: Kind
    difference: float | None = None
    """b - a; `low` and `high` then belong to it."""
    p: float | None = None
    holm: int = 0
    """How many comparisons Holm's correction was over; 0 if nothing was tested."""
    exact: bool = False
    """Values repeat exactly: `low` and `high` are the range over prompts, not an interval."""
    margin: float
    pairs_to_settle: int | None = None
    """About how many pairs would give a verdict; None if it has one or none would."""
