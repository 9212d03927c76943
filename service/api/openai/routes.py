"""Endpoints for chats and completions."""

import asyncio
from typing import Annotated, Any

from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, PathParameter, SkipValidation
from litestar.types import ASGIApp

from service.api.compare.chat import (
    check_fields,
    compare_headers,
    comparison_of,
    streamed_comparison,
    whole_comparison,
)
from service.api.openai.fields import FieldCheck
from service.api.openai.request import (
    Caller,
    Limits,
    chat_request,
    completion_requests,
    limits_of,
)
from service.api.openai.schema import (
    ChatCompletion,
    ChatCompletionBody,
    Completion,
    CompletionBody,
    StreamOptions,
)
from service.api.openai.stream import AnswerStream, ChatChunks, CompletionChunks
from service.api.openai.whole import (
    WholeText,
    chat_completion,
    collect,
    completion,
)
from service.api.request_id import request_id_of
from service.api.services import Deps, Services
from service.api.sse import (
    CLIENT_CLOSED_REQUEST,
    ClientDisconnected,
    EventStream,
    cancelled_on_disconnect,
)
from service.core.chat import ChatRequest
from service.core.routes.route import CompareRoute

ModelInPath = Annotated[str | None, PathParameter(description="Overrides the body's `model`.")]
Fields = NamedDependency[SkipValidation[FieldCheck]]
HttpRequest = Request[Any, Any, Any]

STREAMED = "The answer; with `stream: true`, its chunks as `text/event-stream`"


@post(
    ["/v1/chat/completions", "/m/{model:str}/v1/chat/completions"],
    status_code=200,
    summary="Answer a conversation",
    responses={200: ResponseSpec(ChatCompletion, description=STREAMED)},
    tags=["openai"],
)
async def create_chat_completion(
    data: JSONBody[ChatCompletionBody],
    request: HttpRequest,
    services: Deps,
    fields: Fields,
    model: ModelInPath = None,
) -> ASGIApp:
    """Stream the answer with `stream: true`, else send it whole."""
    fields.check(await request.body(), ChatCompletionBody.__struct_fields__)
    asked = chat_request(data, model, _caller(request), _limits(services))
    route = services.routes.get(asked.model)
    if isinstance(route, CompareRoute):
        return await _compare(data, asked, route, request, services)
    if asked.stream:
        return _stream(asked, ChatChunks, data, services)
    try:
        async with cancelled_on_disconnect(request.receive):
            whole = await collect(services.chat.open(asked))
    except ClientDisconnected:
        return _nobody(request)
    named = bool(data.return_token_ids)
    return _whole(request, chat_completion(asked, whole, token_ids=named), whole)


@post(
    ["/v1/completions", "/m/{model:str}/v1/completions"],
    status_code=200,
    summary="Complete a text",
    responses={200: ResponseSpec(Completion, description=STREAMED)},
    tags=["openai"],
)
async def create_completion(
    data: JSONBody[CompletionBody],
    request: HttpRequest,
    services: Deps,
    fields: Fields,
    model: ModelInPath = None,
) -> ASGIApp:
    """Stream with `stream: true`, else send whole; several prompts are answered concurrently."""
    fields.check(await request.body(), CompletionBody.__struct_fields__)
    asked = completion_requests(data, model, _caller(request), _limits(services))
    if asked[0].stream:
        return _stream(asked[0], CompletionChunks, data, services)
    try:
        async with cancelled_on_disconnect(request.receive):
            wholes = await _collect_all(asked, services)
    except ClientDisconnected:
        return _nobody(request)
    named = bool(data.return_token_ids)
    return _whole(request, completion(asked[0], wholes, token_ids=named), wholes[0])


async def _compare(
    body: ChatCompletionBody,
    asked: ChatRequest,
    route: CompareRoute,
    request: HttpRequest,
    services: Services,
) -> ASGIApp:
    """Answer with all arms of a compare route, in one message."""
    check_fields(body)
    comparison = comparison_of(asked, route)
    headers = compare_headers(comparison)
    if asked.stream:
        wanted = _stream_options(body, services)
        frames = streamed_comparison(services.compare, comparison, asked, wanted)
        keepalive_s = services.settings.keepalive_s
        return EventStream(frames, headers=lambda: headers, keepalive_s=keepalive_s)
    try:
        async with cancelled_on_disconnect(request.receive):
            content = await whole_comparison(services.compare, comparison, asked)
    except ClientDisconnected:
        return _nobody(request)
    return Response(content, headers=headers).to_asgi_response(None, request)


async def _collect_all(asked: tuple[ChatRequest, ...], services: Services) -> list[WholeText]:
    """Collect all answers; the first failure cancels the rest and is raised."""

    async def one(request: ChatRequest) -> WholeText:
        return await collect(services.chat.open(request))  # opened by the task that closes it

    tasks = [asyncio.create_task(one(each)) for each in asked]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _stream(
    asked: ChatRequest,
    chunks: type[ChatChunks] | type[CompletionChunks],
    body: ChatCompletionBody | CompletionBody,
    services: Services,
) -> ASGIApp:
    wanted = _stream_options(body, services)
    stream = AnswerStream(
        asked, services.chat.open, chunks, wanted, token_ids=bool(body.return_token_ids)
    )
    return EventStream(
        stream.frames(), headers=stream.headers, keepalive_s=services.settings.keepalive_s
    )


def _stream_options(body: ChatCompletionBody | CompletionBody, services: Services) -> StreamOptions:
    wanted = body.stream_options or StreamOptions()
    if not services.settings.always_include_usage:
        return wanted
    return StreamOptions(include_usage=True, continuous_usage_stats=wanted.continuous_usage_stats)


def _whole(request: HttpRequest, content: ChatCompletion | Completion, whole: WholeText) -> ASGIApp:
    response = Response(content, headers=whole.headers)
    return response.to_asgi_response(None, request)


def _nobody(request: HttpRequest) -> ASGIApp:
    return Response(b"", status_code=CLIENT_CLOSED_REQUEST).to_asgi_response(None, request)


def _caller(request: HttpRequest) -> Caller:
    return Caller.now(request_id_of(request.scope), request.headers)


def _limits(services: Services) -> Limits:
    return limits_of(services.settings, services.routes)
