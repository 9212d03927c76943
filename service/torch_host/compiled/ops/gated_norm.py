"""The gate of a Mamba-2 mixer, with the normalization that goes before or after it."""

import torch
from numba import njit

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.operand import put_operand
from service.torch_host.compiled.codegen.scalars import FAST, float32s, int64s, number, sigmoid
from service.torch_host.compiled.kernel import Buffer, Float32, Kernel
from service.torch_host.compiled.ops.norms import rms_norm_row
from service.torch_host.compiled.program import Program


@njit(fastmath=FAST, error_model="numpy")
def _open(x, gates, scale, out, width):
    """`out = x * silu(gates * scale)` of one row."""
    source, gate, target = float32s(x), float32s(gates), float32s(out)
    for i in range(width):
        v = gate[i] * scale
        target[i] = source[i] * v * sigmoid(v)


@Kernel
def _gated_norm(
    batch_head,
    thread,
    threads,
    x,
    x_stride,
    gates,
    gates_stride,
    scale: Float32,
    width,
    weight,
    groups,
    eps: Float32,
    norm_first,
    out,
    out_stride,
    kind,
):
    fields = int64s(batch_head)
    scale = number(scale)
    eps = number(eps)
    row = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    size = width // (groups if groups != 0 else 1)
    tokens = fields[batch.TOKENS]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        source, gate = x + token * x_stride, gates + token * gates_stride
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
        x=x,
        gates=gates,
        scale=gate_scale,
        width=x.width,
        weight=program.vector(weight),
        groups=0 if weight is None else groups,
        eps=eps,
        norm_first=norm_before_gate and weight is not None,
        out=out,
        kind=program.kind,
    )
