"""Endpoints that list models; answered from memory, also during a load."""

import time
from typing import Annotated

from litestar import get
from litestar.params import FromPath, QueryParameter

from service.api.models.cards import ModelCard, ModelList, model_card, route_card
from service.api.services import Deps, Services

#: Start of this process; clients expect a creation time, which models do not have.
_CREATED = int(time.time())

ALL = "Include models and routes that cannot answer here; `status.error` has the reason."


@get(["/v1/models", "/models", "/m/{model:str}/v1/models"], summary="List models", tags=["openai"])
async def list_models(
    services: Deps,
    all: Annotated[bool, QueryParameter(description=ALL)] = False,  # noqa: A002 - errors name it
) -> ModelList:
    """List the models, variants and routes that can answer on this machine."""
    models = services.pool.snapshot()
    routes = services.routes
    return ModelList(
        data=[
            *(
                route_card(name, route, models, _CREATED)
                for name, route in routes.items()
                if all or any(models[model].servable for model in route.models)
            ),
            *(model_card(status, _CREATED) for status in models.values() if status.servable or all),
        ]
    )


@get("/v1/models/{model_id:str}", summary="Show a model", tags=["openai"])
async def get_model(services: Deps, model_id: FromPath[str]) -> ModelCard:
    """Show a model, `model:variant` or route, whether it can be served here or not."""
    return card_of(services, model_id)


@get("/v1/models/{owner:str}/{name:str}", include_in_schema=False)
async def get_owned_model(services: Deps, owner: FromPath[str], name: FromPath[str]) -> ModelCard:
    """Answer 404 in OpenAI's shape for ids with an owner, as on model hubs."""
    return card_of(services, f"{owner}/{name}")


def card_of(services: Services, name: str) -> ModelCard:
    """Return the card of a model, `model:variant` or route. Raises ModelNotFound."""
    if route := services.routes.get(name):
        return route_card(name, route, services.pool.statuses, _CREATED)
    return model_card(services.pool.status(name), _CREATED)
