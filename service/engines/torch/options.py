"""TorchOptions: the settings that all models of the torch engine share."""

from pathlib import Path

from msgspec import Struct

from service.engines.torch.protocol.messages import KernelChoice


class TorchOptions(Struct, frozen=True, kw_only=True):
    """The table `[torch]`, and what all engines share."""

    data_dir: Path
    """Folder of the socket (`run/`), the log (`logs/torch-host.log`) and compiled kernels."""
    slots: int = 32
    """Requests that one model answers at once."""
    prefill_chunk_tokens: int = 256
    """Longest prefill chunk between two decode steps."""
    max_itl_ms: float = 100.0
    """Inter-token latency that prefill must not exceed for running requests of any model."""
    max_answer_tokens: int | None = None
    """Longest answer to a request that names no `max_tokens`."""
    kernels: KernelChoice = "auto"
    """Compiled programs, or transformers' own code."""
    prefix_cache_bytes: int = 0
    """Most bytes of states of earlier prompts; 0 keeps none."""
    threads: int = 0
    """Threads that models compute with; 0: all cores."""
    stall_s: float = 60.0
    """Time without progress on running requests after which the host is killed."""
