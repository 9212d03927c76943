"""Protocols between the rooms, each with a shipped in-memory implementation."""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from model_registry.spec import Family, ResolvedModel
from service.core.chat import ChatRequest, Prompt
from service.core.events import EngineEvent, ModelMemory
from service.core.metrics import RequestMetrics
from service.core.record import RequestRecord, Status
from service.core.summary import RecordSummary
from service.core.work import Energy


class Engine(Protocol):
    """A loaded model. Turns a request into events; closing the stream cancels it."""

    model: ResolvedModel

    async def start(self) -> None:
        """Load the model. Raises ModelNotReady with the reason."""

    def generate(self, request: ChatRequest) -> AsyncGenerator[EngineEvent]:
        """Yield Started, Deltas and Finished, or raise a TriptychError.

        Closing the generator cancels the request and frees its state.
        """

    def memory(self) -> ModelMemory:
        """Bytes held now."""

    async def aclose(self) -> None:
        """Unload the model; running requests fail."""


class TokenizerInfo(Struct, frozen=True, kw_only=True):
    """Tokenizer facts that evaluation harnesses ask a server for."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None


@runtime_checkable
class Tokenizing(Protocol):
    """An engine that can show its tokenizer."""

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids of a prompt."""

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of token ids."""

    async def tokenizer_info(self) -> TokenizerInfo:
        """Special tokens and chat template."""


class TextTokens(Struct, frozen=True, kw_only=True):
    """A plain text as a model's tokens, special tokens in it spelled out."""

    token_ids: tuple[int, ...]
    begins_bytes: tuple[int, ...]
    """Where each token begins in the UTF-8 text; parts of one character begin together."""
    start_id: int | None
    """What the first token is predicted after: beginning of text, else end of text or sequence."""
    start_token: str | None
    context_tokens: int
    """Longest sequence that the model takes."""


@runtime_checkable
class SplitsText(Protocol):
    """An engine that can tell which bytes of a text each token stands for."""

    async def split(self, text: str) -> TextTokens:
        """Tokens of a plain text. Raises InvalidRequest or EngineFailed."""


class LoadProgress(Struct, frozen=True, kw_only=True):
    """Progress of a load; a count is None where unknown."""

    stage: str
    """`tokenizer`, `weights`, `slots`."""
    done_bytes: int | None = None
    total_bytes: int | None = None


@runtime_checkable
class LoadReporting(Protocol):
    """An engine that reports the progress of `start`."""

    def load_progress(self) -> LoadProgress | None:
        """Current progress; None before the first report and after the last."""


class MemoryEstimate(Struct, frozen=True, kw_only=True):
    """Memory of a model at rest, predicted before it is loaded."""

    held_bytes: int
    setup: str
    """The settings that it depends on: measured bytes hold for the same setup only."""


@runtime_checkable
class Budgeted(Protocol):
    """An engine whose model counts against this device's memory budget."""

    def memory_estimate(self) -> MemoryEstimate:
        """Predicted memory; may read the model's config from disk. Raises ModelNotReady."""

    def state_bytes(self, request: ChatRequest, *, prompt_tokens: int | None = None) -> int:
        """Most that one request adds, its prompt's length estimated unless given. Reads nothing."""


@runtime_checkable
class Supervised(Protocol):
    """An engine whose process can die and come back while the model stays open."""

    def trouble(self) -> str | None:
        """Reason why it cannot answer now, safe to show to clients; None if it can."""


@runtime_checkable
class Restartable(Protocol):
    """An engine whose process is restarted after its death."""

    @property
    def restarts(self) -> int:
        """Restarts of the process so far, those before the load included."""

    @property
    def restarting(self) -> bool:
        """True while the process is being restarted, after which the model is loaded again."""


class Liveness(Struct, frozen=True, kw_only=True):
    """Progress of an engine on the requests of one model."""

    running: int
    """Requests that wait or run."""
    silent_s: float | None
    """Seconds since its last step; None while nothing runs."""
    stalled: bool
    """Whether it hung or died, and is being started again."""


@runtime_checkable
class HasLiveness(Protocol):
    """An engine that knows whether it makes progress."""

    def liveness(self) -> Liveness:
        """Its progress now, from memory."""


