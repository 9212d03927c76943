"""The ASGI application: every route, its dependencies and error handlers."""

from functools import partial

from litestar import Litestar
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.types import ASGIApp, ControllerRouterHandler

from service.api.body import JsonRequest
from service.api.compare.routes import create_comparison
from service.api.docs.document import Description
from service.api.docs.page import docs_router, openapi_document
from service.api.edge import Edge
from service.api.errors import EXCEPTION_HANDLERS
from service.api.experiments.routes import experiment_handlers
from service.api.models.lifecycle import (
    load_model,
    load_named,
    pin_model,
    unload_model,
    unload_named,
    unpin_model,
    watch_models,
)
from service.api.models.routes import get_model, get_owned_model, list_models
from service.api.openai.fields import FieldCheck
from service.api.openai.routes import create_chat_completion, create_completion
from service.api.operations import (
    decoding,
    health,
    livez,
    prometheus_metrics,
    ready,
    show_limits,
    show_memory,
    show_runtime,
)
from service.api.records import record_handlers
from service.api.replays.routes import replay_handlers
from service.api.request_id import add_request_id
from service.api.routes.endpoints import route_handlers
from service.api.score.routes import create_score
from service.api.services import Services
from service.api.tokenizer import describe_tokenizer, detokenize, tokenize
from service.api.votes.routes import vote_handlers

ROUTES: list[ControllerRouterHandler] = [
    create_chat_completion,
    create_completion,
    create_comparison,
    create_score,
    list_models,
    get_model,
    get_owned_model,
    load_model,
    unload_model,
    pin_model,
    unpin_model,
    load_named,
    unload_named,
    watch_models,
    tokenize,
    detokenize,
    describe_tokenizer,
    health,
    decoding,
    ready,
    livez,
    prometheus_metrics,
    show_runtime,
    show_limits,
    show_memory,
    docs_router,
    openapi_document,
    *record_handlers,
    vote_handlers,
    *experiment_handlers,
    *replay_handlers,
    *route_handlers,
]


def create_api(services: Services) -> ASGIApp:
    """Build the application; the caller starts and closes the services."""
    settings, pool = services.settings, services.pool
    routed = Litestar(
        route_handlers=ROUTES,
        dependencies={
            "services": _constant(services),
            "fields": _constant(FieldCheck()),
            "description": _constant(Description(partial(describe, services.version))),
            "reports": _constant(services.reports),
            "votes": _constant(services.votes),
        },
        exception_handlers=EXCEPTION_HANDLERS,
        request_class=JsonRequest,
        before_send=[add_request_id],
        openapi_config=None,  # its own pages would bring other error bodies; see `describe`
        request_max_body_size=settings.max_body_bytes,
        logging_config=None,
    )
    return Edge(routed, body_s=settings.http.body_s, draining=lambda: pool.draining)


def describe(version: str) -> dict[str, object]:
    """Build the OpenAPI document of all routes."""
    names = ("services", "fields", "description", "reports", "votes")
    api = Litestar(
        route_handlers=ROUTES,
        dependencies={name: _constant(None) for name in names},
        openapi_config=OpenAPIConfig(
            title="Triptych",
            version=version,
            description="Serve transformer, SSM and hybrid language models side by side, and "
            "measure what each request costs.",
            path="/pages-of-the-framework",  # never served; its default is taken by our own route
        ),
        logging_config=None,
    )
    return api.openapi_schema.to_schema()


def _constant(value: object) -> Provide:
    def provide() -> object:
        return value

    return Provide(provide, sync_to_thread=False)
