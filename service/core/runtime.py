"""What the models of this machine run on, as frozen values: routes read these."""

from typing import Literal

from msgspec import Struct

HostState = Literal["stopped", "starting", "running", "restarting", "closed"]


class ModelRuntime(Struct, frozen=True, kw_only=True):
    """One loaded model, as the engine runs it."""

    id: str
    kernel_path: str
    """Which kernels compute, e.g. `compiled-avx512-bf16` or `transformers-eager`."""
    dtype: str
    quantization: str | None
    slots: int
    prefill_chunk_tokens: int
    max_itl_ms: float
    decode_step_ns: int | None
    """Mean duration of its latest decode steps; None before the first was reported."""
    decode_step_requests: float | None
    """Mean number of requests in these."""
    prefill_token_ns: int | None
    """Mean time for each token of the latest pieces of prompts."""


class Runtime(Struct, frozen=True, kw_only=True):
    """The process that computes and how it was set up; what only it knows is None until it runs."""

    state: HostState
    """The process starts with the first model that is loaded."""
    pid: int | None
    restarts: int
    engine_version: str | None
    device: str | None
    threads: int
    wait_policy: str | None
    """`OMP_WAIT_POLICY`, where it is set."""
    spin_count: int | None
    """`GOMP_SPINCOUNT`, where it is set to a number."""
    cpu_features: tuple[str, ...]
    """Of the instruction sets that kernels are made for, those that the processor has."""
    models: tuple[ModelRuntime, ...]


class DeviceUse(Struct, frozen=True, kw_only=True):
    """Where models are held; what its allocator reports, None where there is none that does."""

    name: str
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
