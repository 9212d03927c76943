"""All routes as one ASGI application."""

from litestar import Litestar
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ControllerRouterHandler

from service.api.compare_routes import create_comparison
from service.api.docs_page import docs_router
from service.api.errors import EXCEPTION_HANDLERS
from service.api.fields import FieldCheck
from service.api.openai_routes import create_chat_completion, create_completion
from service.api.ops_routes import health, livez, prometheus_metrics, ready
from service.api.records_routes import record_handlers
from service.api.registry_routes import get_model, list_models
from service.api.request_id import add_request_id
from service.api.services import Services
from service.api.tokenizer_routes import describe_tokenizer, detokenize, tokenize

ROUTES: list[ControllerRouterHandler] = [
    create_chat_completion,
    create_completion,
    create_comparison,
    list_models,
    get_model,
    tokenize,
    detokenize,
    describe_tokenizer,
    health,
    ready,
    livez,
    prometheus_metrics,
    docs_router,
    *record_handlers,
]


def create_api(services: Services) -> Litestar:
    """The application; who built the services starts and closes them."""
    provided: dict[str, object] = {
        "services": services,
        "fields": FieldCheck(),
        "store": services.store,
        "sink": services.sink,
    }
    return Litestar(
        route_handlers=ROUTES,
        dependencies={name: _constant(value) for name, value in provided.items()},
        exception_handlers=EXCEPTION_HANDLERS,
        before_send=[add_request_id],
        openapi_config=OpenAPIConfig(
            title="Triptych",
            version=services.version,
            description="Serve transformer, SSM and hybrid language models side by side, and "
            "measure what each request costs.",
            path="/schema",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        ),
        request_max_body_size=services.settings.max_body_bytes,
        logging_config=None,
    )


def _constant(value: object) -> Provide:
    def provide() -> object:
        return value

    return Provide(provide, sync_to_thread=False)
