"""Messages between the service and the torch host: msgpack frames over a UNIX socket.

A frame is a 4-byte big-endian length and one msgpack value of `ToHost` or `FromHost`.
Both processes import this module; it imports no torch.
"""

import struct
from typing import Literal

import msgspec
from msgspec import Struct

from model_registry.spec import ResolvedModel
from service.core.chat import ChatRequest, Prompt
from service.core.events import EngineEvent, ModelBuild, ModelMemory, TokenLogprob
from service.core.ports import TextTokens, TokenizerInfo
from service.core.runtime import PrefixCacheUse
from service.engines.text.text_bound import TextBound

MAX_FRAME_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")


KernelChoice = Literal["auto", "compiled", "eager"]
"""Compiled programs, transformers' own code, or programs where there is one."""


class LoadModel(Struct, frozen=True, kw_only=True, tag="load"):
    """Load a model; answered by LoadProgress, then Loaded or LoadFailed."""

    model: ResolvedModel
    slots: int
    """Requests that run at once."""
    prefill_chunk_tokens: int
    """Longest prefill chunk between two decode steps."""
    max_itl_ms: float
    """Inter-token latency that prefill must not exceed for running requests."""
    kernels: KernelChoice = "auto"
    max_answer_tokens: int | None = None
    """Longest answer to a request that names no `max_tokens`; None: until the context is full."""


class UnloadModel(Struct, frozen=True, tag="unload"):
    """Fail the model's requests and free its memory; answered by Unloaded."""

    model_id: str


class Generate(Struct, frozen=True, tag="generate"):
    """Answer a request; `request.model` is the id of a loaded model."""

    request: ChatRequest
    queued_ns: int


class Cancel(Struct, frozen=True, tag="cancel"):
    """Cancel a request and free its slot; unknown ids are ignored, and nothing answers."""

    request_id: str


class Tokenize(Struct, frozen=True, tag="tokenize"):
    """Answered by TokenIds or CallFailed."""

    call_id: int
    model_id: str
    prompt: Prompt
    add_special_tokens: bool


class Detokenize(Struct, frozen=True, tag="detokenize"):
    """Answered by Text or CallFailed."""

    call_id: int
    model_id: str
    token_ids: tuple[int, ...]


class DescribeTokenizer(Struct, frozen=True, tag="describe_tokenizer"):
    """Answered by Tokenizer or CallFailed."""

    call_id: int
    model_id: str


class SplitText(Struct, frozen=True, tag="split_text"):
    """Answered by SplitIntoTokens or CallFailed."""

    call_id: int
    model_id: str
    text: str


Question = Tokenize | Detokenize | DescribeTokenizer | SplitText
"""Calls that get one reply each."""


class LimitPrefixCache(Struct, frozen=True, tag="limit_prefix_cache"):
    """Set the cap of the prefix cache; what exceeds it is evicted. 0 until the first of these."""

    max_bytes: int


ToHost = LimitPrefixCache | LoadModel | UnloadModel | Generate | Cancel | Question


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """The host's first frame."""

    engine_version: str
    device: str
    threads: int
    wait_policy: str | None
    """`OMP_WAIT_POLICY`; None if unset."""
    spin_count: int | None
    """`GOMP_SPINCOUNT`; None if unset or not a number."""
    cpu_features: tuple[str, ...]
    """Instruction sets of the processor that the kernels distinguish."""


class Heartbeat(Struct, frozen=True, tag="heartbeat"):
    """Heartbeat, sent every `--heartbeat` seconds."""

    turns: int
    """Turns of the engine loop since its start."""
    resting: bool
    """Whether the engine has no step to take."""


class LoadProgress(Struct, frozen=True, kw_only=True, tag="load_progress"):
    """Progress of a load."""

    model_id: str
    stage: str
    """`tokenizer`, `weights`, `slots`."""
    done_bytes: int | None = None
    total_bytes: int | None = None


