"""Mamba-2's mixer (arXiv 2405.21060), as transformers' modules hold its weights."""

import math
from typing import Any, Final, NamedTuple

import torch

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.convolution import convolution
from service.torch_host.compiled.ops.gated_norm import gated_norm
from service.torch_host.compiled.ops.ssd import ssd
from service.torch_host.compiled.uncompilable import Uncompilable


class Multipliers(NamedTuple):
    """Factors of the parts of a mixer (Falcon-H1)."""

    inputs: float = 1.0
    gate: float = 1.0
    x: float = 1.0
    b: float = 1.0
    c: float = 1.0
    dt: float = 1.0


_PLAIN: Final = Multipliers()


def add_mamba2(
    a: Assembly,
    x: Buffer,
    mixer: Any,  # noqa: ANN401 - a transformers module
    *,
    multipliers: Multipliers = _PLAIN,
    scale: float = 1.0,
) -> None:
    """Add a mixer's output for `x`, times `scale`, to the stream.

    Multipliers of the parts go where they cost nothing: into the convolution's float32 weights, the
    gate and the time step.
    """
    if mixer.activation not in ("silu", "swish"):
        raise Uncompilable(f"a mixer whose activation is {mixer.activation}")
    heads, size, state_size = mixer.num_heads, mixer.head_dim, mixer.ssm_state_size
    width, shared = heads * size, mixer.n_groups * state_size
    channels = width + 2 * shared
    taps, dtype = mixer.conv1d.weight.shape[-1], mixer.conv1d.weight.dtype
    inputs = a.slots.convolution(channels, taps, dtype)
    state = a.slots.recurrent(heads, size, state_size)
    projected = a.project(
        x, a.pack(mixer.in_proj), "gate, x, B, C and dt", scale=multipliers.inputs
    )
    convolved = a.program.buffer("x, B and C", channels)
    factors = torch.tensor(
        [multipliers.x, multipliers.b, multipliers.c], dtype=torch.float32
    ).repeat_interleave(torch.tensor([width, shared, shared]))
    weight = mixer.conv1d.weight.float().squeeze(1) * factors[:, None]
    convolution(
        a.program,
        projected.columns(width, channels),
        convolved,
        weight,
        mixer.conv1d.bias,
        inputs,
        silu=True,
    )
    mixed = a.program.buffer("mixed by state", width)
    dt_limit = mixer.time_step_limit or (0.0, math.inf)
    if tuple(dt_limit) != (0.0, math.inf):
        a.slots.decode_differs = True  # transformers limits time steps in a prefill alone
    ssd(
        a.program,
        convolved.columns(0, width),
        convolved.columns(width, shared),
        convolved.columns(width + shared, shared),
        projected.columns(width + channels, heads),
        mixed,
        state,
        rate=-mixer.A_log.float().exp(),
        skip=mixer.D,
        dt_bias=mixer.dt_bias,
        dt_scale=multipliers.dt,
        dt_limit=dt_limit,
    )
    gated = a.program.operand_buffer("gated", width)
    norm = getattr(mixer.norm, "weight", None)
    gated_norm(
        a.program,
        mixed,
        projected.columns(0, width),
        norm,
        gated,
        eps=getattr(mixer.norm, "variance_epsilon", 0.0),
        groups=_groups(mixer.norm, width),
        norm_before_gate=getattr(mixer.norm, "norm_before_gate", False),
        gate_scale=multipliers.gate,
    )
    a.add_layer(gated, mixer.out_proj, scale=scale)


def _groups(norm: Any, width: int) -> int:  # noqa: ANN401 - a transformers module
    """Number of parts of a row that a mixer's norm normalizes independently."""
    if hasattr(norm, "n_groups"):
        return int(norm.n_groups)
    return width // int(getattr(norm, "group_size", width))
