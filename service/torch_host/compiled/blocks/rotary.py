"""A network's rotary embedding as angles of a program."""

from typing import Any

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.rotary import angles
from service.torch_host.compiled.program import Program


def angles_of(program: Program, rotary: Any, name: str = "angles") -> Buffer:  # noqa: ANN401
    """Angles of one of transformers' rotary embedding modules.

    Its frequencies are fixed, or LongRoPE's short and long ones.
    """
    factor = float(rotary.attention_scaling)
    if getattr(rotary, "rope_type", "default") != "longrope":
        return angles(program, name, rotary.inv_freq, factor=factor)
    switch = rotary.config.rope_parameters["original_max_position_embeddings"]
    long, _ = ROPE_INIT_FUNCTIONS["longrope"](rotary.config, seq_len=switch + 1)
    frequencies = rotary.original_inv_freq
    return angles(
        program,
        name,
        frequencies,
        factor=factor,
        long_frequencies=long,
        long_factor=factor,
    )
