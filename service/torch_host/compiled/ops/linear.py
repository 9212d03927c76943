"""Matrix products with packed matrices, and embeddings read from a packed matrix."""

from numba import njit, types

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.operand import quantized
from service.torch_host.compiled.codegen.scalars import (
    float32s,
    int64s,
    number,
)
from service.torch_host.compiled.formats.registry import multiply, read_row
from service.torch_host.compiled.kernel import Buffer, Float32, Kernel
from service.torch_host.compiled.packing import Packed
from service.torch_host.compiled.program import Program


@njit
def multiply_panels(
    kind,
    x,
    x_stride,
    w,
    panels,
    steps,
    scales,
    out,
    out_stride,
    bias,
    scale,
    add,
    rows,
    panel,
    end,
):
    """`out = x @ w.T * scale + bias (+ out)`, the panels `panel` to `end` of a packed matrix."""
    if bias != 0:
        source = float32s(bias)
        for row in range(rows):
            target = float32s(out + row * out_stride)
            for column in range(panel * 16, end * 16):
                before = target[column] if add != 0 else types.float32(0.0)
                target[column] = before + source[column]
        add = 1
    while panel < end:
        group = panel // 4
        width = min(4, panels - group * 4)
        inner = panel - group * 4
        taken = min(width - inner, end - panel)
        multiply(
            kind,
            x,
            x_stride,
            w + group * 4 * steps * 64 + inner * 64,
            64,
            width * 64,
            steps,
            scales + panel * 64,
            out + panel * 64,
            out_stride,
            scale,
            add,
            rows,
            taken,
        )
        panel += taken


@Kernel
def _product(
    batch_head,
    thread,
    threads,
    kind,
    x,
    x_stride,
    w,
    panels,
    steps,
    scales,
    out,
    out_stride,
    bias,
    scale: Float32,
    add,
    rows_field,
    out_field,
):
    fields = int64s(batch_head)
    scale, rows = number(scale), fields[rows_field]
    if out_field != 0:
        out = fields[out_field]
    first, panel, end = 0, 0, panels
    if panels >= 4 * threads or rows < threads:
        panel, end = panels * thread // threads, panels * (thread + 1) // threads
    else:
        first = rows * thread // threads
        rows = rows * (thread + 1) // threads - first
    multiply_panels(
        kind,
        x + first * x_stride,
        x_stride,
        w,
        panels,
        steps,
        scales,
        out + first * out_stride,
        out_stride,
        bias,
        scale,
        add,
        rows,
        panel,
        end,
    )


def _multiply(
    program: Program,
    x: Buffer,
    weight: Packed,
    out: int,
    out_stride: int,
    *,
    add: bool,
    scale: float,
    rows: int,
    out_field: int,
) -> None:
    assert x.width == weight.inputs
    x = quantized(program, x, weight.kind, rows=rows)
    program.add(
        _product,
        kind=weight.kind,
        x=x,
        w=weight.address,
        panels=weight.panels,
        steps=weight.steps,
        scales=weight.scales,
        out=out,
        out_stride=out_stride,
        bias=weight.bias,
        scale=scale,
        add=add,
        rows_field=rows,
        out_field=out_field,
    )


def linear(
    program: Program,
    x: Buffer,
    weight: Packed,
    out: Buffer,
    *,
    add: bool = False,
    scale: float = 1.0,
    rows: int = batch.TOKENS,
) -> None:
    """`out = x @ weight.T * scale + bias`, or added to what `out` holds. `out` is float32."""
    assert out.stride >= weight.outputs * 4
    _multiply(
        program,
        x,
        weight,
        out.address,
        out.stride,
        add=add,
        scale=scale,
        rows=rows,
        out_field=0,
    )


def head(program: Program, x: Buffer, weight: Packed, *, scale: float = 1.0) -> None:
    """Logits of the tokens that the batch requests them for, written to the caller's memory."""
    _multiply(
        program,
        x,
        weight,
        0,
        weight.outputs * 4,
        add=False,
        scale=scale,
        rows=batch.LOGITS_ROWS,
        out_field=batch.LOGITS,
    )


@Kernel
def _embed(
    batch_head,
    thread,
    threads,
    w,
    panels,
    steps,
    out,
    out_stride,
    scale: Float32,
    kind,
    scales,
    width,
):
    fields = int64s(batch_head)
    tokens, ids = fields[batch.TOKENS], int64s(fields[batch.TOKEN_IDS])
    scale = number(scale)
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        panel, lane = ids[token] // 16, ids[token] % 16
        group = panel // 4
        jump = min(4, panels - group * 4) * 64
        at = w + group * 4 * steps * 64 + (panel - group * 4) * 64 + lane * 4
        read_row(kind, at, jump, lane, out + token * out_stride, width, scale, scales, ids[token])


def embed(program: Program, weight: Packed, out: Buffer, *, scale: float = 1.0) -> None:
    """`out = weight[token ids] * scale`, from the packed matrix that may be the head's too."""
    program.add(
        _embed,
        w=weight.address,
        panels=weight.panels,
        steps=weight.steps,
        out=out,
        scale=scale,
        kind=weight.kind,
        scales=weight.scales,
        width=weight.inputs,
    )
