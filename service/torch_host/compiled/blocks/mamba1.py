"""The Mamba-1 mixer: convolution, selective scan, gate."""

from typing import Any

import torch
from torch.nn import functional

from service.torch_host.compiled.blocks.assembly import Assembly, free
from service.torch_host.compiled.formats.floats import BFLOAT16
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.activations import Activation, activation_named
from service.torch_host.compiled.ops.convolution import convolution
from service.torch_host.compiled.ops.selective_scan import Norms, select, selective_scan
from service.torch_host.compiled.uncompilable import Uncompilable


def add_mixer(
    a: Assembly,
    x: Buffer,
    mixer: Any,  # noqa: ANN401 - a transformers module
    norms: Norms | None,
) -> None:
    """Add a Mamba-1 mixer's output to the stream.

    Raises Uncompilable if its activation is not the scan's.
    """
    program, rank = a.program, mixer.time_step_rank
    channels, states = mixer.A_log.shape
    if activation_named(mixer.activation) is not Activation.SILU:
        raise Uncompilable(f"a selective scan opened by {mixer.activation}")
    both = a.project(x, a.pack(mixer.in_proj), "hidden and gate")
    weight = mixer.conv1d.weight.squeeze(1)
    inputs = a.slots.convolution(channels, weight.shape[1], program.kind.dtype)
    state = a.slots.recurrent(channels, states)
    hidden = program.buffer("convolved", channels)
    rounded = None
    if program.kind is BFLOAT16:
        rounded = program.operand_buffer("convolved operand", channels)
    convolution(
        program,
        both.columns(0, channels),
        hidden,
        weight,
        mixer.conv1d.bias,
        inputs,
        silu=True,
        operand=rounded,
    )
    # What rules the state's decay is never int8: the matrices are small, their errors add up.
    x_weight = a.pack_weights([mixer.x_proj.weight], exact=True)
    selected = select(
        program, a.project(rounded or hidden, x_weight, "selected"), rank, states, norms
    )
    padded = functional.pad(mixer.dt_proj.weight, (0, selected.delta.width - rank))
    delta = a.project(selected.delta, a.pack_weights([padded], exact=True), "delta")
    free(mixer.x_proj, mixer.dt_proj)
    scanned = selective_scan(
        program,
        hidden,
        delta,
        both.columns(channels, channels),
        selected,
        decay=-torch.exp(mixer.A_log.float()),
        delta_bias=mixer.dt_proj.bias,
        skip=mixer.D,
        state=state,
    )
    a.add(scanned, a.pack(mixer.out_proj))
