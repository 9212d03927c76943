"""POST /v1/votes and its like: which of two blind answers is better, and what follows."""

from typing import Annotated

from litestar import Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter, SkipValidation

from service.api.votes.schema import Taken, VoteAnswer, VoteBody, vote_answer
from service.core.votes.ratings import Ratings
from service.serving.votes.service import Imported, VoteService

Votes = NamedDependency[SkipValidation[VoteService]]

#: Largest import: an export has whole conversations. `triptych votes import` sends no texts.
MOST_IMPORT_BYTES = 64 * 2**20


@post("/", status_code=200, summary="Vote on two blind answers")
async def create_vote(data: JSONBody[VoteBody], votes: Votes) -> VoteAnswer:
    """Prefer one of two answers, given by their ids; one vote a pair.

    409 for a second vote on a pair, and for an answer whose model an earlier vote has revealed.
    Whether both answer the same prompt is checked only where contents are stored.
    """
    vote = await votes.vote(data.left, data.right, data.choice, voter=data.user, reveal=data.reveal)
    return vote_answer(vote)


@get("/{vote_id:str}", summary="Show a vote")
async def get_vote(votes: Votes, vote_id: FromPath[str]) -> VoteAnswer:
    """A vote; its models only if it is revealed."""
    return vote_answer(await votes.get(vote_id))


@post("/{vote_id:str}/reveal", status_code=200, summary="Reveal the models of a vote")
async def reveal_vote(votes: Votes, vote_id: FromPath[str]) -> VoteAnswer:
    """Tell which models answered; the vote is final from then on."""
    return vote_answer(await votes.reveal(vote_id))


@delete("/{vote_id:str}", status_code=200, summary="Take a vote back")
async def delete_vote(votes: Votes, vote_id: FromPath[str]) -> Taken:
    """Remove a vote that is not revealed; 409 for one that is."""
    await votes.take_back(vote_id)
    return Taken(id=vote_id)


@get("/ratings", summary="Rate models by their votes")
async def get_ratings(
    votes: Votes,
    route: FromQuery[str | None] = None,
    seed: Annotated[int, QueryParameter(ge=0, le=2**31 - 1)] = 0,
) -> Ratings:
    """Bradley-Terry strengths with bootstrap intervals, of a route's votes or of all."""
    return await votes.ratings(route, seed=seed)


@post(
    "/import",
    status_code=200,
    summary="Import ratings of Open WebUI",
    request_max_body_size=MOST_IMPORT_BYTES,
)
async def import_votes(data: JSONBody[list[object]], votes: Votes) -> Imported:
    """Read what Open WebUI's `GET /api/v1/evaluations/feedbacks/all/export` returns.

    Again changes nothing; a rating that was changed meanwhile replaces its vote.
    """
    return await votes.import_open_webui(data)


#: Needs the dependency `votes`.
vote_handlers = Router(
    "/v1/votes",
    route_handlers=[
        create_vote,
        get_ratings,
        import_votes,
        get_vote,
        reveal_vote,
        delete_vote,
    ],
    tags=["votes"],
)
