"""Scheduler: decides the engine loop's next step from counts, ids and times; pure, no torch."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from service.torch_host.scheduling.step_times import StepTimes

LEAST_TOKENS: Final = 32
"""Smallest prefill chunk that is worth a step; shortened chunks are multiples of it."""

PLANNED: Final = 0.9
"""Share of the ITL bound that is planned for, since step times vary."""


class Prefill(NamedTuple):
    """Prefill the next `tokens` of one request."""

    model_id: str
    request_id: str
    tokens: int


class Decode(NamedTuple):
    """Append one token to each of a model's running requests."""

    model_id: str
    request_ids: tuple[str, ...]


Step = Prefill | Decode


class ModelQueue:
    """A model's requests: waiting for a slot, prefilling, or decoding.

    At most `chunk_tokens` are prefilled between two decode steps. Chunks alternate between the
    oldest prefilling request and the one with the fewest tokens left: a short prompt does not wait
    for a long one, and a long one is never starved.
    """

    def __init__(
        self, model_id: str, *, slots: int, chunk_tokens: int, max_itl_ns: float = math.inf
    ) -> None:
        self.model_id = model_id
        self.used_ns = 0
        """Time used by its steps, raised to the scheduler's clock when it wakes."""
        self.step_times = StepTimes()
        self._slots = slots
        self._chunk_tokens = chunk_tokens
        self._planned_itl_ns = PLANNED * max_itl_ns
        self._waiting: deque[str] = deque()
        self._left_tokens: dict[str, int] = {}
        """Tokens still to be prefilled, of requests that wait or prefill."""
        self._chunk_limits: dict[str, int] = {}
        self._prefilling: list[str] = []
        self._running: dict[str, None] = {}
        self._token_ns = 0
        """Time of the latest token of the running request that has waited longest."""
        self.chunks = 0
        """Chunks of any model that had been prefilled by then."""
        self._prefilled_tokens = 0
        """Tokens prefilled since the last decode step."""
        self._oldest_first = True

    def __repr__(self) -> str:
        return (
            f"<ModelQueue {self.model_id}: {len(self._waiting)} waiting, "
            f"{len(self._prefilling)} prefilling, {len(self._running)} decoding>"
        )

    def __len__(self) -> int:
        """Number of requests, in any state."""
        return len(self._waiting) + len(self._prefilling) + len(self._running)

    @property
    def decoding(self) -> bool:
        """True while any request is decoding."""
        return bool(self._running)

    @property
    def due_ns(self) -> float:
        """Time by which the next decode step should have ended."""
        return self._token_ns + self._planned_itl_ns

    @property
    def decode_ns(self) -> float:
        """Predicted duration of the next decode step; before the first, the whole ITL bound."""
        if self.step_times.decode.mean_size is None and self._planned_itl_ns < math.inf:
            return self._planned_itl_ns
        return self.step_times.decode.duration_ns(len(self._running))

    @property
    def keeps_time(self) -> bool:
        """True if its decode steps alone keep the ITL bound."""
        return self.decode_ns <= self._planned_itl_ns

    def submit(
        self, request_id: str, prompt_tokens: int, *, chunk_tokens: int | None = None
    ) -> None:
        """Queue a request; `chunk_tokens` lowers the model's own chunk size for it."""
        self._waiting.append(request_id)
        self._left_tokens[request_id] = prompt_tokens
        self._chunk_limits[request_id] = min(chunk_tokens or prompt_tokens, self._chunk_tokens)

    def drop(self, request_id: str) -> None:
        """Remove a request in any state; its slot is free at once."""
        if request_id in self._running:
            del self._running[request_id]
            return
        if self._left_tokens.pop(request_id, None) is None:
            return
        del self._chunk_limits[request_id]
        if request_id in self._prefilling:
            self._prefilling.remove(request_id)
        else:
            self._waiting.remove(request_id)

    def restart(self, request_id: str, tokens: int) -> None:
        """Prefill a running request again; it keeps its slot."""
        del self._running[request_id]
        self._left_tokens[request_id] = tokens
        self._chunk_limits[request_id] = self._chunk_tokens
        self._prefilling.append(request_id)

    def next_prefill(self, spare_ns: float, *, must: bool) -> Prefill | None:
        """Take the next chunk that lasts no longer than `spare_ns`; None if there is none.

        With `must` the smallest chunk is taken in any case.
        """
        while self._waiting and len(self._prefilling) + len(self._running) < self._slots:
            self._prefilling.append(self._waiting.popleft())
        if not self._prefilling:
            return None
        request_id = self._prefilling[0]
        if not self._oldest_first:
            request_id = min(self._prefilling, key=self._left_tokens.__getitem__)
        left = self._left_tokens[request_id]
        wanted = min(left, self._chunk_limits[request_id])
        tokens = min(wanted, self._tokens_within(spare_ns, must=must))
        if tokens < min(wanted, LEAST_TOKENS):
            return None
        if LEAST_TOKENS < tokens < wanted:
            tokens -= tokens % LEAST_TOKENS
        if self._running and self._prefilled_tokens + tokens > self._chunk_tokens:
            return None
        self._oldest_first = request_id != self._prefilling[0]
        self._prefilled_tokens += tokens
        if tokens == left:
            self._to_decoding(request_id)
        else:
            self._left_tokens[request_id] = left - tokens
        return Prefill(self.model_id, request_id, tokens)

    def skip(self, step: Prefill, tokens: int) -> Prefill:
        """Shorten a request's first chunk, since `tokens` of its prompt need no prefill."""
        request_id = step.request_id
        left = step.tokens + self._left_tokens.get(request_id, 0) - tokens
        shortened = min(step.tokens, left)
        self._prefilled_tokens -= step.tokens - shortened
        if shortened < left:
            self._left_tokens[request_id] = left - shortened
        elif request_id in self._left_tokens:
            self._to_decoding(request_id)
        return step._replace(tokens=shortened)

    def next_decode(self) -> Decode:
        """Take a decode step of all running requests."""
        self._prefilled_tokens = 0
        return Decode(self.model_id, tuple(self._running))

    def done(self, step: Step, duration_ns: int, now_ns: int, *, chunks: int) -> None:
        """Account for a step that has ended; `chunks` is the count of chunks up to now."""
        self.used_ns += duration_ns
        match step:
            case Prefill(request_id=request_id, tokens=tokens):
                self.step_times.prefill.observe(tokens, duration_ns)
                if list(self._running) == [request_id]:
                    self._token_ns, self.chunks = now_ns, chunks
            case Decode(request_ids=request_ids):
                self.step_times.decode.observe(len(request_ids), duration_ns)
                self._token_ns, self.chunks = now_ns, chunks

    def _to_decoding(self, request_id: str) -> None:
        self._prefilling.remove(request_id)
        del self._left_tokens[request_id], self._chunk_limits[request_id]
        self._running[request_id] = None

    def _tokens_within(self, spare_ns: float, *, must: bool) -> int:
        """Most tokens of a chunk that lasts no longer than `spare_ns`."""
        if math.isinf(spare_ns):
            return self._chunk_tokens
        fitting = self.step_times.prefill.size_within(spare_ns)
        if fitting is None:  # nothing is known before the first chunk
            fitting = LEAST_TOKENS if spare_ns > 0 else 0
        return max(fitting, LEAST_TOKENS) if must else fitting


