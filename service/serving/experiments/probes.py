"""Probes of an experiment: one item of each kind and level for each repetition."""

from msgspec import Struct

from service.core.errors import InvalidRequest
from service.core.experiments.plan import Plan
from service.core.experiments.schedule import ProbeSlot
from service.core.probes import ProbeItem, probe_items


class PlannedProbe(Struct, frozen=True, kw_only=True):
    """An item, and its place in the schedule."""

    item: ProbeItem
    slot: ProbeSlot


def planned_probes(plan: Plan) -> dict[str, PlannedProbe]:
    """All probes of a plan by their prompt id; none unless it measures them.

    Raises InvalidRequest naming a level that a kind does not have.
    """
    if "probes" not in plan.measures:
        return {}
    found: dict[str, PlannedProbe] = {}
    for kind in dict.fromkeys(plan.probes.kinds):
        try:
            items = probe_items(
                kind,
                plan.seed,
                plan.probes.levels.get(kind),
                plan.repetitions,
                context_words=plan.probes.context_words,
            )
        except InvalidRequest as error:
            where = f"probes.levels.{kind}"
            raise InvalidRequest(f"`{where}`: {error}.", param=where) from error
        for number, item in enumerate(items):
            repetition = number % plan.repetitions  # items of a level follow each other
            id_ = f"{kind}-{item.level}-{repetition + 1}"
            slot = ProbeSlot(prompt_id=id_, probe=kind, level=item.level, repetition=repetition)
            found[id_] = PlannedProbe(item=item, slot=slot)
    return found
