"""Router: a pure function from request, routes and models' states to the models to try."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, assert_never

from msgspec import Struct

from service.core.chat import ChatPrompt, ChatRequest, Prompt, TextPrompt, TokenPrompt
from service.core.errors import ModelNotFound
from service.core.model_status import ModelStatus
from service.core.routes.route import Arm, FallbackRoute, Route, WeightedRoute

_NONE: Mapping[str, str] = MappingProxyType({})

Policy = Literal["direct", "weighted", "fallback"]

#: UTF-8 bytes per token of English text; larger vocabularies reach 4 to 5.
BYTES_PER_TOKEN = 4


class Decision(Struct, frozen=True, kw_only=True):
    """The models to try, and the reason."""

    arms: tuple[str, ...]
    """Models in the order to try; never empty."""
    policy: Policy
    reason: str


def choose(
    request: ChatRequest,
    routes: Mapping[str, Route],
    models: Mapping[str, ModelStatus],
    *,
    random: float,
    resting: Mapping[str, str] = _NONE,
) -> Decision:
    """Decide which models to try for a request, in order.

    *random* in [0, 1) decides where a weighted route has no sticky key; *resting* has the error
    codes of models that failed lately. Raises ModelNotFound.
    """
    route = routes.get(request.model)
    if route is None:
        if request.model not in models:
            raise ModelNotFound(
                f"The model `{request.model}` does not exist; see GET /v1/models.", param="model"
            )
        return Decision(arms=(request.model,), policy="direct", reason="named by the request")
    match route:
        case WeightedRoute():
            troubles = {arm.model: _down(models[arm.model], resting) for arm in route.arms}
            return _weighted(request, route.arms, troubles, random)
        case FallbackRoute():
            return _fallback(request, route.arms, models, resting)
        case _:
            assert_never(route)


def _weighted(
    request: ChatRequest, arms: Sequence[Arm], troubles: Mapping[str, str | None], random: float
) -> Decision:
    """Choose an arm among those that can answer; among all if none can."""
    able = [arm for arm in arms if troubles[arm.model] is None] or arms
    left_out = [f"{model}: {why}" for model, why in troubles.items() if why is not None]
    if request.sticky_key is None:
        model, how = _drawn(able, random), "drawn at random"
    else:
        key = request.sticky_key
        model, how = max(able, key=lambda arm: _score(key, arm)).model, "sticky"
    return Decision(arms=(model,), policy="weighted", reason="; ".join((how, *left_out)))


def _drawn(arms: Sequence[Arm], random: float) -> str:
    mark = random * sum(arm.weight for arm in arms)
    for arm in arms:
        mark -= arm.weight
        if mark < 0:
            return arm.model
    return arms[-1].model


def _score(key: str, arm: Arm) -> float:
    """Weighted rendezvous hashing: changing one arm moves only the keys that it gains or loses.

    Ref: Schindelhauer and Schomaker, Weighted Distributed Hash Tables, SPAA 2005 (logarithmic
    method): the arm with the largest -weight / ln(u) wins.
    """
    digest = hashlib.blake2b(f"{key}\0{arm.model}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest) + 1) / (2**64 + 2)
    return -arm.weight / math.log(uniform)


def _fallback(
    request: ChatRequest,
    arms: Sequence[Arm],
    models: Mapping[str, ModelStatus],
    resting: Mapping[str, str],
) -> Decision:
    """Arms in their order, those that would probably refuse moved behind the others."""
    troubles = {
        arm.model: _down(models[arm.model], resting) or _too_much(request, models[arm.model])
        for arm in arms
    }
    fit = tuple(model for model, trouble in troubles.items() if trouble is None)
    unfit = tuple(model for model, trouble in troubles.items() if trouble is not None)
    passed_over = troubles if not fit else _before(troubles, fit[0])
    reason = "; ".join(f"{model}: {why}" for model, why in passed_over.items() if why)
    return Decision(arms=fit + unfit, policy="fallback", reason=reason or "first arm")


def _before(troubles: Mapping[str, str | None], model: str) -> dict[str, str | None]:
    names = list(troubles)
    return {name: troubles[name] for name in names[: names.index(model)]}


def _down(model: ModelStatus, resting: Mapping[str, str]) -> str | None:
    """Reason why a model cannot answer any request now; None if it can."""
    if not model.servable:
        return "not on this machine"
    if model.state == "failed" and model.retry_after_s is not None:
        return "failed to load"
    if model.error is not None and model.state != "failed":
        return "cannot answer now"
    return f"failed lately ({resting[model.id]})" if model.id in resting else None


def _too_much(request: ChatRequest, model: ModelStatus) -> str | None:
    """Reason why a model would probably refuse this request; None if it would not."""
    if model.requests >= model.requests_limit:
        return "queue full"
    wanted_tokens = estimated_tokens(request.prompt) + (request.sampling.max_tokens or 1)
    if wanted_tokens > model.spec.context_tokens:
        return "context too small"
    return None


def estimated_tokens(prompt: Prompt) -> int:
    """Likely token count of a prompt, estimated without a tokenizer."""
    match prompt:
        case TokenPrompt(token_ids):
            return len(token_ids)
        case TextPrompt(text):
            return len(text.encode()) // BYTES_PER_TOKEN
        case ChatPrompt(messages):
            return sum(len(message.content.encode()) for message in messages) // BYTES_PER_TOKEN
        case _:
            assert_never(prompt)
