"""Eviction policy: pure decisions on admission to a device's memory and on whom to evict."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from service.core.sizes import human_bytes

#: Assumed duration of a load that has not been timed, in nanoseconds.
UNTIMED_LOAD_NS = 1_000_000_000


class Resident(Struct, frozen=True, kw_only=True):
    """A model that holds memory, or has it reserved while it loads."""

    id: str
    held_bytes: int
    """Weights, slots and workspace at rest."""
    state_bytes: int = 0
    """Reserved for the state of its running requests."""
    pinned: bool = False
    busy: bool = False
    """It answers or loads: if evicted, it goes when its requests have ended."""
    leaving: bool = False
    last_used_ns: int = 0
    load_ns: int | None = None

    @property
    def total_bytes(self) -> int:
        """All that its eviction frees."""
        return self.held_bytes + self.state_bytes


class Fits(NamedTuple):
    """There is room now."""


class Evict(NamedTuple):
    """There is room once these idle models have gone."""

    ids: tuple[str, ...]


class Wait(NamedTuple):
    """There will be room once these, some of them busy, have gone and others' requests ended."""

    ids: tuple[str, ...]


class Never(NamedTuple):
    """There is no room beside what cannot be evicted."""

    pinned: tuple[str, ...]
    """Pinned models that stand in the way; empty: it does not fit even alone."""


Plan = Fits | Evict | Wait | Never


def plan(
    need_bytes: int,
    budget_bytes: int,
    residents: Sequence[Resident],
    *,
    now_ns: int,
    keep: str | None = None,
) -> Plan:
    """Decide how to find room for *need_bytes*.

    Idle models are evicted first, those of least value per byte. If they are not enough, running
    requests are waited for, whose state becomes free, and only then are busy models evicted.

    Args:
        need_bytes: What is to be reserved.
        budget_bytes: What may be reserved in all.
        residents: The models that hold memory now.
        now_ns: The time, on the clock of `last_used_ns`.
        keep: A model that must stay: the one whose request this is.
    """
    missing = need_bytes - (budget_bytes - sum(each.total_bytes for each in residents))
    if missing <= 0:
        return Fits()
    fixed = [each for each in residents if each.id == keep or (each.pinned and not each.leaving)]
    lasting = sum(each.held_bytes for each in fixed)
    if need_bytes > budget_bytes - lasting:
        others = tuple(each.id for each in fixed if each.id != keep)
        kept = sum(each.held_bytes for each in fixed if each.id == keep)
        return Never(() if need_bytes > budget_bytes - kept else others)
    missing -= sum(each.total_bytes for each in residents if each.leaving and each not in fixed)
    if missing <= 0:
        return Wait(())
    movable = sorted(
        (each for each in residents if not each.leaving and each not in fixed),
        key=lambda each: value_per_byte(each, now_ns),
    )
    idle = [each for each in movable if not each.busy]
    chosen, missing = _choose(idle, missing, lambda each: each.total_bytes)
    if missing <= 0:
        return Evict(tuple(each.id for each in chosen))
    running = sum(each.state_bytes for each in residents if not each.leaving or each in fixed)
    if running >= missing:
        return Wait(tuple(each.id for each in chosen))
    leaving, _ = _choose(
        [each for each in movable if each.busy], missing - running, lambda each: each.held_bytes
    )
    return Wait(tuple(each.id for each in (*chosen, *leaving)))


def value_per_byte(resident: Resident, now_ns: int) -> float:
    """Expected saving in loads per byte kept: cost to load, divided by age and size."""
    age_ns = max(1, now_ns - resident.last_used_ns)
    load_ns = UNTIMED_LOAD_NS if resident.load_ns is None else resident.load_ns
    return load_ns / age_ns / max(1, resident.total_bytes)


def _choose(
    candidates: Iterable[Resident], missing: int, size: Callable[[Resident], int]
) -> tuple[list[Resident], int]:
    """Choose the first candidates that free what is missing; also return what still is.

    The choice is minimal: without any one of them the others are not enough.
    """
    chosen: list[Resident] = []
    for each in candidates:
        if missing <= 0:
            break
        if size(each) > 0:
            chosen.append(each)
            missing -= size(each)
    for each in tuple(reversed(chosen)):
        if missing + size(each) <= 0:
            chosen.remove(each)
            missing += size(each)
    return chosen, missing


def may_overtake(
    need_bytes: int, first_bytes: int, budget_bytes: int, residents: Sequence[Resident]
) -> bool:
    """True if *need_bytes* may be reserved now for somebody behind the first waiter.

    It takes nothing from the first if both fit as soon as the models being evicted are gone.
    """
    used = sum(each.total_bytes for each in residents)
    leaving = sum(each.total_bytes for each in residents if each.leaving)
    fits_now = used + need_bytes <= budget_bytes
    return need_bytes == 0 or (
        fits_now and used - leaving + first_bytes + need_bytes <= budget_bytes
    )


def refusal(
    who: str,
    need_bytes: int,
    budget_bytes: int,
    residents: Sequence[Resident],
    never: Never,
    *,
    fix: str,
) -> str:
    """Message: why it does not fit, in numbers, and what would have to go or change."""
    free = budget_bytes - sum(each.total_bytes for each in residents)
    numbers = (
        f"{who} needs {human_bytes(need_bytes)}; of the memory budget of "
        f"{human_bytes(budget_bytes)}, {human_bytes(max(0, free))} are free"
    )
    if not never.pinned:
        return f"{numbers}. It can never fit: {fix}."
    pinned = ", ".join(_named(residents, never))
    return f"{numbers}. It fits if these pinned models are unpinned: {pinned}."


def _named(residents: Sequence[Resident], never: Never) -> Iterator[str]:
    for each in residents:
        if each.id in never.pinned:
            yield f"{each.id} ({human_bytes(each.held_bytes)})"
