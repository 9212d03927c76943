"""POST /v1/score: log-probability and bits per byte of given texts, by several models."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, SkipValidation
from litestar.types import ASGIApp

from service.api.openai.fields import FieldCheck
from service.api.openai.request import Caller, limits_of
from service.api.request_id import request_id_of
from service.api.score.schema import ScoreAnswer, ScoreBody, score_answer, scored_text
from service.api.services import Deps
from service.api.sse import (
    CLIENT_CLOSED_REQUEST,
    DONE,
    ClientDisconnected,
    EventStream,
    cancelled_on_disconnect,
)
from service.api.sse import data as event_data
from service.core.ids import new_score_id
from service.core.scores.score import Scores
from service.serving.scores.service import ScoreRequest, ScoreService, TextScored

STREAMED = "All scores; with `stream: true`, `text/event-stream` with each text's score first"


@post(
    "/v1/score",
    status_code=200,
    summary="Score texts by several models",
    responses={200: ResponseSpec(ScoreAnswer, description=STREAMED)},
    tags=["compare"],
)
async def create_score(
    data: JSONBody[ScoreBody],
    request: Request[Any, Any, Any],
    services: Deps,
    fields: NamedDependency[SkipValidation[FieldCheck]],
) -> ASGIApp:
    """Each window of a text has a record of its own; nothing is generated."""
    fields.check(await request.body(), ScoreBody.__struct_fields__)
    caller = Caller.now(request_id_of(request.scope), request.headers)
    asked = ScoreRequest(
        score_id=new_score_id(),
        models=tuple(data.models),
        texts=tuple(data.texts),
        window_tokens=data.window_tokens,
        client_request_id=caller.label,
        deadline_ns=caller.deadline_ns(
            data.timeout_s, limits_of(services.settings, services.routes)
        ),
    )
    if data.stream:
        return EventStream(
            _frames(services.scores, asked),
            headers=dict,
            keepalive_s=services.settings.keepalive_s,
        )
    try:
        async with cancelled_on_disconnect(request.receive):
            scores = await services.scores.score(asked)
    except ClientDisconnected:
        gone = Response(b"", status_code=CLIENT_CLOSED_REQUEST)
        return gone.to_asgi_response(None, request)
    return Response(score_answer(scores, int(time.time()))).to_asgi_response(None, request)


async def _frames(service: ScoreService, asked: ScoreRequest) -> AsyncGenerator[bytes]:
    async with aclosing(service.run(asked)) as events:
        async for event in events:
            if isinstance(event, TextScored):
                yield event_data(scored_text(event, asked.score_id))
            elif isinstance(event, Scores):
                yield event_data(score_answer(event, int(time.time())))
    yield DONE
