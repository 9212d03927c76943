"""VoteService: takes votes on blind answers, reveals the arms, imports ratings of chat tools."""

import time
from collections import Counter
from collections.abc import Callable, Iterable

from msgspec import Struct

from service.core.errors import Conflict, InvalidRequest, NotFound
from service.core.ids import new_vote_id, request_id_of_answer
from service.core.record import RequestRecord
from service.core.summary import served_id
from service.core.votes.open_webui import Preference, Rated, read_export
from service.core.votes.ratings import Ratings, rate
from service.core.votes.vote import Choice, Vote, VoteStore, pair_key
from service.serving.records.query_pool import QueryPool
from service.serving.records.report import Reports

BLIND = "blind"
"""Policy of the routes whose answers can be voted on."""
SAME_ARM = "both answers are of one arm"


class Imported(Struct, frozen=True, kw_only=True):
    """What became of an export's feedbacks."""

    added: int
    replaced: int
    """Votes whose rating was changed in the chat tool since they were imported."""
    known: int
    """Votes that an earlier import brought."""
    not_counted: dict[str, int]
    """Imported votes that ratings leave out, by reason."""
    unused: dict[str, int]
    """Feedbacks that are no votes, by reason."""


class VoteService:
    """Votes of one store, on answers that the records know."""

    def __init__(
        self,
        store: VoteStore,
        reports: Reports,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store
        self._reports = reports
        self._wall_ns = wall_ns
        self._threads = QueryPool("votes", threads=1, max_waiting=64)

    async def vote(
        self, left: str, right: str, choice: Choice, *, voter: str | None, reveal: bool
    ) -> Vote:
        """Record which of two answers, given by their ids, was preferred.

        Raises:
            InvalidRequest: they are no two answers of one blind route to one prompt.
            NotFound: there is no record of an answer.
            Conflict: the pair has a vote already, or the arm of an answer was revealed before.
        """
        records = [await self._answer(left, "left"), await self._answer(right, "right")]
        _check_pair(*records)
        ids = [record.request_id for record in records]
        models = [_served(record) for record in records]
        vote = Vote(
            vote_id=new_vote_id(),
            key=pair_key(*ids),
            at_ns=self._wall_ns(),
            source="api",
            route=records[0].requested_model,
            left_model=models[0],
            right_model=models[1],
            left_response=ids[0],
            right_response=ids[1],
            choice=choice,
            voter=voter,
            not_counted=SAME_ARM if models[0] == models[1] else None,
            revealed=reveal,
        )

        def add(_: object) -> None:
            for earlier in self._store.of(ids):
                if earlier.key != vote.key and earlier.revealed:
                    raise Conflict(
                        "the vote "
                        f"{earlier.vote_id} has revealed which model gave one of these answers; "
                        "ask again for answers that nobody has seen unmasked"
                    )
            if not self._store.add(vote):
                raise Conflict(
                    "there is a vote on this pair of answers already; take it back with "
                    "DELETE /v1/votes/ID as long as it is not revealed"
                )

        await self._threads.run(add)
        return vote

    async def get(self, vote_id: str) -> Vote:
        """Read a vote. Raises NotFound."""
        return _found(await self._threads.run(lambda _: self._store.get(vote_id)))

    async def reveal(self, vote_id: str) -> Vote:
        """Tell which models answered; the vote is final then. Raises NotFound."""
        return _found(await self._threads.run(lambda _: self._store.reveal(vote_id)))

    async def take_back(self, vote_id: str) -> None:
        """Remove a vote. Raises NotFound, or Conflict once it is revealed."""
        if await self._threads.run(lambda _: self._store.remove(vote_id)):
            return
        await self.get(vote_id)
        raise Conflict("this vote is revealed, and cannot be taken back any more")

    async def import_open_webui(self, feedbacks: Iterable[object]) -> Imported:
        """Store the preferences of Open WebUI's feedback export; again changes nothing."""
        export = await self._threads.run(lambda _: read_export(feedbacks))
        votes = [await self._imported(preference) for preference in export.preferences]
        added, replaced = await self._threads.run(lambda _: self._store.put(votes))
        return Imported(
            added=added,
            replaced=replaced,
            known=len(votes) - added - replaced,
            not_counted=dict(Counter(vote.not_counted for vote in votes if vote.not_counted)),
            unused=export.unused,
        )

    async def ratings(self, route: str | None, *, seed: int) -> Ratings:
        """Rate all models that votes compared, on a route's answers or on all."""
        return await self._threads.run(
            lambda _: rate(self._store.all(route), route=route, seed=seed)
        )

    def close(self) -> None:
        """End the thread and release the store."""
        self._threads.close()
        self._store.close()

    async def _answer(self, response_id: str, param: str) -> RequestRecord:
        try:
            return await self._reports.record(request_id_of_answer(response_id))
        except NotFound:
            raise NotFound(
                f"`{param}`: there is no record of the answer {response_id!r}; send the `id` of a "
                "chat completion, or its `x-request-id`",
                param=param,
            ) from None

    async def _imported(self, preference: Preference) -> Vote:
        left, right = [
            await self._imported_arm(each) for each in (preference.left, preference.right)
        ]
        not_counted = left.doubt or right.doubt
        if not_counted is None and left.model == right.model:
            not_counted = SAME_ARM
        both_blind = left.route is not None and left.route == right.route
        return Vote(
            vote_id=new_vote_id(),
            key=preference.key,
            at_ns=preference.at_s * 10**9 or self._wall_ns(),
            source="open-webui",
            route=left.route if both_blind else None,
            left_model=left.model,
            right_model=right.model,
            left_response=left.request_id,
            right_response=right.request_id,
            choice=preference.choice,
            voter=preference.voter,
            not_counted=not_counted,
            revealed=True,  # the chat tool may have shown the models; it is undone there
        )

    async def _imported_arm(self, rated: Rated) -> "_Arm":
        """Who gave an answer: by our record of a blind one, else by the name in the chat tool."""
        if rated.response_id is None:
            return _Arm(model=rated.model)
        request_id = request_id_of_answer(rated.response_id)
        try:
            record = await self._reports.record(request_id)
        except NotFound:
            return _Arm(model=rated.model, doubt="no record of the blind answer")
        route = record.requested_model if record.route == BLIND else None
        return _Arm(model=_served(record), route=route, request_id=request_id)


class _Arm(Struct, frozen=True, kw_only=True):
    model: str
    route: str | None = None
    request_id: str | None = None
    doubt: str | None = None


def _check_pair(left: RequestRecord, right: RequestRecord) -> None:
    """Raise InvalidRequest unless two records are answers of one blind route to one prompt."""
    if left.request_id == right.request_id:
        raise InvalidRequest("`left` and `right` are the same answer", param="right")
    for record, param in ((left, "left"), (right, "right")):
        if record.route != BLIND:
            raise InvalidRequest(
                f"`{param}` is an answer of `{record.requested_model}`, which is no blind route",
                param=param,
            )
        if record.status != "ok":
            raise InvalidRequest(f"`{param}` is no complete answer ({record.status})", param=param)
    if left.requested_model != right.requested_model:
        raise InvalidRequest(
            f"the answers are of two routes, `{left.requested_model}` and "
            f"`{right.requested_model}`; compare answers of one",
            param="right",
        )
    prompts = (left.prompt_content, right.prompt_content)
    if None not in prompts and prompts[0] != prompts[1]:
        raise InvalidRequest("the answers are to different prompts", param="right")


def _served(record: RequestRecord) -> str:
    return served_id(record.model, record.variant) or record.requested_model


def _found(vote: Vote | None) -> Vote:
    if vote is None:
        raise NotFound("There is no such vote.", param="vote_id")
    return vote
