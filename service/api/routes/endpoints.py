"""Endpoints that list, create, change, delete and explain routes."""

from typing import Any

from litestar import Request, Router, delete, get, post, put
from litestar.params import FromPath, JSONBody
from litestar.types import ControllerRouterHandler

from service.api.records import Instant, ReportsOfService, instant_ns
from service.api.routes.schema import NewRoute, RouteList, RouteView
from service.api.services import Deps
from service.core.errors import InvalidRequest
from service.core.routes.route import Route
from service.serving.routes.reports.explain import Explanation, explain
from service.serving.routes.reports.statistics import RouteStatistics


@get("/", summary="List routes")
async def list_routes(services: Deps) -> RouteList:
    """Routes of the configuration and those created here, with their definitions."""
    return RouteList(data=[RouteView.of(entry) for entry in services.routes.entries()])


@post("/", summary="Create a route", status_code=201)
async def create_route(data: JSONBody[NewRoute], services: Deps) -> RouteView:
    """Any client can name it as `model` from now on; it outlives restarts.

    404 for a model that the catalogue does not have, 409 for an id in use.
    """
    return RouteView.of(await services.routes.create(data.id, data.route))


@get("/{route_id:str}", summary="Show a route")
async def get_route(services: Deps, route_id: FromPath[str]) -> RouteView:
    """Its definition and origin."""
    return RouteView.of(services.routes.entry(route_id))


@put("/{route_id:str}", summary="Change a route")
async def replace_route(
    data: JSONBody[Route], services: Deps, route_id: FromPath[str]
) -> RouteView:
    """The body is the new definition. Requests that run keep their arms.

    409 for a route of the configuration.
    """
    return RouteView.of(await services.routes.replace(route_id, data))


@delete("/{route_id:str}", summary="Delete a route")
async def delete_route(services: Deps, route_id: FromPath[str]) -> None:
    """Requests that run keep their arms. 409 for a route of the configuration."""
    await services.routes.delete(route_id)


@get("/{route_id:str}/stats", summary="Statistics of a route's arms")
async def route_statistics(
    request: Request[Any, Any, Any],
    services: Deps,
    route_id: FromPath[str],
    since: Instant = None,
    until: Instant = None,
) -> RouteStatistics:
    """Per arm: requests, errors, tokens, bytes and percentiles of TTFT, TPOT and end-to-end time.

    Of a weighted route also comparisons of its arms, which may be looked at as often as one likes.
    """
    for name in request.query_params:
        if name not in ("since", "until"):  # statistics of another period would be the answer
            raise InvalidRequest(f"Unknown query parameter {name!r}.", param=name)
    return await services.route_reports.statistics(
        route_id,
        services.routes.entry(route_id).route,
        since_ns=instant_ns("since", since),
        until_ns=instant_ns("until", until),
    )


@get("/v1/records/{request_id:str}/route", summary="Explain a route's decision", tags=["records"])
async def explain_request(reports: ReportsOfService, request_id: FromPath[str]) -> Explanation:
    """What the route of a request decided and by which facts, and the same computed again."""
    return explain(await reports.record(request_id))


#: Needs the dependencies `services` and `reports`.
route_handlers: list[ControllerRouterHandler] = [
    Router(
        "/v1/routes",
        route_handlers=[
            list_routes,
            create_route,
            get_route,
            replace_route,
            delete_route,
            route_statistics,
        ],
        tags=["routes"],
    ),
    explain_request,
]
