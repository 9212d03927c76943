"""Events that an engine yields: raw timestamps (ns, CLOCK_MONOTONIC), counts and bytes."""

from typing import Literal

from msgspec import Struct

FinishReason = Literal["stop", "length", "content_filter"]
"""`content_filter` comes from other servers alone."""
StateSource = Literal["measured", "computed"]


class StateBytes(Struct, frozen=True, kw_only=True):
    """Bytes of one request's state, by `ModelBuild.state_source`; None where unknown."""

    attention_kv_bytes: int | None = None
    """Keys and values of full-attention layers at the final length."""
    window_kv_bytes: int | None = None
    """Keys and values of sliding-window layers."""
    ssm_state_bytes: int | None = None
    """Recurrent state, constant in length."""
    conv_state_bytes: int | None = None
    """Convolution state, constant in length."""
    snapshot_bytes: int | None = None
    """Prefix snapshots that this request made."""
    reserved_bytes: int | None = None
    """What its slot reserves: never less than the sum of the live bytes."""


class PrefixReuse(Struct, frozen=True, kw_only=True):
    """What a request reused of the states of earlier ones; None where unknown."""

    matched_tokens: int | None = None
    """Leading tokens of the prompt that an earlier request had, whether restored or not."""
    restored_from: str | None = None
    """What was restored: `kv`, `snapshot` or None."""
    restore_ns: int | None = None
    """Time that copying the state into the slot took."""
    saved_prefill_ns: int | None = None
    """Estimate of the prefill time that was saved, from the model's own step times."""
    cache_miss: str | None = None
    """Reason why fewer tokens were restored than could have been."""


class ModelBuild(Struct, frozen=True, kw_only=True):
    """Weights, engine and device that answered; without them runs cannot be compared over time."""

    weights_sha256: str | None
    dtype: str
    quantization: str | None
    engine: str
    engine_version: str
    """Engine and its libraries, e.g. `torch 2.13.0+cpu, transformers 5.23.0`."""
    device: str
    kernel_path: str
    """Which kernels ran, e.g. `transformers-eager`."""
    state_source: StateSource | None = None
    """Whether state bytes are `measured`, read off live tensors, or `computed` by formulas, because
    another process holds them; None where unknown."""


class ModelMemory(Struct, frozen=True, kw_only=True):
    """Bytes that one loaded model holds; None where unknown."""

    weights_bytes: int | None = None
    """Parameters and buffers, shared storage once."""
    slots_bytes: int | None = None
    """Everything reserved for requests' state."""
    slots_total: int | None = None
    slots_used: int | None = None
    snapshots_bytes: int | None = None
    """States of prefixes that later requests may continue."""
    workspace_bytes: int | None = None


class TokenAlternative(Struct, frozen=True):
    """Candidate token for a position."""

    token_id: int | None
    """None where another server tells only its text."""
    text: str
    logprob: float


class TokenLogprob(Struct, frozen=True, kw_only=True):
    """The chosen token's log-probability (natural log) before penalties and temperature."""

    token_id: int | None
    """None where another server tells only its text."""
    text: str
    logprob: float | None
    """None for the first prompt token, which nothing predicts."""
    top: tuple[TokenAlternative, ...] = ()
    """Most likely first."""


class Started(Struct, frozen=True, kw_only=True, tag="started"):
    """The first prefill step begins; of another server, that its answer begins to arrive."""

    queued_ns: int
    scheduled_ns: int | None
    """None where it is told with `Finished`, or never."""
    prompt_tokens: int | None
    """None where it is told with `Finished`."""
    cached_tokens: int | None = None
    """Prompt tokens whose state was taken from a cache."""
    prefix: PrefixReuse = PrefixReuse()
    prompt_token_ids: tuple[int, ...] | None = None
    prompt_text: str | None = None
    """Only with `echo`."""
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """Only with `echo` and logprobs; then `Started` comes after the prefill."""


class Delta(Struct, frozen=True, kw_only=True, tag="delta"):
    """Newly sampled tokens and the text that they complete (it may lag behind, and be empty)."""

    text: str
    token_ids: tuple[int, ...] | None
    """None where another server tells neither the tokens nor how many they are."""
    at_ns: int
    """When the last of these tokens was sampled; of another server, when they arrived."""
    logprobs: tuple[TokenLogprob, ...] | None = None


class Finished(Struct, frozen=True, kw_only=True, tag="finished"):
    """The last event of every answer that was not cancelled and did not fail."""

    reason: FinishReason
    text: str = ""
    """Text that was held back for a stop string and is now certain."""
    prompt_tokens: int | None
    completion_tokens: int | None
    scheduled_ns: int | None = None
    """When the prefill began, where `Started` could not tell."""
    cached_tokens: int | None = None
    """Prompt tokens not computed anew, where `Started` could not tell."""
    first_ns: int | None
    """None if no token was sampled."""
    last_ns: int | None
    state: StateBytes
    workspace_peak_bytes: int | None = None
    co_scheduled: int | None = None
    """Largest number of other requests that shared a step with this one."""
    build: ModelBuild


EngineEvent = Started | Delta | Finished
