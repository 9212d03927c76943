"""The gate of a Mamba-2 mixer, with the normalization that goes before or after it."""

import torch
from numba import njit

from service.torch_host.compiled.codegen.operand import put_operand
from service.torch_host.compiled.codegen.scalars import FAST, float32s, int64s, number, sigmoid
from service.torch_host.compiled.ops.norms import rms_norm_row
from service.torch_host.compiled.program import Buffer, Kernel, Program, bits


@njit(fastmath=FAST, error_model="numpy")
def _open(x, gates, scale, out, width):
    """`out = x * silu(gates * scale)` of one row."""
    source, gate, target = float32s(x), float32s(gates), float32s(out)
    for i in range(width):
        v = gate[i] * scale
        target[i] = source[i] * v * sigmoid(v)


@Kernel
def _gated_norm(address, thread, threads):
    p = int64s(address)
    batch = int64s(p[0])
    x, x_stride, gates, gate_stride, scale, width = p[1], p[2], p[3], p[4], number(p[5]), p[6]
    weight, groups, eps, norm_first = p[7], p[8], number(p[9]), p[10]
    out, out_stride, kind = p[11], p[12], p[13]
    row = batch[16] + thread * batch[17]
    size = width // (groups if groups != 0 else 1)
    tokens = batch[0]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        source, gate = x + token * x_stride, gates + token * gate_stride
        if norm_first == 0:
            _open(source, gate, scale, row, width)
            source = row
        for group in range(groups):
            at = group * size * 4
            rms_norm_row(source + at, weight + at, row + at, size, eps)
        if norm_first != 0:
            _open(row, gate, scale, row, width)
        put_operand(kind, row, out + token * out_stride, width)


def gated_norm(
    program: Program,
    x: Buffer,
    gates: Buffer,
    weight: torch.Tensor | None,
    out: Buffer,
    *,
    eps: float = 0.0,
    groups: int = 1,
    norm_before_gate: bool = False,
    gate_scale: float = 1.0,
) -> None:
    """`out = rms_norm(x * silu(gates * gate_scale)) * weight`, a product's operand.

    The norm is of each of `groups` equal parts of a row; it goes before the gate if asked to, and
    without a weight there is none.
    """
    program.scratch(x.width * 4)
    program.add(
        _gated_norm,
        x.address,
        x.stride,
        gates.address,
        gates.stride,
        bits(gate_scale),
        x.width,
        program.vector(weight),
        0 if weight is None else groups,
        bits(eps),
        norm_before_gate and weight is not None,
        out.address,
        out.stride,
        program.kind,
    )
