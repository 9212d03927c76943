"""Matrix products with packed matrices, and the embedding that is read out of one."""

from numba import njit, types

from service.torch_host.compiled.codegen.operand import quantized
from service.torch_host.compiled.codegen.scalars import (
    float32s,
    int64s,
    number,
)
from service.torch_host.compiled.formats.registry import multiply, read_row
from service.torch_host.compiled.packing import Packed
from service.torch_host.compiled.program import Buffer, Field, Kernel, Program, bits


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
def _product(address, thread, threads):
    p = int64s(address)
    batch = int64s(p[0])
    kind, x, x_stride, w, panels, steps, scales = p[1], p[2], p[3], p[4], p[5], p[6], p[7]
    out, out_stride, bias, scale, add, rows = p[8], p[9], p[10], number(p[11]), p[12], batch[p[13]]
    if p[14] != 0:
        out = batch[p[14]]
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
    rows: Field,
    out_field: int,
) -> None:
    assert x.width == weight.inputs
    x = quantized(program, x, weight.kind, rows=rows)
    program.add(
        _product,
        weight.kind,
        x.address,
        x.stride,
        weight.address,
        weight.panels,
        weight.steps,
        weight.scales,
        out,
        out_stride,
        weight.bias,
        bits(scale),
        add,
        rows,
        out_field,
    )


def linear(
    program: Program,
    x: Buffer,
    weight: Packed,
    out: Buffer,
    *,
    add: bool = False,
    scale: float = 1.0,
    rows: Field = Field.TOKENS,
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
    """Logits of the tokens that the batch wants them of, straight into the caller's memory."""
    _multiply(
        program,
        x,
        weight,
        0,
        weight.outputs * 4,
        add=False,
        scale=scale,
        rows=Field.LOGITS_ROWS,
        out_field=Field.LOGITS,
    )


@Kernel
def _embed(address, thread, threads):
    p = int64s(address)
    batch = int64s(p[0])
    tokens, ids = batch[0], int64s(batch[2])
    w, panels, steps, out, stride = p[1], p[2], p[3], p[4], p[5]
    scale, kind, scales, width = number(p[6]), p[7], p[8], p[9]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        panel, lane = ids[token] // 16, ids[token] % 16
        group = panel // 4
        jump = min(4, panels - group * 4) * 64
        at = w + group * 4 * steps * 64 + (panel - group * 4) * 64 + lane * 4
        read_row(kind, at, jump, lane, out + token * stride, width, scale, scales, ids[token])


def embed(program: Program, weight: Packed, out: Buffer, *, scale: float = 1.0) -> None:
    """`out = weight[token ids] * scale`, from the packed matrix that may be the head's too."""
    program.add(
        _embed,
        weight.address,
        weight.panels,
        weight.steps,
        out.address,
        out.stride,
        bits(scale),
        weight.kind,
        weight.scales,
        weight.inputs,
    )
