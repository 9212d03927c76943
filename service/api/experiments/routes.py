"""/v1/experiments: plans are created, watched, read and cancelled."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

from litestar import Request, Response, Router, delete, get, post
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.types import ASGIApp

from service.api.experiments.schema import ExperimentAnswer, ExperimentPage, TrialList
from service.api.records import filter_of
from service.api.services import Deps, Services
from service.api.sse import DONE, EventStream
from service.api.sse import data as event_data
from service.core.errors import InvalidRequest
from service.core.experiments.plan import Plan, RecordPrompts
from service.core.experiments.progress import Progress
from service.serving.experiments.reporting import ReportFormat

MEDIA_TYPES: Final[dict[ReportFormat, str]] = {
    "json": "application/json",
    "md": "text/markdown",
    "html": "text/html",
}
#: Beside the page's own policy, which cannot say this.
PAGE_POLICY: Final = "frame-ancestors 'none'"
EVENTS = "`text/event-stream`: the progress now, then each change, until it has ended"


@post("/", status_code=201, summary="Create an experiment")
async def create_experiment(data: JSONBody[Plan], services: Deps) -> ExperimentAnswer:
    """Check the plan and queue it; one experiment runs at a time."""
    where = None
    if isinstance(data.prompts, RecordPrompts):
        where = filter_of(data.prompts.filter, inside="prompts.filter")
    created = await services.experiments.create(data, where)
    return ExperimentAnswer.of(*await services.experiments.get(created.id))


@get("/", summary="A page of experiments, newest first")
async def list_experiments(
    services: Deps,
    request: Request[Any, Any, Any],
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
    cursor: FromQuery[str | None] = None,
) -> ExperimentPage:
    """`next_cursor` continues the page."""
    for name in request.query_params:
        if name not in ("limit", "cursor"):
            raise InvalidRequest(f"Unknown query parameter {name!r}.", param=name)
    found = await services.experiments.page(limit=limit + 1, before=cursor)
    more = len(found) > limit
    shown = [ExperimentAnswer.of(*each) for each in found[:limit]]
    return ExperimentPage(data=shown, next_cursor=shown[-1].id if more else None)


@get("/{experiment_id:str}", summary="One experiment")
async def get_experiment(services: Deps, experiment_id: FromPath[str]) -> ExperimentAnswer:
    """Its plan, and how far it is."""
    return ExperimentAnswer.of(*await services.experiments.get(experiment_id))


@delete("/{experiment_id:str}", status_code=200, summary="Cancel an experiment")
async def cancel_experiment(services: Deps, experiment_id: FromPath[str]) -> ExperimentAnswer:
    """End it now; what it has measured stays. One that has ended stays as it is."""
    return ExperimentAnswer.of(*await services.experiments.cancel(experiment_id))


@get("/{experiment_id:str}/trials", summary="Trials of an experiment")
async def list_trials(services: Deps, experiment_id: FromPath[str]) -> TrialList:
    """Those that have ended, in the order of the run, warm-ups included."""
    return TrialList(data=await services.experiments.trials(experiment_id))


@get(
    "/{experiment_id:str}/events",
    summary="Stream the progress of an experiment",
    responses={200: ResponseSpec(Progress, description=EVENTS)},
)
async def watch_experiment(services: Deps, experiment_id: FromPath[str]) -> ASGIApp:
    """Ends with `[DONE]`; a reader that falls 256 events behind is disconnected."""

    async def frames() -> AsyncGenerator[bytes]:
        async with aclosing(services.experiments.events(experiment_id)) as events:
            async for progress in events:
                yield event_data(progress)
        yield DONE

    return EventStream(frames(), headers=dict, keepalive_s=services.settings.keepalive_s)


@get("/{experiment_id:str}/report.json", summary="Report as JSON", media_type="application/json")
async def report_json(services: Deps, experiment_id: FromPath[str]) -> Response[bytes]:
    """Medians, curves, crossovers and verdicts, of what has ended so far."""
    return await _report(services, experiment_id, "json")


@get("/{experiment_id:str}/report.md", summary="Report as Markdown", media_type="text/markdown")
async def report_markdown(services: Deps, experiment_id: FromPath[str]) -> Response[bytes]:
    """The answers first, then how far to trust them."""
    return await _report(services, experiment_id, "md")


@get("/{experiment_id:str}/report.html", summary="Report as a page", media_type="text/html")
async def report_html(services: Deps, experiment_id: FromPath[str]) -> Response[bytes]:
    """One page with figures that loads nothing else."""
    return await _report(services, experiment_id, "html")


async def _report(services: Services, experiment_id: str, form: ReportFormat) -> Response[bytes]:
    content = await services.experiments.report(experiment_id, form)
    headers = {"content-security-policy": PAGE_POLICY} if form == "html" else {}
    return Response(content, media_type=MEDIA_TYPES[form], headers=headers)


experiment_handlers: list[Router] = [
    Router(
        "/v1/experiments",
        route_handlers=[
            create_experiment,
            list_experiments,
            get_experiment,
            cancel_experiment,
            list_trials,
            watch_experiment,
            report_json,
            report_markdown,
            report_html,
        ],
        tags=["experiments"],
    )
]
