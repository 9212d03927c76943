"""What the client saw of one request: stamps in nanoseconds of its own monotonic clock."""

from typing import Literal

from msgspec import Struct

from service.core.metrics import elapsed_ns, milliseconds

Outcome = Literal["ok", "refused", "failed", "timeout"]


class ServerMetrics(Struct, frozen=True, kw_only=True):
    """What a Triptych service says of an answer; None where it does not."""

    request_id: str | None = None
    ttft_ms: float | None = None
    cold: bool | None = None
    verified: bool | None = None
    state: dict[str, int | None] = {}


class Observation(Struct, frozen=True, kw_only=True):
    """One request. Every time counts from the planned moment, so that a late client shows."""

    number: int
    client_request_id: str
    request_id: str | None
    """The answer's `x-request-id`."""
    model: str
    block: int
    prompt_id: str
    outcome: Outcome
    """`refused`: answered by an error status; `failed`: ended by anything else."""
    error: str | None
    """What went wrong, in few words."""
    planned_ns: int
    sent_ns: int
    first_ns: int | None
    """The first chunk with text arrived."""
    last_ns: int | None
    """The last chunk with text arrived."""
    chunks: int
    """Chunks with text; one may carry several tokens."""
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    text_bytes: int
    """UTF-8 bytes of the text that arrived."""
    server: ServerMetrics

    @property
    def send_lag_ms(self) -> float:
        """Sent − planned."""
        return (self.sent_ns - self.planned_ns) / 1e6

    @property
    def ttft_ms(self) -> float | None:
        """First − planned."""
        return milliseconds(elapsed_ns(self.first_ns, self.planned_ns))

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
        """Bytes of the text / (last − first): comparable between tokenizers."""
        decode_ms = self._decode_ms
        return None if not decode_ms else self.text_bytes * 1e3 / decode_ms

    @property
    def _decode_ms(self) -> float | None:
        return milliseconds(elapsed_ns(self.last_ns, self.first_ns))

    @property
    def _gaps(self) -> int | None:
        tokens = self.completion_tokens
        return None if tokens is None or tokens < 2 else tokens - 1  # noqa: PLR2004 - two ends
