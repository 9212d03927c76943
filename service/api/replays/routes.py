"""/v1/replays: recorded conversations are asked again, and paired with the recorded answers."""

from litestar import Router, get, post
from litestar.params import FromPath, JSONBody

from service.api.records import filter_of
from service.api.replays.schema import PairList, ReplayAnswer, ReplayBody
from service.api.services import Deps


@post("/", status_code=201, summary="Replay recorded conversations")
async def create_replay(data: JSONBody[ReplayBody], services: Deps) -> ReplayAnswer:
    """Needs `store_content = "full"`; it runs as an experiment, whose endpoints have its id too."""
    created = await services.replays.create(
        data.arms,
        filter_of(data.filter, inside="filter"),
        filter_values=data.filter,
        name=data.name,
        limit=data.limit,
        repetitions=data.repetitions,
        seed=data.seed,
    )
    return ReplayAnswer.of(await services.replays.get(created.id))


@get("/{replay_id:str}", summary="One replay")
async def get_replay(services: Deps, replay_id: FromPath[str]) -> ReplayAnswer:
    """How far it is, and each arm against the recorded answers."""
    return ReplayAnswer.of(await services.replays.get(replay_id))


@get("/{replay_id:str}/pairs", summary="Pairs of a replay")
async def list_pairs(services: Deps, replay_id: FromPath[str]) -> PairList:
    """Each recorded answer beside each new one, with their differences."""
    return PairList(data=(await services.replays.get(replay_id)).pairs)


replay_handlers: list[Router] = [
    Router(
        "/v1/replays",
        route_handlers=[create_replay, get_replay, list_pairs],
        tags=["experiments"],
    )
]
