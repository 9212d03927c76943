"""The runtime of the models on this machine, as frozen values."""

from typing import Literal

from msgspec import Struct

ProcessState = Literal["stopped", "starting", "running", "restarting", "failed", "closed"]
"""State of a supervised process; `failed`: it did not come up several times in a row."""


class ModelRuntime(Struct, frozen=True, kw_only=True):
    """Runtime configuration and step times of a loaded model."""

    id: str
    kernel_path: str
    """The kernels in use, e.g. `compiled-avx512-bf16`, or `transformers-eager` where a model runs
    without compiled kernels."""
    dtype: str
    quantization: str | None
    slots: int
    prefill_chunk_tokens: int
    max_itl_ms: float
    decode_step_ns: int | None
    """Mean duration of its latest decode steps; None before the first report."""
    decode_step_requests: float | None
    """Mean batch size of these steps."""
    prefill_token_ns: int | None
    """Mean time per prompt token in its latest prefill chunks."""


class Runtime(Struct, frozen=True, kw_only=True):
    """The torch host and its configuration; None where only the running process knows."""

    state: ProcessState
    """The process starts with the first model load."""
    pid: int | None
    restarts: int
    engine_version: str | None
    device: str | None
    threads: int
    wait_policy: str | None
    """`OMP_WAIT_POLICY`; None if unset."""
    spin_count: int | None
    """`GOMP_SPINCOUNT`; None if unset or not a number."""
    cpu_features: tuple[str, ...]
    """Instruction sets of the processor that the kernels distinguish."""
    models: tuple[ModelRuntime, ...]


class PrefixCacheUse(Struct, frozen=True, kw_only=True):
    """States of earlier prompts that the torch host keeps, and what became of them so far."""

    max_bytes: int
    """Its cap now: never more than models and running requests leave of the memory budget."""
    held_bytes: int
    entries: int
    query_tokens: int
    """Prompt tokens of requests that looked for a known beginning."""
    hit_tokens: int
    """Of these, tokens that were restored."""
    stores: dict[str, int]
    """Entries stored, by what they are: blocks of keys and values, snapshots of all state."""
    evictions: dict[str, int]
    """Entries dropped, by reason: for newer ones, by a lower cap, with their model."""


class DeviceUse(Struct, frozen=True, kw_only=True):
    """The device that holds the models, and what its allocator reports; None where none does."""

    name: str
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
