"""Facts of a request and of its route's arms, gathered for a decision."""

import hashlib
from collections.abc import Mapping
from typing import assert_never

from msgspec import Struct

from service.core.chat import ChatPrompt, ChatRequest, Prompt, TextPrompt, TokenPrompt
from service.core.model_status import ModelStatus
from service.core.routes.by_context import Threshold
from service.core.routes.curves import AskedCost, MeasuredCurves
from service.core.routes.facts import ArmFacts, Prediction, RouteFacts
from service.core.routes.route import CheapestRoute, Route

#: UTF-8 bytes per token of English text, until a model's own ratio is measured; larger
#: vocabularies reach 4 to 5.
BYTES_PER_TOKEN = 4

#: Length of an answer that nobody limited and nothing is known of.
UNKNOWN_ANSWER_TOKENS = 128


class Surroundings(Struct, frozen=True, kw_only=True):
    """What a decision depends on beside the request and its route."""

    models: Mapping[str, ModelStatus]
    resting: Mapping[str, str]
    """Error codes of models that failed lately."""
    curves: MeasuredCurves
    thresholds: tuple[Threshold, ...] = ()
    """Of an experiment, for a route that names one."""
    random: float
    """In [0, 1)."""


def gather(request: ChatRequest, route: Route, around: Surroundings) -> RouteFacts:
    """Everything that the route's policy may decide by."""
    answer_tokens = _answer_tokens(request, route, around.curves)
    return RouteFacts(
        prompt_bytes=prompt_bytes(request.prompt),
        tokens_by="token_ids" if isinstance(request.prompt, TokenPrompt) else "bytes",
        max_tokens=request.sampling.max_tokens,
        key=hashed_key(request.model, request.sticky_key),
        draw=around.random,
        arms=tuple(
            _arm(around.models[model], request, route, around, answer_tokens)
            for model in route.models
        ),
        thresholds=around.thresholds,
    )


def hashed_key(route: str, key: str | None) -> str | None:
    """A client's key as records keep it: other routes have other hashes of the same key."""
    if key is None:
        return None
    return hashlib.blake2b(f"{route}\0{key}".encode(), digest_size=8).hexdigest()


def prompt_bytes(prompt: Prompt) -> int | None:
    """UTF-8 bytes of a prompt's text; None for token ids."""
    match prompt:
        case TokenPrompt():
            return None
        case TextPrompt(text):
            return len(text.encode())
        case ChatPrompt(messages):
            return sum(len(message.content.encode()) for message in messages)
        case _:
            assert_never(prompt)


def _arm(
    status: ModelStatus,
    request: ChatRequest,
    route: Route,
    around: Surroundings,
    answer_tokens: int | None,
) -> ArmFacts:
    tokens = estimated_tokens(request.prompt, status.id, around.curves)
    prediction = (
        _prediction(status, tokens, answer_tokens, around.curves)
        if isinstance(route, CheapestRoute)
        else None
    )
    return ArmFacts(
        model=status.id,
        context_tokens=status.spec.context_tokens,
        prompt_tokens=tokens,
        down=_down(status, around.resting),
        loaded=status.loaded,
        requests=status.requests,
        requests_limit=status.requests_limit,
        load_bytes=0 if status.loaded else status.measured_bytes or status.predicted_bytes,
        prediction=prediction,
    )


def estimated_tokens(prompt: Prompt, model: str, curves: MeasuredCurves) -> int:
    """Likely token count of a prompt, estimated without a tokenizer."""
    if isinstance(prompt, TokenPrompt):
        return len(prompt.token_ids)
    text_bytes = prompt_bytes(prompt) or 0
    measured = curves.prompt_tokens(model, text_bytes)
    return text_bytes // BYTES_PER_TOKEN if measured is None else measured


def _down(model: ModelStatus, resting: Mapping[str, str]) -> str | None:
    """Reason why a model cannot answer any request now; None if it can."""
    if not model.servable:
        return "not on this machine"
    if model.state == "failed" and model.retry_after_s is not None:
        return "failed to load"
    if model.error is not None and model.state != "failed":
        return "cannot answer now"
    return f"failed lately ({resting[model.id]})" if model.id in resting else None


def _answer_tokens(request: ChatRequest, route: Route, curves: MeasuredCurves) -> int | None:
    """Tokens to expect of the answer, the same for all arms; only `cheapest` predicts by it."""
    if not isinstance(route, CheapestRoute):
        return None
    typical = curves.answer_tokens(route.models)
    most = request.sampling.max_tokens
    if typical is None:
        return most or UNKNOWN_ANSWER_TOKENS
    return typical if most is None else min(typical, most)


def _prediction(
    status: ModelStatus, prompt_tokens: int, answer_tokens: int | None, curves: MeasuredCurves
) -> Prediction | None:
    """Predict the cost of the request, and its wait by the present queue."""
    asked = AskedCost(
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens or 1,
        others=status.requests,
        slots=status.memory.slots_total if status.memory is not None else None,
        load_ns=0 if status.loaded else status.load_ns,
    )
    return curves.predict(status.id, asked)
