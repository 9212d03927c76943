"""Normalization of rows into operands of matrix products."""

import math

import torch
from numba import njit, types

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.operand import put_operand
from service.torch_host.compiled.codegen.scalars import FAST, float32s, int64s, number
from service.torch_host.compiled.kernel import Buffer, Float32, Kernel
from service.torch_host.compiled.program import Program


@njit(fastmath=FAST, error_model="numpy")
def rms_norm_row(x, weight, out, width, eps):
    """`out = x / sqrt(mean(x²) + eps) * weight` of one row (arXiv 1910.07467); 0: no weight."""
    source, target = float32s(x), float32s(out)
    total = types.float32(0.0)
    for i in range(width):
        total += source[i] * source[i]
    factor = types.float32(1.0 / math.sqrt(total / width + eps))
    if weight == 0:
        for i in range(width):
            target[i] = source[i] * factor
    else:
        weights = float32s(weight)
        for i in range(width):
            target[i] = source[i] * factor * weights[i]


@njit(fastmath=FAST, error_model="numpy")
def _layer_norm_row(x, weight, bias, out, width, eps):
    source, target, weights = float32s(x), float32s(out), float32s(weight)
    total = types.float32(0.0)
    for i in range(width):
        total += source[i]
    mean = types.float32(total / width)
    total = types.float32(0.0)
    for i in range(width):
        total += (source[i] - mean) * (source[i] - mean)
    factor = types.float32(1.0 / math.sqrt(total / width + eps))
    for i in range(width):
        target[i] = (source[i] - mean) * factor * weights[i]
    if bias != 0:
        biases = float32s(bias)
        for i in range(width):
            target[i] += biases[i]


@Kernel
def _norm(
    batch_head,
    thread,
    threads,
    x,
    x_stride,
    width,
    weight,
    bias,
    eps: Float32,
    out,
    out_stride,
    kind,
    layer_norm,
    rows,
    chosen,
):
    fields = int64s(batch_head)
    eps = number(eps)
    scratch = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    count = fields[rows]
    for row in range(count * thread // threads, count * (thread + 1) // threads):
        token = row if chosen == 0 else int64s(fields[chosen])[row]
        if layer_norm != 0:
            _layer_norm_row(x + token * x_stride, weight, bias, scratch, width, eps)
        else:
            rms_norm_row(x + token * x_stride, weight, scratch, width, eps)
        put_operand(kind, scratch, out + row * out_stride, width)


def norm(
    program: Program,
    x: Buffer,
    weight: torch.Tensor | None,
    out: Buffer,
    *,
    eps: float,
    bias: torch.Tensor | None = None,
    layer_norm: bool = False,
    kind: int | None = None,
    of_logits: bool = False,
) -> None:
    """RMS norm of rows, or `layer_norm` (arXiv 1607.06450); `out` is a product's operand.

    `of_logits` takes only the tokens that the batch requests logits for.
    """
    program.scratch(x.width * 4)
    program.add(
        _norm,
        x=x,
        width=x.width,
        weight=program.vector(weight),
        bias=program.vector(bias),
        eps=eps,
        out=out,
        kind=program.kind if kind is None else kind,
        layer_norm=layer_norm,
        rows=batch.LOGITS_ROWS if of_logits else batch.TOKENS,
        chosen=batch.LOGITS_TOKENS if of_logits else 0,
    )


@Kernel
def _add_norm(
    batch_head,
    thread,
    threads,
    x,
    x_stride,
    width,
    weight,
    eps: Float32,
    out,
    out_stride,
    scale: Float32,
):
    fields = int64s(batch_head)
    eps = number(eps)
    scale = number(scale)
    scratch = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    tokens = fields[batch.TOKENS]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        rms_norm_row(x + token * x_stride, weight, scratch, width, eps)
        source, target = float32s(scratch), float32s(out + token * out_stride)
        for i in range(width):
            target[i] += source[i] * scale


def add_norm(
    program: Program,
    x: Buffer,
    weight: torch.Tensor,
    out: Buffer,
    *,
    eps: float,
    scale: float = 1.0,
) -> None:
    """`out += rms_norm(x) * scale`: a block whose result is normalized before it is added."""
    program.scratch(x.width * 4)
    program.add(
        _add_norm, x=x, width=x.width, weight=program.vector(weight), eps=eps, out=out, scale=scale
    )
