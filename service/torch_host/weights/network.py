"""transformers' network of a checkpoint, with an adapter merged in and progress reported."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from model_registry.sources.model_files import GGUF_NAME
from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.engines.torch.protocol.messages import LoadProgress
from service.torch_host.weights.adapters import merge
from service.torch_host.weights.build import device
from service.torch_host.weights.gguf_blocks import attach_blocks


def load_network(resolved: ResolvedModel) -> PreTrainedModel:
    """Load a checkpoint's own weights. Raises ModelNotReady."""
    network: PreTrainedModel
    report: dict[str, Any]
    network, report = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
        resolved.path,
        dtype=getattr(torch, resolved.dtype),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:5])
        raise ModelNotReady(
            f"{resolved.id}: {len(report['missing_keys'])} tensors are missing from the weights "
            f"({missing}…): they do not fit {resolved.path}/config.json"
        )
    if resolved.adapter_path is not None:
        merge(network, Path(resolved.adapter_path), model_id=resolved.id)
    network.eval().requires_grad_(requires_grad=False)
    network.to(device())  # type: ignore[arg-type]
    if resolved.quantization == "gguf":
        attach_blocks(network, Path(resolved.path) / GGUF_NAME)
    return network


@contextmanager
def report_progress(
    resolved: ResolvedModel, progress: Callable[[LoadProgress], None]
) -> Iterator[None]:
    """Report bytes while transformers loads tensors, in proportion to their number."""
    total = sum(file.stat().st_size for file in Path(resolved.path).glob("*.safetensors"))

    def report(done: int, of: int) -> None:
        progress(
            LoadProgress(
                model_id=resolved.id,
                stage="weights",
                done_bytes=total * done // of,
                total_bytes=total,
            )
        )

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        if len(args) == 1 and hasattr(args[0], "__len__"):
            return _counted(args[0], report)
        return factory(*args, **kwargs)

    report(0, 1)
    previous = transformers_logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)
    report(1, 1)


def _counted(items: Any, report: Callable[[int, int], None]) -> Iterator[Any]:  # noqa: ANN401
    step = max(len(items) // 100, 1)
    for done, item in enumerate(items):
        if done % step == 0:
            report(done, len(items))
        yield item
