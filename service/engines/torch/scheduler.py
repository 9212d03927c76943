"""What the engine loop does next: pure decisions over counts and ids, no torch."""

from collections import deque
from typing import NamedTuple


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

    def __init__(self, model_id: str, *, slots: int, chunk_tokens: int) -> None:
        self.model_id = model_id
        self.used_ns = 0
        """Time that its steps took, levelled when it wakes from idleness."""
        self._slots = slots
        self._chunk_tokens = chunk_tokens
        self._waiting: deque[str] = deque()
        self._left_tokens: dict[str, int] = {}
        """Prompt tokens not yet read, of requests that wait or are being prefilled."""
        self._chunk_limits: dict[str, int] = {}
        self._prefilling: list[str] = []
        self._running: dict[str, None] = {}
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

    def next(self) -> Step | None:
        """The next step; the queue counts it as done."""
        while self._waiting and len(self._prefilling) + len(self._running) < self._slots:
            self._prefilling.append(self._waiting.popleft())
        prefill = self._next_prefill()
        if prefill is not None:
            return prefill
        self._prefilled_tokens = 0
        return Decode(self.model_id, tuple(self._running)) if self._running else None

    def _next_prefill(self) -> Prefill | None:
        if not self._prefilling:
            return None
        request_id = self._prefilling[0]
        if not self._oldest_first:
            request_id = min(self._prefilling, key=self._left_tokens.__getitem__)
        left = self._left_tokens[request_id]
        tokens = min(left, self._chunk_limits[request_id])
        if self._running and self._prefilled_tokens + tokens > self._chunk_tokens:
            return None
        self._oldest_first = not self._oldest_first
        self._prefilled_tokens += tokens
        if tokens == left:
            self._prefilling.remove(request_id)
            del self._left_tokens[request_id], self._chunk_limits[request_id]
            self._running[request_id] = None
        else:
            self._left_tokens[request_id] = left - tokens
        return Prefill(self.model_id, request_id, tokens)


class Scheduler:
    """Takes turns between models: the one whose steps have used the least time is next."""

    def __init__(self) -> None:
        self._queues: dict[str, ModelQueue] = {}
        self._clock_ns = 0
        """Least used time among models with work, never falling: where waking models join."""

    def __repr__(self) -> str:
        """Show every queue."""
        return f"<Scheduler {list(self._queues.values())}>"

    def add_model(self, model_id: str, *, slots: int, chunk_tokens: int) -> None:
        """Take a model in."""
        self._queues[model_id] = ModelQueue(model_id, slots=slots, chunk_tokens=chunk_tokens)

    def remove_model(self, model_id: str) -> None:
        """Forget a model and its requests."""
        del self._queues[model_id]

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

    def next(self) -> Step | None:
        """The next step, None if there is nothing to do."""
        busy = [queue for queue in self._queues.values() if queue]
        if not busy:
            return None
        return min(busy, key=lambda queue: queue.used_ns).next()

    def spent(self, model_id: str, duration_ns: int) -> None:
        """Account for a step."""
        spender = self._queues[model_id]
        spender.used_ns += duration_ns
        sharers = [queue for queue in self._queues.values() if queue or queue is spender]
        self._clock_ns = max(self._clock_ns, min(queue.used_ns for queue in sharers))
