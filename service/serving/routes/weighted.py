"""Weighted: an arm drawn by weight, or the one that the client's key belongs to."""

import hashlib
import math
from collections.abc import Sequence

from service.core.routes.decision import Decision
from service.core.routes.facts import RouteFacts
from service.core.routes.policy import Arm
from service.core.routes.weighted import WeightedRoute
from service.serving.routes.eligibility import sentence


def decide(route: WeightedRoute, facts: RouteFacts) -> Decision:
    """Choose an arm among those that can answer; among all if none can."""
    down = {arm.model: arm.down for arm in facts.arms}
    able = [arm for arm in route.arms if down[arm.model] is None] or route.arms
    if facts.key is None:
        model, how = drawn(able, facts.draw), "drawn at random"
    else:
        model, how = kept(able, facts.key), "sticky"
    return Decision(arms=(model,), policy=route.policy, reason=sentence(how, left_out=down.items()))


def drawn(arms: Sequence[Arm], random: float) -> str:
    """The model whose share of [0, 1) has this random number."""
    mark = random * sum(arm.weight for arm in arms)
    for arm in arms:
        mark -= arm.weight
        if mark < 0:
            return arm.model
    return arms[-1].model


def kept(arms: Sequence[Arm], key: str) -> str:
    """The model of a client's key: changing one arm moves only the keys that it gains or loses."""
    return max(arms, key=lambda arm: _score(key, arm)).model


def _score(key: str, arm: Arm) -> float:
    """Weighted rendezvous hashing.

    Ref: Schindelhauer and Schomaker, Weighted Distributed Hash Tables, SPAA 2005 (logarithmic
    method): the arm with the largest -weight / ln(u) wins.
    """
    digest = hashlib.blake2b(f"{key}\0{arm.model}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest) + 1) / (2**64 + 2)
    return -arm.weight / math.log(uniform)
