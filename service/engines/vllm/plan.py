"""VllmPlan: validation and sizing of a model before vLLM is started."""

import asyncio
from pathlib import Path
from typing import Any

from msgspec import Struct

from model_registry.errors import RegistryError
from model_registry.footprint import predict
from model_registry.sources.model_files import read_config
from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.core.events import ModelBuild, StateBytes
from service.engines.vllm.command import VllmOptions, context_tokens
from service.engines.vllm.install import VllmInstall, compute_capability, find_install
from service.engines.vllm.pages import VllmPages, vllm_pages
from service.engines.vllm.platform import refusal


class VllmPlan(Struct, frozen=True, kw_only=True):
    """A model, the vLLM that will serve it, and the bytes that it will hold."""

    install: VllmInstall
    config: dict[str, Any]
    pages: VllmPages | None
    """None where vLLM's blocks for such a model are not known here."""
    weights_bytes: int | None
    """As predicted, since vLLM does not tell; None for weights that it packs."""
    slots_bytes: int
    """What it reserves for the state of all requests."""
    build: ModelBuild

    def state_bytes(self, length_tokens: int) -> StateBytes:
        """Bytes of a finished request's state; its last token was sampled and never read."""
        if self.pages is None:
            return StateBytes()
        kept_tokens = max(0, length_tokens - 1)
        return StateBytes(
            attention_kv_bytes=self.pages.token_bytes * kept_tokens,
            window_kv_bytes=0,
            ssm_state_bytes=self.pages.ssm_state_bytes,
            conv_state_bytes=self.pages.conv_state_bytes,
            snapshot_bytes=0,
            reserved_bytes=self.pages.reserved_bytes(kept_tokens),
        )


async def make_plan(model: ResolvedModel, options: VllmOptions) -> VllmPlan:
    """Find vLLM and read the model. Raises ModelNotReady for what vLLM cannot serve, with why."""
    install = await find_install(options.python)
    try:
        config = await asyncio.to_thread(read_config, Path(model.path))
        pages = vllm_pages(
            config,
            max_tokens=context_tokens(model, options),
            dtype=model.dtype,
            device=install.device,
        )
        weights = predict(config, context_tokens=0, dtype=model.dtype).weights_bytes
    except RegistryError as error:
        raise ModelNotReady(f"{model.id}: {error}") from error
    capability = await compute_capability() if install.device == "cuda" else None
    reason = refusal(model, config, device=install.device, capability=capability)
    reason = reason or _shortage(context_tokens(model, options), options.kv_cache_bytes, pages)
    if reason is not None:
        raise ModelNotReady(f"{model.id} cannot be served by vLLM: {reason}.")
    return VllmPlan(
        install=install,
        config=config,
        pages=pages,
        weights_bytes=None if model.quantization else weights,
        slots_bytes=options.kv_cache_bytes - (options.kv_cache_bytes % pages.block_bytes)
        if pages
        else options.kv_cache_bytes,
        build=_build(model, install, options),
    )


def _shortage(tokens: int, held_bytes: int, pages: VllmPages | None) -> str | None:
    """Reason why a single request would exceed the KV cache reserved for all; None if it fits."""
    needed_bytes = pages.reserved_bytes(tokens) if pages else 0
    if needed_bytes <= held_bytes:
        return None
    return (
        f"a request of {tokens} tokens takes {needed_bytes} bytes of state, and "
        f"vllm.kv_cache_bytes is {held_bytes}; raise it, or set vllm.max_context_tokens"
    )


def _build(model: ResolvedModel, install: VllmInstall, options: VllmOptions) -> ModelBuild:
    return ModelBuild(
        weights_sha256=model.weights_sha256,
        dtype=model.dtype,
        quantization=model.quantization,
        engine="vllm",
        engine_version=install.versions,
        device=install.device,
        kernel_path=f"vllm-{install.device}-{'compiled' if options.compile else 'eager'}",
        state_source="computed",
    )
