"""Which architectures have a program, and how a loaded network becomes one."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from transformers import PreTrainedModel

from service.engines.torch.compiled.architectures.llama import assemble_llama
from service.engines.torch.compiled.blocks import Assembly

ASSEMBLERS: Final[Mapping[str, Callable[[PreTrainedModel, Assembly], None]]] = {
    "llama": assemble_llama,
}
"""By `model_type`: reads a network's weights, appends the instructions of its forward pass."""


def covered(config: Any) -> str | None:  # noqa: ANN401 - a transformers config
    """Why there is no program for a text config, None if there is one."""
    if config.model_type not in ASSEMBLERS:
        return f"there is no compiled program for {config.model_type}"
    return None
