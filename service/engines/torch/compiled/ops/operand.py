"""Rows on their way into a matrix product: float32 values become what the product reads."""

from numba import njit

from service.engines.torch.compiled.vectors import FAST, float32s, to_bf16, uint16s


@njit(fastmath=FAST)
def put_operand(kind, row, out, width):
    """Write `width` float32 values at `row` to `out` as a `Kind`."""
    source = float32s(row)
    if kind == 1:
        halves = uint16s(out)
        for i in range(width):
            halves[i] = to_bf16(source[i])
    else:
        target = float32s(out)
        for i in range(width):
            target[i] = source[i]
