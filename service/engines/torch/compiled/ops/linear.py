"""Matrix products with packed matrices, and the embedding that is read out of one."""

from numba import njit, types

from service.engines.torch.compiled.packing import Packed
from service.engines.torch.compiled.program import Buffer, Field, Kernel, Kind, Program, bits
from service.engines.torch.compiled.vectors import (
    bf16_tiles,
    float32_tiles,
    float32s,
    from_bf16,
    int64s,
    number,
    uint16s,
)


def panels_of(tiles):
    """A compiled function: `out = x @ w.T * scale + bias (+ out)`, the panels `panel` to `end`."""

    @njit
    def run(x, x_stride, w, panels, steps, out, out_stride, bias, scale, add, rows, panel, end):
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
            tiles(
                x,
                x_stride,
                w + group * 4 * steps * 64 + inner * 64,
                64,
                width * 64,
                steps,
                out + panel * 64,
                out_stride,
                scale,
                add,
                rows,
                taken,
            )
            panel += taken

    return run


def _product(tiles):
    """Kernel `out = x @ w.T * scale + bias (+ out)`, divided among threads by columns or rows."""
    run = panels_of(tiles)

    def product(address, thread, threads):
        p = int64s(address)
        x, x_stride, w, panels, steps, out, out_stride = p[1], p[2], p[3], p[4], p[5], p[6], p[7]
        bias, scale, add, rows = p[8], number(p[9]), p[10], int64s(p[0])[p[11]]
        first, panel, end = 0, 0, panels
        if panels >= 4 * threads or rows < threads:
            panel, end = panels * thread // threads, panels * (thread + 1) // threads
        else:
            first = rows * thread // threads
            rows = rows * (thread + 1) // threads - first
        x, out = x + first * x_stride, out + first * out_stride
        run(x, x_stride, w, panels, steps, out, out_stride, bias, scale, add, rows, panel, end)

    return product


_PRODUCTS = {
    Kind.BFLOAT16: Kernel(_product(bf16_tiles)),
    Kind.FLOAT32: Kernel(_product(float32_tiles)),
}


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
    assert x.width == weight.inputs
    assert out.stride >= weight.outputs * 4
    program.add(
        _PRODUCTS[weight.kind],
        x.address,
        x.stride,
        weight.address,
        weight.panels,
        weight.steps,
        out.address,
        out.stride,
        weight.bias,
        bits(scale),
        add,
        rows,
    )


def head(program: Program, x: Buffer, weight: Packed, *, scale: float = 1.0) -> None:
    """Logits of the tokens that the batch wants them of, straight into the caller's memory."""
    program.add(
        _HEADS[weight.kind],
        x.address,
        x.stride,
        weight.address,
        weight.panels,
        weight.steps,
        0,
        weight.outputs * 4,
        weight.bias,
        bits(scale),
        0,
        Field.LOGITS_ROWS,
    )


def _head(product):
    run = njit(product)

    def head(address, thread, threads):
        p = int64s(address)
        p[6] = int64s(p[0])[9]
        run(address, thread, threads)

    return head


_HEADS = {
    Kind.BFLOAT16: Kernel(_head(_product(bf16_tiles))),
    Kind.FLOAT32: Kernel(_head(_product(float32_tiles))),
}


@Kernel
def _embed(address, thread, threads):
    p = int64s(address)
    batch = int64s(p[0])
    tokens, ids = batch[0], int64s(batch[2])
    w, panels, steps, out, stride, scale, pairs = p[1], p[2], p[3], p[4], p[5], number(p[6]), p[7]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        panel, lane = ids[token] // 16, ids[token] % 16
        group = panel // 4
        jump = min(4, panels - group * 4) * 64
        at = w + group * 4 * steps * 64 + (panel - group * 4) * 64 + lane * 4
        target = float32s(out + token * stride)
        for step in range(steps):
            if pairs != 0:
                both = uint16s(at + step * jump)
                target[2 * step] = from_bf16(both[0]) * scale
                target[2 * step + 1] = from_bf16(both[1]) * scale
            else:
                target[step] = float32s(at + step * jump)[0] * scale


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
        weight.kind is Kind.BFLOAT16,
    )