@runtime_checkable
class HasProcesses(Protocol):
    """An engine with child processes."""

    def processes(self) -> Mapping[str, int]:
        """Process ids by name; empty while none lives. Blocking: it may read `/proc`."""


class RecordFilter(Struct, frozen=True, kw_only=True):
    """Filter of records; None does not restrict."""

    model: str | None = None
    family: Family | None = None
    status: Status | None = None
    endpoint: str | None = None
    requested_model: str | None = None
    route: str | None = None
    """Requests that this route decided on."""
    with_error: bool = False
    """Only requests that ended with an error code."""
    comparison_id: str | None = None
    since_ns: int | None = None
    """Wall clock, inclusive."""
    until_ns: int | None = None
    """Wall clock, exclusive."""


class RecordPage(Struct, frozen=True, kw_only=True):
    """A page of records, newest first."""

    records: tuple[RequestRecord, ...]
    next_cursor: str | None


class RecordStore(Protocol):
    """Storage of records. Methods block: call them from a thread."""

    def write(self, records: Sequence[RequestRecord]) -> None:
        """Insert or, by `request_id`, replace in one transaction.

        A `final` record is never replaced by an `accepted` one.
        """

    def get(self, request_id: str) -> RequestRecord | None:
        """Read a record; None if there is none with this id."""

    def page(self, where: RecordFilter, *, limit: int, cursor: str | None) -> RecordPage:
        """Read a page, newest first. Raises InvalidRequest for a cursor that no page returned."""

    def iterate(self, where: RecordFilter) -> Iterator[RequestRecord]:
        """Read matching records, oldest first, in constant memory."""

    def summary(
        self, where: RecordFilter, *, window_ns: int | None, cancelled: Callable[[], bool]
    ) -> RecordSummary:
        """Summarize matching records, by windows of the wall clock if given.

        *cancelled* is polled every few milliseconds; once it is true, QueryCancelled is raised.
        Raises InvalidRequest if there would be too many groups.
        """

    def compact(self) -> bool:
        """Prepare some written records for summaries; False if there is nothing to prepare.

        For the one thread that writes, when nothing waits to be written.
        """

    def interrupt_orphans(self) -> int:
        """Turn rows that never became final into `interrupted`; return how many there were."""

    def close(self) -> None:
        """Release files and connections."""


class RecordSink(Protocol):
    """Accepts records from the request path without blocking it."""

    def submit(self, record: RequestRecord) -> None:
        """Queue a record; synchronous, so that a cancelled task cannot lose it."""

    async def flushed(self) -> None:
        """Return once everything submitted before this call is on disk."""


class RequestObserver(Protocol):
    """Observes requests from start to end: gauges, counters, traces."""

    def started(self, record: RequestRecord) -> None:
        """A request was accepted."""

    def generated(self, record: RequestRecord, tokens: int) -> None:
        """Its answer grew by *tokens*; every token is reported exactly once."""

    def finished(self, record: RequestRecord, metrics: RequestMetrics) -> None:
        """Its answer was closed: the final record, and the metrics derived from it."""


class EnergyMetering(Protocol):
    """Shares the energy that the machine spends among the requests that it computes."""

    def accepted(self, request_id: str) -> None:
        """Note a request that may be computed soon."""

    def began(self, request_id: str, at_ns: int) -> None:
        """Note that this machine computes it since *at_ns*."""

    def ended(self, request_id: str, start_ns: int | None, end_ns: int | None) -> Energy:
        """What it spent between its first prefill step and its last token, now if None.

        Whatever its end, every request that was accepted ends once.
        """


class WriterStats(Struct, frozen=True, kw_only=True):
    """State and lifetime counts of a RecordWriter."""

    healthy: bool
    queued_rows: int
    """Records submitted and not yet on disk."""
    queued_bytes: int
    """Memory that they hold, estimated."""
    lag_s: float
    """Age of the oldest of them; 0 without any."""
    written_rows: int
    write_s: float
    """Time spent in successful writes, in seconds."""
    failed_writes: int
    """Attempts that failed and were repeated."""
    refused_rows: int
    """Records that `submit` refused because too many waited."""
    unwritable_rows: int
    """Records that the store rejects for what they hold: a bug, logged as one."""
