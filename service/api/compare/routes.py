"""POST /v1/compare: one conversation, several models, side by side."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, SkipValidation
from litestar.types import ASGIApp
from msgspec import Struct

from service.api.compare.schema import (
    ArmAnswer,
    ArmDelta,
    ArmStarted,
    CompareArm,
    CompareBody,
    ComparisonAnswer,
)
from service.api.openai.fields import FieldCheck
from service.api.openai.prompt import messages
from service.api.openai.request import Caller, Limits, limits_of, sampling
from service.api.openai.schema import SamplingFields
from service.api.openai.usage import metrics, timings
from service.api.request_id import request_id_of
from service.api.services import Deps
from service.api.sse import (
    CLIENT_CLOSED_REQUEST,
    DONE,
    ClientDisconnected,
    EventStream,
    cancelled_on_disconnect,
)
from service.api.sse import (
    data as event_data,
)
from service.core.chat.sampling import Sampling
from service.core.errors import InvalidRequest
from service.core.events import Delta, Finished, Started
from service.core.ids import new_comparison_id
from service.core.metrics import milliseconds
from service.serving.requests.compare import (
    ArmEvent,
    ArmResult,
    Compared,
    ComparedArm,
    CompareService,
    ComparisonRequest,
)

Fields = NamedDependency[SkipValidation[FieldCheck]]

STREAMED = "The comparison; with `stream: true`, `text/event-stream` with each arm's events first"


@post(
    "/v1/compare",
    status_code=200,
    summary="Compare several models on one prompt",
    responses={200: ResponseSpec(ComparisonAnswer, description=STREAMED)},
    tags=["compare"],
)
async def create_comparison(
    data: JSONBody[CompareBody],
    request: Request[Any, Any, Any],
    services: Deps,
    fields: Fields,
) -> ASGIApp:
    """Each arm has a record of its own, with the comparison's id and the arm's number."""
    fields.check(await request.body(), CompareBody.__struct_fields__)
    caller = Caller.now(request_id_of(request.scope), request.headers)
    settings = services.settings
    limits = limits_of(settings, services.routes)
    comparison = comparison_request(data, caller, limits)
    if comparison.stream:
        return EventStream(
            _frames(services.compare, comparison),
            headers=lambda: {"x-comparison-id": comparison.comparison_id},
            keepalive_s=settings.keepalive_s,
        )
    try:
        async with cancelled_on_disconnect(request.receive):
            compared = await _compared(services.compare, comparison)
    except ClientDisconnected:
        gone = Response(b"", status_code=CLIENT_CLOSED_REQUEST)
        return gone.to_asgi_response(None, request)
    headers = {"x-comparison-id": comparison.comparison_id}
    return Response(comparison_answer(compared), headers=headers).to_asgi_response(None, request)


def comparison_request(body: CompareBody, caller: Caller, limits: Limits) -> ComparisonRequest:
    """A valid comparison."""
    return ComparisonRequest(
        comparison_id=new_comparison_id(),
        messages=messages(body.messages),
        arms=tuple(
            ComparedArm(model=_name(arm, index), sampling=_sampling(body, arm, limits))
            for index, arm in enumerate(body.arms)
        ),
        mode=body.mode or "isolated",
        order_seed=body.order_seed,
        stream=bool(body.stream),
        prefix_cache=bool(body.prefix_cache),
        cache_salt=body.cache_salt,
        client_request_id=caller.label,
        deadline_ns=caller.deadline_ns(body.timeout_s, limits),
    )


def _name(arm: CompareArm, index: int) -> str:
    if arm.variant and ":" in arm.model:
        raise InvalidRequest("`model` already names a variant", param=f"arms[{index}].variant")
    return f"{arm.model}:{arm.variant}" if arm.variant else arm.model


def _sampling(body: CompareBody, arm: CompareArm, limits: Limits) -> Sampling:
    """The arm's own fields, and the comparison's for those that it leaves out."""
    fields = {
        name: own if (own := getattr(arm, name)) is not None else getattr(body, name)
        for name in SamplingFields.__struct_fields__
    }
    if arm.max_tokens and not arm.max_completion_tokens:
        fields["max_completion_tokens"] = None  # the comparison's would win over the arm's own
    return sampling(SamplingFields(**fields), limits, logprobs=None)


async def _compared(service: CompareService, comparison: ComparisonRequest) -> Compared:
    async with aclosing(service.run(comparison)) as events:
        async for event in events:
            if isinstance(event, Compared):
                return event
    raise AssertionError("a comparison ends with its result")


async def _frames(service: CompareService, comparison: ComparisonRequest) -> AsyncGenerator[bytes]:
    async with aclosing(service.run(comparison)) as events:
        async for event in events:
            wire = _wire(event, comparison.comparison_id)
            if wire is not None:
                yield event_data(wire)
    yield DONE


def _wire(event: ArmEvent | ArmResult | Compared, comparison_id: str) -> Struct | None:
    match event:
        case ArmEvent():
            return _arm_event(event, comparison_id)
        case ArmResult():
            return arm_answer(event)
        case Compared():
            return comparison_answer(event)


def _arm_event(event: ArmEvent, comparison_id: str) -> Struct | None:
    match event.event:
        case Started() as started:
            return ArmStarted(
                id=comparison_id,
                arm=event.arm,
                model=event.model,
                prompt_tokens=started.prompt_tokens,
            )
        case Delta(text=text, token_ids=token_ids):
            tokens = None if token_ids is None else len(token_ids)
        case Finished(text=""):
            return None
        case Finished(text=text):
            tokens = 0
    return ArmDelta(id=comparison_id, arm=event.arm, model=event.model, text=text, tokens=tokens)


def arm_answer(result: ArmResult) -> ArmAnswer:
    """Convert the result of an arm to its wire type."""
    record, times = result.record, result.metrics
    answered = record if record is not None and result.error is None else None
    return ArmAnswer(
        arm=result.arm,
        model=result.model,
        status=record.status if record else "refused",
        text=result.text,
        finish_reason=record.finish_reason if record else None,
        request_id=record.request_id if record else None,
        metrics=metrics(answered, times) if answered and times else None,
        timings=timings(answered, times) if answered and times else None,
        build=record.build if record else None,
        error=result.error,
        difference=result.difference,
        waited_ms=milliseconds(result.waited_ns),
    )


def comparison_answer(compared: Compared) -> ComparisonAnswer:
    """Convert a completed comparison to its wire type."""
    return ComparisonAnswer(
        id=compared.comparison_id,
        created=int(time.time()),
        mode=compared.mode,
        order=list(compared.order),
        order_seed=compared.order_seed,
        arms=[arm_answer(arm) for arm in compared.arms],
        caveats=list(compared.caveats),
    )
