"""What the engine loop does next: pure decisions over counts, ids and times, no torch."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from service.torch_host.step_times import Pace

LEAST_TOKENS: Final = 32
"""Smallest piece of a prompt that is worth a step; pieces cut short are multiples of it."""

PLANNED: Final = 0.9
"""Share of the longest gap between tokens that is planned for: steps vary."""


class Prefill(NamedTuple):
    """Read the next `tokens` of one request's prompt."""

    model_id: str
    request_id: str
    tokens: int


class Decode(NamedTuple):
    """Sample one token for each of a model's running requests."""

    model_id: str
    request_ids: tuple[str, ...]


Step = Prefill | Decode


class ModelQueue:
    """One model's requests: waiting for a slot, being prefilled, decoding.

    At most `chunk_tokens` of prompts are prefilled between two decode steps. Chunks go in turn to
    the oldest prompt and to the one with the fewest tokens left, so that a short prompt does not
    wait for a long one and a long one is never starved.
    """

    def __init__(
        self, model_id: str, *, slots: int, chunk_tokens: int, max_itl_ns: float = math.inf
    ) -> None:
        self.model_id = model_id
        self.used_ns = 0
        """Time that its steps took, levelled when it wakes from idleness."""
        self.pace = Pace()
        self._slots = slots
        self._chunk_tokens = chunk_tokens
        self._planned_itl_ns = PLANNED * max_itl_ns
        self._waiting: deque[str] = deque()
        self._left_tokens: dict[str, int] = {}
        """Prompt tokens not yet read, of requests that wait or are being prefilled."""
        self._chunk_limits: dict[str, int] = {}
        self._prefilling: list[str] = []
        self._running: dict[str, None] = {}
        self._token_ns = 0
        """When the running request that has waited longest got its last token."""
        self.pieces = 0
        """Pieces of prompts, of any model, that had been read then."""
        self._prefilled_tokens = 0
        """Prompt tokens read since the last decode step."""
        self._oldest_first = True

    def __repr__(self) -> str:
        """Show the counts."""
        return (
            f"<ModelQueue {self.model_id}: {len(self._waiting)} waiting, "
            f"{len(self._prefilling)} prefilling, {len(self._running)} decoding>"
        )

    def __len__(self) -> int:
        """Requests that wait or run."""
        return len(self._waiting) + len(self._prefilling) + len(self._running)

    @property
    def decoding(self) -> bool:
        """Whether any request runs."""
        return bool(self._running)

    @property
    def due_ns(self) -> float:
        """When the next decode step should be done."""
        return self._token_ns + self._planned_itl_ns

    @property
    def decode_ns(self) -> float:
        """How long the next decode step will take; before the first, all the time there is."""
        if self.pace.decode.mean_size is None and self._planned_itl_ns < math.inf:
            return self._planned_itl_ns
        return self.pace.decode.duration_ns(len(self._running))

    @property
    def keeps_time(self) -> bool:
        """Whether its decode steps alone are short enough for its bound."""
        return self.decode_ns <= self._planned_itl_ns

    def submit(
        self, request_id: str, prompt_tokens: int, *, chunk_tokens: int | None = None
    ) -> None:
        """Queue a request; `chunk_tokens` may lower the model's own chunk for it."""
        self._waiting.append(request_id)
        self._left_tokens[request_id] = prompt_tokens
        self._chunk_limits[request_id] = min(chunk_tokens or prompt_tokens, self._chunk_tokens)

    def drop(self, request_id: str) -> None:
        """Forget a request, whatever it was doing; its slot is free at once."""
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

    def next_prefill(self, spare_ns: float, *, must: bool) -> Prefill | None:
        """The next piece of a prompt that takes no longer than `spare_ns`, None if there is none.

        With `must` the smallest piece is read in any case. The queue counts it as done.
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
            self._prefilling.remove(request_id)
            del self._left_tokens[request_id], self._chunk_limits[request_id]
            self._running[request_id] = None
        else:
            self._left_tokens[request_id] = left - tokens
        return Prefill(self.model_id, request_id, tokens)

    def next_decode(self) -> Decode:
        """A token for each running request."""
        self._prefilled_tokens = 0
        return Decode(self.model_id, tuple(self._running))

    def done(self, step: Step, duration_ns: int, now_ns: int, *, pieces: int) -> None:
        """Learn from a step that has ended; `pieces` of prompts were read up to now."""
        self.used_ns += duration_ns
        match step:
            case Prefill(request_id=request_id, tokens=tokens):
                self.pace.prefill.observe(tokens, duration_ns)
                if list(self._running) == [request_id]:
                    self._token_ns, self.pieces = now_ns, pieces
            case Decode(request_ids=request_ids):
                self.pace.decode.observe(len(request_ids), duration_ns)
                self._token_ns, self.pieces = now_ns, pieces

    def _tokens_within(self, spare_ns: float, *, must: bool) -> int:
        """Most tokens that may be read now."""
        if math.isinf(spare_ns):
            return self._chunk_tokens
        fitting = self.pace.prefill.size_within(spare_ns)
        if fitting is None:  # the first piece shows how long they take
            fitting = LEAST_TOKENS if spare_ns > 0 else 0
        return max(fitting, LEAST_TOKENS) if must else fitting


class Scheduler:
    """Takes turns between models: the one whose steps have used the least time is next.

    While requests run, whichever model's they are, pieces of prompts are made as short as it takes
    to give each of these requests its next token in time. At least one piece is read between two
    decode steps of a model, so that prompts get on even where there is no time for them.
    """

    def __init__(self) -> None:
        self._queues: dict[str, ModelQueue] = {}
        self._clock_ns = 0
        """Least used time among models with work, never falling: where waking models join."""
        self._pieces = 0
        """Pieces of prompts that were read."""

    def __repr__(self) -> str:
        """Show every queue."""
        return f"<Scheduler {list(self._queues.values())}>"

    def add_model(
        self, model_id: str, *, slots: int, chunk_tokens: int, max_itl_ns: float = math.inf
    ) -> None:
        """Take a model in.

        `max_itl_ns` is the gap between tokens that its running requests are to be spared beyond.
        """
        self._queues[model_id] = ModelQueue(
            model_id, slots=slots, chunk_tokens=chunk_tokens, max_itl_ns=max_itl_ns
        )

    def remove_model(self, model_id: str) -> None:
        """Forget a model and its requests."""
        del self._queues[model_id]

    def pace(self, model_id: str) -> Pace:
        """What is known of a model's step times."""
        return self._queues[model_id].pace

    def idle(self, model_id: str) -> bool:
        """Whether a model has no requests."""
        return not self._queues[model_id]

    def submit(
        self,
        model_id: str,
        request_id: str,
        prompt_tokens: int,
        *,
        chunk_tokens: int | None = None,
    ) -> None:
        """Queue a request of a model."""
        queue = self._queues[model_id]
        if not queue:
            # Idle time is not saved up: a waking model would else hold all others back.
            queue.used_ns = max(queue.used_ns, self._clock_ns)
        queue.submit(request_id, prompt_tokens, chunk_tokens=chunk_tokens)

    def drop(self, model_id: str, request_id: str) -> None:
        """Forget a request."""
        self._queues[model_id].drop(request_id)

    def next(self, now_ns: int) -> Step | None:
        """The next step, None if there is nothing to do."""
        busy = [queue for queue in self._queues.values() if queue]
        if not busy:
            return None
        turn = min(busy, key=lambda queue: queue.used_ns)
        decoding = sorted(
            (queue for queue in busy if queue.decoding), key=lambda queue: queue.due_ns
        )
        must = not decoding or decoding[0].pieces == self._pieces
        prefill = turn.next_prefill(_spare_ns(decoding, now_ns), must=must)
        if prefill is not None:
            self._pieces += 1
            return prefill
        others = [queue for queue in decoding if queue is not turn and queue.keeps_time]
        if turn.decoding and _spare_ns(others, now_ns) >= turn.decode_ns:
            return turn.next_decode()
        return decoding[0].next_decode()

    def spent(self, step: Step, duration_ns: int, now_ns: int) -> None:
        """Account for a step that has just ended."""
        spender = self._queues[step.model_id]
        spender.done(step, duration_ns, now_ns, pieces=self._pieces)
        sharers = [queue for queue in self._queues.values() if queue or queue is spender]
        self._clock_ns = max(self._clock_ns, min(queue.used_ns for queue in sharers))


def _spare_ns(decoding: Sequence[ModelQueue], now_ns: int) -> float:
    """How long another step may take so that these, first due first, still decode in time."""
    spare_ns, end_ns = math.inf, float(now_ns)
    for queue in decoding:
        end_ns += queue.decode_ns
        spare_ns = min(spare_ns, queue.due_ns - end_ns)
    return spare_ns
