"""Cheapest: the smallest predicted cost that meets the objectives; missing data is named."""

from collections.abc import Sequence

from msgspec import Struct

from service.core.routes.cheapest import CheapestRoute, Cost, Objectives
from service.core.routes.decision import Decision
from service.core.routes.facts import ArmFacts, RouteFacts
from service.serving.routes.eligibility import last_resort, sentence, unfit

_UNITS = {"latency": "ms", "memory": "bytes", "energy": "µJ"}


def decide(route: CheapestRoute, facts: RouteFacts) -> Decision:
    """Choose among the arms that can take the request; the others follow by their cost.

    An arm whose cost is unknown is chosen only to explore it, or where nothing is known of any.
    """
    troubles = {arm.model: unfit(arm, facts) for arm in facts.arms}
    fit = [arm for arm in facts.arms if troubles[arm.model] is None]
    if not fit:
        fit, how = [last_resort(facts)], "no arm can take it"
    else:
        fit, how = _ordered(route, fit, facts.draw)
    return Decision(
        arms=tuple(arm.model for arm in fit),
        policy=route.policy,
        reason=sentence(how, *_little_data(route, fit), left_out=troubles.items()),
    )


def _ordered(
    route: CheapestRoute, arms: Sequence[ArmFacts], draw: float
) -> tuple[list[ArmFacts], str]:
    """The arms in the order to try, and what decided."""
    offers = [Offer.of(arm, route.minimize) for arm in arms]
    known = sorted(
        (offer for offer in offers if offer.cost is not None),
        key=lambda offer: (offer.excess(route.objectives), offer.cost),
    )
    ordered = [offer.arm for offer in known] + [one.arm for one in offers if one.cost is None]
    little = [arm for arm in arms if _near(arm) < route.min_observations]
    if little and draw < route.explore:
        explored = min(little, key=_near)
        rest = [arm for arm in ordered if arm is not explored]
        return [explored, *rest], f"explored ({_near(explored)} observations near this length)"
    if not known:
        return ordered, f"no data on {route.minimize} of any arm: the first that fits"
    best = known[0]
    how = f"{best.cost:.4g} {_UNITS[route.minimize]} predicted"
    if len(known) > 1:
        others = ", ".join(f"{one.arm.model}: {one.cost:.4g}" for one in known[1:])
        how += f" (others {others})"
    if best.excess(route.objectives) > 0:
        how += "; no arm meets the objectives: the nearest to them"
    return ordered, how


def _little_data(route: CheapestRoute, arms: Sequence[ArmFacts]) -> list[str]:
    """Arms of which too little is known at this length, or not what is to be minimized."""
    notes = []
    for arm in arms:
        if arm.prediction is None:
            notes.append(f"{arm.model}: no data")
        elif _near(arm) < route.min_observations:
            notes.append(f"{arm.model}: {_near(arm)} observations near this length")
        elif Offer.of(arm, route.minimize).cost is None:
            notes.append(f"{arm.model}: {route.minimize} unknown")
    return notes


def _near(arm: ArmFacts) -> int:
    return arm.prediction.near if arm.prediction is not None else 0


class Offer(Struct, frozen=True, kw_only=True):
    """What a request would cost on an arm; None where unknown."""

    arm: ArmFacts
    cost: float | None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    memory_bytes: float | None = None

    @classmethod
    def of(cls, arm: ArmFacts, minimize: Cost) -> "Offer":
        """Sum up a prediction: e2e = wait + prefill + TPOT x (answer tokens - 1)."""
        predicted = arm.prediction
        if predicted is None:
            return cls(arm=arm, cost=None)
        ttft_ms = _sum(predicted.wait_ms, predicted.prefill_ms)
        decode_tokens = predicted.answer_tokens - 1
        decode_ms = None if predicted.tpot_ms is None else predicted.tpot_ms * decode_tokens
        e2e_ms = _sum(ttft_ms, decode_ms if decode_tokens else 0.0)
        memory_bytes = _sum(predicted.state_bytes, arm.load_bytes)
        costs = {"latency": e2e_ms, "memory": memory_bytes, "energy": predicted.energy_uj}
        return cls(
            arm=arm,
            cost=costs[minimize],
            ttft_ms=ttft_ms,
            tpot_ms=predicted.tpot_ms,
            e2e_ms=e2e_ms,
            memory_bytes=memory_bytes,
        )

    def excess(self, objectives: Objectives) -> float:
        """Largest share by which it misses an objective; 0 if it meets all, unknown misses all."""
        return max(
            (
                float("inf") if predicted is None else max(0.0, predicted / limit - 1)
                for name in Objectives.__struct_fields__
                if (limit := getattr(objectives, name)) is not None
                for predicted in (getattr(self, name),)
            ),
            default=0.0,
        )


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second