class Loaded(Struct, frozen=True, kw_only=True, tag="loaded"):
    """The model serves requests."""

    model_id: str
    build: ModelBuild
    memory: ModelMemory
    context_tokens: int
    vocabulary_tokens: int
    text_bound: TextBound | None = None
    """Fewest tokens of a text; None if its tokenizer sets no bound."""


class LoadFailed(Struct, frozen=True, tag="load_failed"):
    """The model cannot be loaded; the message names the reason and the fix."""

    model_id: str
    message: str


class Unloaded(Struct, frozen=True, tag="unloaded"):
    """The model's memory is free."""

    model_id: str


class Events(Struct, frozen=True, tag="events"):
    """Events that one step produced, as `(request_id, event)`."""

    items: tuple[tuple[str, EngineEvent], ...]


class PromptScores(Struct, frozen=True, tag="prompt_scores"):
    """Log-probabilities of the next tokens of a request's prompt.

    Sent chunk by chunk before `Started`, so that no frame grows with the prompt. The service joins
    them into `Started.prompt_logprobs`.
    """

    request_id: str
    scores: tuple[TokenLogprob, ...]


class RequestFailed(Struct, frozen=True, kw_only=True, tag="request_failed"):
    """A request ends with an error; `code` is one of `service.core.errors`."""

    request_id: str
    code: str
    message: str
    param: str | None = None


class StepTimes(Struct, frozen=True, kw_only=True):
    """Mean duration of a model's latest steps; None before the first of its kind."""

    decode_step_ns: int | None = None
    decode_step_requests: float | None = None
    prefill_token_ns: int | None = None


class DeviceMemory(Struct, frozen=True, kw_only=True):
    """Report of the device's allocator, for all models together."""

    name: str
    allocated_bytes: int
    reserved_bytes: int


class MemoryReport(Struct, frozen=True, tag="memory"):
    """Memory of a model; sent when it changes, a few times a second at most."""

    model_id: str
    memory: ModelMemory
    steps: StepTimes = StepTimes()
    device: DeviceMemory | None = None
    """None on the CPU."""
    prefix_cache: PrefixCacheUse | None = None
    """Of all models together."""


class TokenIds(Struct, frozen=True, tag="token_ids"):
    """Answers Tokenize."""

    call_id: int
    token_ids: tuple[int, ...]


class Text(Struct, frozen=True, tag="text_reply"):
    """Answers Detokenize."""

    call_id: int
    text: str


class Tokenizer(Struct, frozen=True, tag="tokenizer"):
    """Answers DescribeTokenizer."""

    call_id: int
    info: TokenizerInfo


class SplitIntoTokens(Struct, frozen=True, tag="split_into_tokens"):
    """Answers SplitText."""

    call_id: int
    tokens: TextTokens


class CallFailed(Struct, frozen=True, tag="call_failed"):
    """A call ends with an error; `code` is one of `service.core.errors`."""

    call_id: int
    code: str
    message: str
    param: str | None = None


Reply = TokenIds | Text | Tokenizer | SplitIntoTokens | CallFailed
"""Answers of calls."""

FromHost = (
    Hello
    | Heartbeat
    | LoadProgress
    | Loaded
    | LoadFailed
    | Unloaded
    | Events
    | PromptScores
    | RequestFailed
    | MemoryReport
    | Reply
)

_encoder = msgspec.msgpack.Encoder()


class FrameTooLarge(ValueError):
    """The message exceeds MAX_FRAME_BYTES, and was not sent."""


def frame(message: ToHost | FromHost) -> bytes:
    """Encode one message as a frame. Raises FrameTooLarge."""
    body = _encoder.encode(message)
    _check(len(body))
    return _LENGTH.pack(len(body)) + body


def frame_length(header: bytes) -> int:
    """Length of the body that a 4-byte header announces. Raises FrameTooLarge."""
    (length,) = _LENGTH.unpack(header)
    _check(length)
    return int(length)


def _check(length: int) -> None:
    if length > MAX_FRAME_BYTES:
        raise FrameTooLarge(f"a message of {length} bytes exceeds the limit of {MAX_FRAME_BYTES}")
