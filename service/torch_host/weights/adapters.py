"""LoRA adapters in PEFT's format: read, checked, and merged into a network's weights."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
import torch
from msgspec import Meta, Struct
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from service.core.errors import ModelNotReady

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

_TENSOR: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")

_WITHOUT_EFFECT: Final = frozenset(
    {
        *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "lora_dropout", "runtime_config", "megatron_core"),
        # Which modules were adapted: the tensors say it themselves.
        *("exclude_modules", "layers_to_transform", "layers_pattern"),
        # Read only by a way to begin that is refused, or by an option that is.
        *("loftq_config", "eva_config", "qalora_group_size"),
    }
)
"""Keys that do not affect inference."""

Rank = Annotated[int, Meta(ge=1)]
Value = TypeVar("Value")


class LoraConfig(Struct, frozen=True, kw_only=True):
    """The part of `adapter_config.json` that affects inference; other keys are checked by name."""

    peft_type: Literal["LORA"]
    r: Rank
    lora_alpha: float = 8
    use_rslora: bool = False
    fan_in_fan_out: Literal[False] = False
    bias: Literal["none"] = "none"
    target_modules: list[str] | str | None = None
    rank_pattern: dict[str, Rank] = {}
    alpha_pattern: dict[str, float] = {}
    init_lora_weights: Literal["gaussian", "orthogonal"] | bool | None = True
    """Other initializations, such as PiSSA, change the base weights as well."""

    def rank(self, module: str) -> int:
        """Rank of a module's matrices."""
        return _matching(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """Factor of the product of a module's matrices.

        Ref: arXiv 2106.09685, section 4.1 (alpha / r); arXiv 2312.03732 (alpha / √r).
        """
        rank = self.rank(module)
        alpha = _matching(self.alpha_pattern, module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


class Delta(Struct, frozen=True):
    """Update of one linear layer's weights: `scale` · up · down."""

    down: Tensor
    """(rank, inputs)"""
    up: Tensor
    """(outputs, rank)"""
    scale: float

    @property
    def finite(self) -> bool:
        """True if both matrices are finite."""
        return bool(torch.isfinite(self.down).all() and torch.isfinite(self.up).all())

    def full(self) -> Tensor:
        """Return the update as a matrix, (outputs, inputs), float32."""
        return self.scale * (self.up.float() @ self.down.float())


class _Unusable(Exception):
    """The reason why an adapter cannot be used, worded as the rest of a sentence."""


def merge(network: PreTrainedModel, folder: Path, *, model_id: str) -> None:
    """Add an adapter to the weights of the layers that it was trained for.

    Sums are taken in float32 and rounded once, to the weights' own type. Raises ModelNotReady with
    the reason if files are missing, or if the adapter is of another kind or for another network.
    """
    try:
        layers = _layers(network, read(folder))
    except _Unusable as why:
        raise ModelNotReady(f"{model_id}: the adapter in {folder} {why}") from why
    for layer, delta in layers:
        weight = layer.weight.data
        layer.weight.data = (weight.float() + delta.full().to(weight.device)).to(weight.dtype)


def read(folder: Path) -> dict[str, Delta]:
    """Read an adapter: module → update of its weights."""
    config = _config(folder / CONFIG)
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise _Unusable(f"has no {WEIGHTS}; pickle files are never loaded") from None
    except (OSError, SafetensorError) as error:
        raise _Unusable(f"cannot be read: {WEIGHTS}: {error}") from error
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise _Unusable(f"holds {name}, which is no matrix of a linear layer's adapter")
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    if not sides:
        raise _Unusable("holds no matrices")
    _check_targets(config, sides)
    return {module: _delta(config, module, pair) for module, pair in sides.items()}


def _config(path: Path) -> LoraConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config = msgspec.convert(values, LoraConfig)
    except OSError as error:
        raise _Unusable(f"has no readable {CONFIG} ({error.strerror})") from error
    except ValueError as error:  # of json as well as of msgspec
        raise _Unusable(f"cannot be used: {CONFIG}: {error}") from error
    known = _WITHOUT_EFFECT | set(LoraConfig.__struct_fields__)
    for key, value in values.items():
        if key not in known and value:
            raise _Unusable(f"uses `{key}`, which is not supported here")
    return config


def _check_targets(config: LoraConfig, modules: Mapping[str, object]) -> None:
    """Raise for a target module that the file has no matrices for."""
    targets = config.target_modules
    for target in [] if targets is None or isinstance(targets, str) else targets:
        if not any(module == target or module.endswith(f".{target}") for module in modules):
            raise _Unusable(f"names {target} in `target_modules`, and holds no matrices for it")


def _delta(config: LoraConfig, module: str, pair: Mapping[str, Tensor]) -> Delta:
    if len(pair) != len("AB"):
        raise _Unusable(f"holds only one of two matrices for {module}")
    down, up, rank = pair["A"], pair["B"], config.rank(module)
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != rank or up.shape[1] != rank:  # noqa: PLR2004
        raise _Unusable(
            f"holds matrices of shapes {_shape(down)} and {_shape(up)} for {module}, "
            f"whose rank is {rank}"
        )
    delta = Delta(down, up, config.scale(module))
    if not delta.finite:
        raise _Unusable(f"holds numbers that are not finite, for {module}")
    return delta


def _layers(network: PreTrainedModel, deltas: Mapping[str, Delta]) -> list[tuple[nn.Linear, Delta]]:
    """Find the layers to change, and check all of them before any is changed."""
    modules = dict(network.named_modules())
    uses: dict[int, int] = {}
    for _, parameter in network.named_parameters(remove_duplicate=False):
        uses[parameter.data_ptr()] = uses.get(parameter.data_ptr(), 0) + 1
    found = []
    for name, delta in deltas.items():
        layer: Any = modules.get(name)
        if layer is None:
            raise _Unusable(f"is for {name}, which the model does not have")
        if not isinstance(layer, nn.Linear):
            kind = type(layer).__name__
            raise _Unusable(f"is for {name}, which is a {kind}; only linear layers are supported")
        shape = (delta.up.shape[0], delta.down.shape[1])
        if layer.weight.shape != shape:
            raise _Unusable(f"is for {name} of {shape}, which is {_shape(layer.weight)} here")
        if uses[layer.weight.data_ptr()] > 1:
            raise _Unusable(f"is for {name}, whose weights other layers use as well")
        found.append((layer, delta))
    return found


def _matching(patterns: Mapping[str, Value], module: str, default: Value) -> Value:
    """Return the value of the first pattern that matches a module's name or its end."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
