"""Loads a model's folder into a SlotModel: chooses the kernel path and the source of weights."""

import logging
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.engines.torch.protocol.messages import KernelChoice, LoadProgress
from service.torch_host.compiled.architectures import covered
from service.torch_host.compiled.codegen.cpu_features import KERNEL_PATH as COMPILED
from service.torch_host.compiled.formats.format import Matrix
from service.torch_host.compiled.model import CompiledModel
from service.torch_host.compiled.uncompilable import Uncompilable
from service.torch_host.eager.model import EagerModel
from service.torch_host.slot_model import SlotModel
from service.torch_host.weights.build import ENGINE_VERSION, build_of, device
from service.torch_host.weights.meta_network import meta_network
from service.torch_host.weights.network import load_network, report_progress
from service.torch_host.weights.packed_variant import read_packed
from service.torch_host.weights.servable import check_servable

EAGER = "transformers-eager"
"""Kernel path of transformers' modelling code, operator by operator."""

log = logging.getLogger(__name__)


def load(
    resolved: ResolvedModel,
    *,
    slots: int,
    progress: Callable[[LoadProgress], None],
    kernels: KernelChoice = "auto",
    threads: int | None = None,
) -> SlotModel:
    """Load a model. Raises ModelNotReady with the reason and the fix.

    Args:
        resolved: The model and its files.
        slots: Requests that may be live at once.
        progress: Called as the load proceeds.
        kernels: Compiled programs or transformers' own code; "auto" compiles wherever there is a
            program for the model.
        threads: Threads that the engine's thread computes with; by default those of this thread.
    """
    check_servable(resolved)
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
        with report_progress(resolved, progress):
            network = load_network(resolved)
    else:
        network = meta_network(resolved.path, getattr(torch, resolved.dtype), packed.network)
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
            network = load_network(resolved)  # compiling took weights out of it
    if kernels == "compiled" or resolved.quantization is not None:
        wanted = resolved.quantization or 'the setting torch.kernels = "compiled"'
        raise ModelNotReady(
            f"{resolved.id}: {wanted} needs a compiled program, but {missing}; "
            f'use {resolved.spec.id} with torch.kernels = "auto"'
        )
    log.warning("%s runs as transformers' own code: %s", resolved.id, missing)
    return EagerModel(network, resolved, build_of(resolved, EAGER), slots=slots)


def compiled(
    network: PreTrainedModel,
    resolved: ResolvedModel,
    *,
    slots: int,
    threads: int,
    stored: Sequence[Matrix] | None = None,
) -> CompiledModel:
    """Compile a network, whose weights are taken out. Raises Uncompilable if it has no program."""
    build = build_of(resolved, COMPILED)
    return CompiledModel(network, resolved, build, slots=slots, threads=threads, stored=stored)


def _why_not_compiled(network: PreTrainedModel) -> str | None:
    """Return the reason why a network cannot be compiled; None if it can."""
    if device().type != "cpu":
        return f"compiled programs run on the CPU, and the model is on {device()}"
    if network.dtype not in (torch.float32, torch.bfloat16):
        return f"compiled programs compute in float32 or bfloat16, not {network.dtype}"
    return covered(network.config.get_text_config(decoder=True))
