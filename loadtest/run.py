"""Runs a schedule open loop: sends at the planned time, whether or not answers have come."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence

import httpx
import msgspec
from msgspec import Struct

from loadtest.address import Address
from loadtest.client import Client, Question
from loadtest.corpus import Prompt
from loadtest.errors import LoadTestError
from loadtest.observation import Observation
from loadtest.plan import Plan
from loadtest.schedule import Turn
from loadtest.wire.process import WireProcess

#: Orders reach the measuring process this long before their planned moment.
_LEAD_NS = 100_000_000
_WARMUP_BLOCK = -1


class Results(Struct, kw_only=True):
    """Observations so far; complete unless `interrupted`."""

    run_id: str
    """Begins every client request id of the run."""
    begun_at_ns: int
    """Wall clock."""
    observations: list[Observation]
    warmups: list[Observation]
    asked: set[str]
    """Client request ids of all requests, also of those under way at an interruption."""
    busy_ns: dict[str, int]
    """For each model the duration of its turns, from the first planned moment to the last end."""
    wall_ns: int = 0
    client_cpu_ns: int = 0
    """CPU time of this process during the turns."""
    wire_cpu_ns: int | None = None
    """CPU time of the measuring process during the turns; None for an interrupted run."""
    loop_lags_ns: list[int] = []
    """How late a periodic timer of the measuring process fired, each time."""
    interrupted: bool = False


Watch = Callable[[Observation], None]


async def run(
    plan: Plan,
    turns: Sequence[Turn],
    prompts: Sequence[Prompt],
    address: Address,
    watch: Watch,
) -> Results:
    """Warm every model up, then take all turns; *watch* is called with each measured request.

    Cancelling (Ctrl-C) abandons requests in flight and returns the observations so far.

    Raises:
        LoadTestError: The measuring process died.
    """
    results = Results(
        run_id=f"lt-{secrets.token_hex(4)}",
        begun_at_ns=time.time_ns(),
        observations=[],
        warmups=[],
        asked=set(),
        busy_ns=dict.fromkeys(plan.models, 0),
    )
    try:
        async with WireProcess(address) as wire:
            client = Client(wire, address, plan.sampling, plan.timeout_s)
            sender = _Sender(plan, prompts, client, results, watch)
            await sender.warm_up()
            before = await wire.vitals()
            begun_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
            try:
                for turn in turns:
                    await sender.take(turn)
            finally:
                results.wall_ns = time.monotonic_ns() - begun_ns
                results.client_cpu_ns = time.process_time_ns() - cpu_ns
            after = await wire.vitals()
            results.wire_cpu_ns = after.cpu_ns - before.cpu_ns
            results.loop_lags_ns = after.loop_lags_ns
    except asyncio.CancelledError:
        # The only one who cancels is the person at the keyboard, who wants what there is.
        results.interrupted = True
    return results


@contextlib.asynccontextmanager
async def connect(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client for what is not measured: the list of models, and the records."""
    async with httpx.AsyncClient(
        base_url=base_url, timeout=httpx.Timeout(60.0, connect=10.0), trust_env=False
    ) as http:
        yield http


class _ModelCard(Struct):
    id: str


class _ModelList(Struct):
    data: list[_ModelCard]


async def check_models(http: httpx.AsyncClient, models: Sequence[str]) -> None:
    """Raise LoadTestError unless the service answers and lists every model."""
    try:
        answer = (await http.get("/v1/models")).raise_for_status()
        listed = {card.id for card in msgspec.json.decode(answer.content, type=_ModelList).data}
    except httpx.HTTPError as error:
        raise LoadTestError(
            f"{http.base_url}: no answer from /v1/models ({type(error).__name__}); is it running?"
        ) from error
    except msgspec.DecodeError as error:
        raise LoadTestError(f"{http.base_url}: /v1/models is not a list of models") from error
    missing = [model for model in models if model not in listed]
    if missing:
        raise LoadTestError(
            f"{http.base_url}: has no model {', '.join(missing)}; it has "
            f"{', '.join(sorted(listed)) or 'none'}"
        )


class _Sender:
    def __init__(
        self,
        plan: Plan,
        prompts: Sequence[Prompt],
        client: Client,
        results: Results,
        watch: Watch,
    ) -> None:
        self._plan = plan
        self._prompts = prompts
        self._client = client
        self._results = results
        self._watch = watch

    async def warm_up(self) -> None:
        """Let every model load and touch its memory, one request at a time."""
        number = 0
        for model in self._plan.models:
            for prompt in range(self._plan.warmup_requests):
                question = self._question(
                    f"warm-{number}", number, model, _WARMUP_BLOCK, prompt, time.monotonic_ns()
                )
                self._results.warmups.append(await self._client.ask(question))
                number += 1

    async def take(self, turn: Turn) -> None:
        """Order a turn's requests shortly before their times and wait for all answers."""
        begun_ns = time.monotonic_ns() + _LEAD_NS
        earlier = len(self._results.observations)
        try:
            async with asyncio.TaskGroup() as group:
                for send in turn.sends:
                    planned_ns = begun_ns + round(send.offset_s * 1e9)
                    question = self._question(
                        str(send.number),
                        send.number,
                        turn.model,
                        turn.block,
                        send.prompt,
                        planned_ns,
                    )
                    await _sleep_until(planned_ns - _LEAD_NS)
                    group.create_task(self._ask(question))
        except* LoadTestError as errors:
            raise errors.exceptions[0] from None
        finally:
            ended_ns = max(
                (one.ended_ns for one in self._results.observations[earlier:]), default=0
            )
            self._results.busy_ns[turn.model] += max(0, ended_ns - begun_ns)

    async def _ask(self, question: Question) -> None:
        observation = await self._client.ask(question)
        self._results.observations.append(observation)
        self._watch(observation)

    def _question(
        self, label: str, number: int, model: str, block: int, prompt: int, planned_ns: int
    ) -> Question:
        index = prompt % len(self._prompts)
        question = Question(
            number=number,
            client_request_id=f"{self._results.run_id}-{label}",
            model=model,
            block=block,
            prompt=self._prompts[index],
            seed=self._plan.seed + index,
            planned_ns=planned_ns,
        )
        self._results.asked.add(question.client_request_id)
        return question


async def _sleep_until(moment_ns: int) -> None:
    delay_ns = moment_ns - time.monotonic_ns()
    await asyncio.sleep(max(0, delay_ns) / 1e9)
