"""Endpoints that load, unload and pin models, and stream their changes."""

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

EVENTS = "`text/event-stream`: the state of every model, then each change and the progress of loads"


class NamedModel(Struct, frozen=True, kw_only=True):
    """Name of a model, as llama.cpp's router takes it."""

    model: str


class Done(Struct, frozen=True, kw_only=True):
    """Confirmation of llama.cpp's router."""

    success: bool = True


@post("/v1/models/{model_id:str}/load", summary="Load a model", tags=["models"])
async def load_model(
    services: Deps,
    model_id: FromPath[str],
    wait: Annotated[bool, QueryParameter(description="Respond only once it is loaded.")] = False,
) -> Response[ModelCard]:
    """Answer 202 at once, or 200 if it is loaded; with `wait`, 200 or the load's own error.

    The load makes room as one for a request does, and continues when the client disconnects.
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
        bool, QueryParameter(description="Fail running requests instead of waiting for them.")
    ] = False,
) -> ModelCard:
    """Answer once its memory is free; running requests get `drain_s` to end.

    A later request loads it again. A pinned model is unloaded too, and stays pinned.
    """
    named = _model(services, model_id)
    await services.pool.unload(named, drain_s=0.0 if force else services.settings.drain_s)
    return card_of(services, named)


@post("/v1/models/{model_id:str}/pin", status_code=200, summary="Keep a model loaded",
    tags=["models"],
)  # fmt: skip
async def pin_model(services: Deps, model_id: FromPath[str]) -> ModelCard:
    """Never evict it, nor unload it when idle. It is loaded by `load` or its first request."""
    named = _model(services, model_id)
    services.pool.pin(named, pinned=True)
    return card_of(services, named)


@post("/v1/models/{model_id:str}/unpin", status_code=200, summary="Unpin a model",
    tags=["models"],
)  # fmt: skip
async def unpin_model(services: Deps, model_id: FromPath[str]) -> ModelCard:
    """Allow its eviction again."""
    named = _model(services, model_id)
    services.pool.pin(named, pinned=False)
    return card_of(services, named)


@post("/models/load", status_code=200, summary="Load a model, as llama.cpp's router does",
    tags=["models"],
)  # fmt: skip
async def load_named(data: JSONBody[NamedModel], services: Deps) -> Done:
    """Answer at once, for chat tools."""
    services.pool.begin_load(_model(services, data.model))
    return Done()


@post("/models/unload", status_code=200, summary="Unload a model, as llama.cpp's router does",
    tags=["models"],
)  # fmt: skip
async def unload_named(data: JSONBody[NamedModel], services: Deps) -> Done:
    """Answer once its memory is free, for chat tools."""
    named = _model(services, data.model)
    await services.pool.unload(named, drain_s=services.settings.drain_s)
    return Done()


@get(
    "/v1/models/events",
    summary="Stream model events",
    tags=["models"],
    responses={200: ResponseSpec(ModelChange, description=EVENTS)},
)
async def watch_models(services: Deps) -> ASGIApp:
    """Stream events; a reader that falls 256 events behind gets an error and is disconnected."""

    async def frames() -> AsyncGenerator[bytes]:
        async with aclosing(services.pool.changes()) as changes:
            async for change in changes:
                yield data(change)

    return EventStream(frames(), headers=dict, keepalive_s=services.settings.keepalive_s)


def _model(services: Services, model_id: str) -> str:
    if model_id in services.routes:
        raise InvalidRequest(f"`{model_id}` is a route; name one of its models.", param="model")
    return services.pool.status(model_id).id
