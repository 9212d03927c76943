"""Apportioning: the part of a counter's energy that belongs to one of several requests.

Between two readings energy is taken to flow evenly, and at every moment it is split equally among
the requests that are computed. What flows while none is belongs to nobody, so the parts of all
requests never exceed what the counter counted.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Reading(NamedTuple):
    """A counter at a moment."""

    at_ns: int
    energy_uj: int


class Window(NamedTuple):
    """Time in which a request was computed: from its first prefill step to its last token."""

    start_ns: int
    end_ns: int

    def overlaps(self, other: "Window") -> bool:
        """True if both cover some moment."""
        return self.start_ns < other.end_ns and other.start_ns < self.end_ns


def share_uj(readings: Sequence[Reading], window: Window, others: Sequence[Window]) -> float | None:
    """Microjoules that belong to *window*, beside the windows of *others*.

    None unless the readings cover the whole window.
    """
    start_ns, end_ns = window
    if not readings or readings[0].at_ns > start_ns or readings[-1].at_ns < end_ns:
        return None
    present = [other for other in others if other.overlaps(window)]
    changes: dict[int, int] = {start_ns: 0, end_ns: 0}
    for other in present:
        begun_ns, ended_ns = max(other.start_ns, start_ns), min(other.end_ns, end_ns)
        changes[begun_ns] = changes.get(begun_ns, 0) + 1
        changes[ended_ns] = changes.get(ended_ns, 0) - 1
    for reading in readings:
        if start_ns < reading.at_ns < end_ns:
            changes.setdefault(reading.at_ns, 0)
    total_uj, computed, place = 0.0, 1, 0
    for moment_ns, next_ns in pairwise(sorted(changes)):
        computed += changes[moment_ns]
        while readings[place + 1].at_ns <= moment_ns:
            place += 1
        before, after = readings[place], readings[place + 1]
        uj_per_ns = (after.energy_uj - before.energy_uj) / (after.at_ns - before.at_ns)
        total_uj += uj_per_ns * (next_ns - moment_ns) / computed
    return total_uj
