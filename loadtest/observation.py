"""A request as the client saw it; timestamps are nanoseconds of its own CLOCK_MONOTONIC."""

from typing import Literal

from msgspec import Struct

from service.core.metrics import elapsed_ns, milliseconds

Outcome = Literal["ok", "refused", "failed", "timeout"]


class Observation(Struct, frozen=True, kw_only=True):
    """A request. Times count from the planned moment, so that a late client shows.

    `…_from_sent_ms` counts from the moment of sending, as the service can see it.
    """

    number: int
    client_request_id: str
    request_id: str | None
    """The answer's `x-request-id`."""
    model: str
    block: int
    prompt_id: str
    outcome: Outcome
    """`refused`: an error status; `timeout`: given up; `failed`: anything else but `ok`."""
    error: str | None
    """Why it did not end well, in few words."""
    planned_ns: int
    dispatched_ns: int
    """The measuring process took it up."""
    sent_ns: int | None
    """Its connection was open and it was written; None if there was no connection."""
    first_ns: int | None
    """The first chunk with text had arrived."""
    last_ns: int | None
    """The last chunk with text had arrived."""
    ended_ns: int
    """The answer was whole, broke off, or was given up."""
    chunks: int
    """Chunks with text; one may carry several tokens."""
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    text_bytes: int
    """UTF-8 bytes of the text that arrived."""
    first_text_bytes: int
    """Of these, what arrived at `first_ns`."""
    cold: bool | None
    """The request waited for its model to load; None if the service does not say."""
    verified: bool | None
    """The model passed its conformance probe; None if the service does not say."""

    @property
    def send_lag_ms(self) -> float:
        """Dispatched − planned."""
        return (self.dispatched_ns - self.planned_ns) / 1e6

    @property
    def ttft_ms(self) -> float | None:
        """First − planned."""
        return milliseconds(elapsed_ns(self.first_ns, self.planned_ns))

    @property
    def ttft_from_sent_ms(self) -> float | None:
        """First − sent."""
        return milliseconds(elapsed_ns(self.first_ns, self.sent_ns))

    @property
    def e2e_ms(self) -> float | None:
        """Last − planned."""
        return milliseconds(elapsed_ns(self.last_ns, self.planned_ns))

    @property
    def tpot_ms(self) -> float | None:
        """(Last − first) / (n − 1); None if n < 2."""
        decode_ms = self._decode_ms
        gaps = self._gaps
        return None if decode_ms is None or gaps is None else decode_ms / gaps

    @property
    def tokens_per_s(self) -> float | None:
        """(n − 1) / (last − first)."""
        decode_ms = self._decode_ms
        gaps = self._gaps
        return None if not decode_ms or gaps is None else gaps * 1e3 / decode_ms

    @property
    def bytes_per_s(self) -> float | None:
        """Bytes after the first stamp / (last − first): comparable between tokenizers."""
        decode_ms = self._decode_ms
        return (
            None if not decode_ms else (self.text_bytes - self.first_text_bytes) * 1e3 / decode_ms
        )

    @property
    def _decode_ms(self) -> float | None:
        return milliseconds(elapsed_ns(self.last_ns, self.first_ns))

    @property
    def _gaps(self) -> int | None:
        tokens = self.completion_tokens
        return None if tokens is None or tokens < 2 else tokens - 1  # noqa: PLR2004 - two ends
