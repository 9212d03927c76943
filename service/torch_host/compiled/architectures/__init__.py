"""Registry of compiled architectures, and assembly of a loaded network into a program."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from transformers import PreTrainedModel

from service.torch_host.compiled.architectures.bamba import assemble_bamba
from service.torch_host.compiled.architectures.falcon_h1 import assemble_falcon_h1
from service.torch_host.compiled.architectures.gemma3 import assemble_gemma3
from service.torch_host.compiled.architectures.granite import assemble_granite
from service.torch_host.compiled.architectures.jamba import assemble_jamba
from service.torch_host.compiled.architectures.lfm2 import assemble_lfm2
from service.torch_host.compiled.architectures.llama import assemble_llama
from service.torch_host.compiled.architectures.mamba import assemble_mamba
from service.torch_host.compiled.architectures.mamba2 import assemble_mamba2
from service.torch_host.compiled.architectures.nemotron_h import assemble_nemotron_h
from service.torch_host.compiled.architectures.phi3 import assemble_phi3
from service.torch_host.compiled.architectures.phimoe import assemble_phimoe
from service.torch_host.compiled.architectures.qwen3_next import assemble_qwen3_next
from service.torch_host.compiled.architectures.zamba2 import assemble_zamba2
from service.torch_host.compiled.blocks.assembly import Assembly

ASSEMBLERS: Final[Mapping[str, Callable[[PreTrainedModel, Assembly], None]]] = {
    "bamba": assemble_bamba,
    "falcon_h1": assemble_falcon_h1,
    "falcon_mamba": assemble_mamba,
    "gemma3_text": assemble_gemma3,
    "granitemoehybrid": assemble_granite,
    "jamba": assemble_jamba,
    "lfm2": assemble_lfm2,
    "llama": assemble_llama,
    "mamba": assemble_mamba,
    "mamba2": assemble_mamba2,
    "nemotron_h": assemble_nemotron_h,
    "phi3": assemble_phi3,
    "phimoe": assemble_phimoe,
    "qwen2": assemble_llama,
    "qwen3": assemble_llama,
    "qwen3_5_text": assemble_qwen3_next,
    "qwen3_next": assemble_qwen3_next,
    "zamba2": assemble_zamba2,
}
"""By `model_type`: reads a network's weights, appends the instructions of its forward pass."""


def covered(config: Any) -> str | None:  # noqa: ANN401 - a transformers config
    """Return the reason why a text config has no program; None if it has one."""
    if config.model_type not in ASSEMBLERS:
        return f"there is no compiled program for {config.model_type}"
    if getattr(config, "final_logit_softcapping", None):
        return "there is no compiled kernel for final_logit_softcapping"
    return None