class Scheduler:
    """Shares the device's time fairly between models: the one that has used the least is next.

    While requests of any model decode, prefill chunks are shortened as far as it takes to keep the
    ITL bound of each of them. At least one chunk is prefilled between two decode steps of a model,
    so that prompts advance even where the bound leaves no time for them.
    """

    def __init__(self) -> None:
        self._queues: dict[str, ModelQueue] = {}
        self._clock_ns = 0
        """Least used time among models with work; never decreases. Waking models start from it."""
        self._chunks = 0
        """Chunks prefilled so far."""

    def __repr__(self) -> str:
        return f"<Scheduler {list(self._queues.values())}>"

    def add_model(
        self, model_id: str, *, slots: int, chunk_tokens: int, max_itl_ns: float = math.inf
    ) -> None:
        """Add a model.

        `max_itl_ns` bounds the inter-token latency of its running requests.
        """
        self._queues[model_id] = ModelQueue(
            model_id, slots=slots, chunk_tokens=chunk_tokens, max_itl_ns=max_itl_ns
        )

    def remove_model(self, model_id: str) -> None:
        """Remove a model and its requests."""
        del self._queues[model_id]

    def step_times(self, model_id: str) -> StepTimes:
        """A model's step-time models."""
        return self._queues[model_id].step_times

    def idle(self, model_id: str) -> bool:
        """True if a model has no requests."""
        return not self._queues[model_id]

    def submit(
        self,
        model_id: str,
        request_id: str,
        prompt_tokens: int,
        *,
        chunk_tokens: int | None = None,
    ) -> None:
        """Queue a request."""
        queue = self._queues[model_id]
        if not queue:
            # Idle time earns no credit: a waking model would hold all others back.
            queue.used_ns = max(queue.used_ns, self._clock_ns)
        queue.submit(request_id, prompt_tokens, chunk_tokens=chunk_tokens)

    def drop(self, model_id: str, request_id: str) -> None:
        """Remove a request in any state."""
        self._queues[model_id].drop(request_id)

    def restart(self, model_id: str, request_id: str, tokens: int) -> None:
        """Prefill a running request again, `tokens` in all, in chunks like any prompt."""
        self._queues[model_id].restart(request_id, tokens)

    def skip(self, step: Prefill, tokens: int) -> Prefill:
        """Shorten a request's first chunk, since `tokens` of its prompt need no prefill."""
        return self._queues[step.model_id].skip(step, tokens)

    def next(self, now_ns: int) -> Step | None:
        """Decide the next step; None if there is nothing to do."""
        busy = [queue for queue in self._queues.values() if queue]
        if not busy:
            return None
        turn = min(busy, key=lambda queue: queue.used_ns)
        decoding = sorted(
            (queue for queue in busy if queue.decoding), key=lambda queue: queue.due_ns
        )
        must = not decoding or decoding[0].chunks == self._chunks
        prefill = turn.next_prefill(_spare_ns(decoding, now_ns), must=must)
        if prefill is not None:
            self._chunks += 1
            return prefill
        others = [queue for queue in decoding if queue is not turn and queue.keeps_time]
        if turn.decoding and _spare_ns(others, now_ns) >= turn.decode_ns:
            return turn.next_decode()
        return decoding[0].next_decode()

    def spent(self, step: Step, duration_ns: int, now_ns: int) -> None:
        """Account for a step that has just ended."""
        spender = self._queues[step.model_id]
        spender.done(step, duration_ns, now_ns, chunks=self._chunks)
        sharers = [queue for queue in self._queues.values() if queue or queue is spender]
        self._clock_ns = max(self._clock_ns, min(queue.used_ns for queue in sharers))


def _spare_ns(decoding: Sequence[ModelQueue], now_ns: int) -> float:
    """Longest other step after which these queues, first due first, still decode in time."""
    spare_ns, end_ns = math.inf, float(now_ns)
    for queue in decoding:
        end_ns += queue.decode_ns
        spare_ns = min(spare_ns, queue.due_ns - end_ns)
    return spare_ns
