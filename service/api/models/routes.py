"""Which models there are; answered from memory, also while one is loading."""

import time
from typing import Annotated

from litestar import get
from litestar.params import FromPath, QueryParameter

from service.api.models.cards import ModelCard, ModelList, model_card, route_card
from service.api.services import Deps, Services

#: When this process began: the models have no birthday that clients could use.
_CREATED = int(time.time())


@get(["/v1/models", "/models", "/m/{model:str}/v1/models"], summary="All models", tags=["openai"])
async def list_models(
    services: Deps,
    everything: Annotated[
        bool,
        QueryParameter(name="all", description="Also those whose files are not on this machine."),
    ] = False,
) -> ModelList:
    """Models, variants and routes that can be asked for here."""
    models = services.pool.snapshot()
    routes = services.settings.routes
    return ModelList(
        data=[
            *(route_card(name, route, models, _CREATED) for name, route in routes.items()),
            *(
                model_card(status, _CREATED)
                for status in models.values()
                if status.servable or everything
            ),
        ]
    )


@get("/v1/models/{model_id:str}", summary="One model", tags=["openai"])
async def get_model(services: Deps, model_id: FromPath[str]) -> ModelCard:
    """A model, `model:variant` or a route, whether its files are here or not."""
    return card_of(services, model_id)


@get("/v1/models/{owner:str}/{name:str}", include_in_schema=False)
async def get_owned_model(services: Deps, owner: FromPath[str], name: FromPath[str]) -> ModelCard:
    """An id as on model hubs, which no model has here: the error names it."""
    return card_of(services, f"{owner}/{name}")


def card_of(services: Services, name: str) -> ModelCard:
    """The card of a model, `model:variant` or route. Raises ModelNotFound."""
    if route := services.settings.routes.get(name):
        return route_card(name, route, services.pool.statuses, _CREATED)
    return model_card(services.pool.status(name), _CREATED)
