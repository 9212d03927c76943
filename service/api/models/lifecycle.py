"""Load, unload and pin models, and watch them come and go."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from litestar import Response, get, post
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ASGIApp
from msgspec import Struct

from service.api.models.cards import ModelCard
from service.api.models.routes import card_of
from service.api.services import Deps, Services
from service.api.sse import EventStream, data
from service.core.errors import InvalidRequest
from service.serving.models.events import ModelChange

EVENTS = "`text/event-stream`: how every model stands, then each change and the progress of loads"


class NamedModel(Struct, frozen=True, kw_only=True):
    """Which model, as llama.cpp's router is told."""

    model: str


class Done(Struct, frozen=True, kw_only=True):
    """It was begun, or was so already."""

    success: bool = True


@post("/v1/models/{model_id:str}/load", summary="Load a model", tags=["models"])
async def load_model(
    services: Deps,
    model_id: FromPath[str],
    wait: Annotated[bool, QueryParameter(description="Answer when it is loaded.")] = False,
) -> Response[ModelCard]:
    """202 at once, 200 where it is loaded already; with `wait`, 200 or the load's own error.

    The load makes room as a request's would, and goes on when the client leaves.
    """
    named = _model(services, model_id)
    if wait:
        await services.pool.load(named)
    else:
        services.pool.begin_load(named)
    card = card_of(services, named)
    return Response(card, status_code=200 if card.status.value == "loaded" else 202)


@post("/v1/models/{model_id:str}/unload", status_code=200, summary="Unload a model",
    tags=["models"],
)  # fmt: skip
async def unload_model(
    services: Deps,
    model_id: FromPath[str],
    force: Annotated[
        bool, QueryParameter(description="Do not wait for running requests: they fail.")
    ] = False,
) -> ModelCard:
    """Answered when its memory is free; running requests get `drain_s` to end.

    A request that comes later loads it again. A pinned model is unloaded too, and stays pinned.
    """
    named = _model(services, model_id)
    await services.pool.unload(named, drain_s=0.0 if force else services.settings.drain_s)
    return card_of(services, named)


@post("/v1/models/{model_id:str}/pin", status_code=200, summary="Keep a model loaded",
    tags=["models"],
)  # fmt: skip
async def pin_model(services: Deps, model_id: FromPath[str]) -> ModelCard:
    """Never unload it for others, nor for resting; it is loaded by `load` or its first request."""
    named = _model(services, model_id)
    services.pool.pin(named, pinned=True)
    return card_of(services, named)


@post("/v1/models/{model_id:str}/unpin", status_code=200, summary="No longer keep a model loaded",
    tags=["models"],
)  # fmt: skip
async def unpin_model(services: Deps, model_id: FromPath[str]) -> ModelCard:
    """It may be unloaded again when others need its memory."""
    named = _model(services, model_id)
    services.pool.pin(named, pinned=False)
    return card_of(services, named)


@post("/models/load", status_code=200, summary="Load a model, as llama.cpp's router does",
    tags=["models"],
)  # fmt: skip
async def load_named(data: JSONBody[NamedModel], services: Deps) -> Done:
    """For chat tools: answered at once."""
    services.pool.begin_load(_model(services, data.model))
    return Done()


@post("/models/unload", status_code=200, summary="Unload a model, as llama.cpp's router does",
    tags=["models"],
)  # fmt: skip
async def unload_named(data: JSONBody[NamedModel], services: Deps) -> Done:
    """For chat tools: answered when its memory is free."""
    named = _model(services, data.model)
    await services.pool.unload(named, drain_s=services.settings.drain_s)
    return Done()


@get(
    "/v1/models/events",
    summary="Watch models come and go",
    tags=["models"],
    responses={200: ResponseSpec(ModelChange, description=EVENTS)},
)
async def watch_models(services: Deps) -> ASGIApp:
    """A reader that is 256 events behind is told so, and its stream ends."""

    async def frames() -> AsyncGenerator[bytes]:
        async with aclosing(services.pool.changes()) as changes:
            async for change in changes:
                yield data(change)

    return EventStream(frames(), headers=dict, keepalive_s=services.settings.keepalive_s)


def _model(services: Services, model_id: str) -> str:
    if model_id in services.settings.routes:
        raise InvalidRequest(f"`{model_id}` is a route; name one of its models", param="model")
    return services.pool.status(model_id).id
