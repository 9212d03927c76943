"""A network's rotary embedding as angles of a program."""

from typing import Any

from service.engines.torch.compiled.ops.rotary import angles
from service.engines.torch.compiled.program import Buffer, Program


def angles_of(program: Program, rotary: Any, name: str = "angles") -> Buffer:  # noqa: ANN401
    """Angles of one of transformers' rotary embedding modules with fixed frequencies."""
    return angles(program, name, rotary.inv_freq, factor=float(rotary.attention_scaling))
