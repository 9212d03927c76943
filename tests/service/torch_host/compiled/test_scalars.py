"""Conversions of single numbers inside kernels, held against torch's."""

import torch
from numba import njit

from service.torch_host.compiled.codegen.scalars import float32s, to_bf16, uint16s


@njit
def convert(source, target, count):
    values, halves = float32s(source), uint16s(target)
    for i in range(count):
        halves[i] = to_bf16(values[i])


def as_bf16(values: torch.Tensor) -> torch.Tensor:
    out = torch.empty(len(values), dtype=torch.bfloat16)
    convert(values.data_ptr(), out.data_ptr(), len(values))
    return out


def test_bfloat16_is_rounded_to_even():
    """Ties, subnormal numbers, overflow and infinities come out as torch rounds them."""
    draw = torch.Generator().manual_seed(1)
    whole = torch.randint(-(2**31), 2**31, (4096,), generator=draw, dtype=torch.int64)
    values = torch.cat(
        [
            whole.to(torch.int32).view(torch.float32),
            torch.tensor([1.00390625, 1.01171875, 3.4e38, torch.inf, -torch.inf, 0.0, -0.0, 1e-45]),
        ]
    )
    values = values[~values.isnan()]

    assert torch.equal(as_bf16(values), values.bfloat16())


def test_bfloat16_of_every_nan_is_nan():
    """The payload does not matter: one of only ones was once rounded up into a zero."""
    payloads = [0x7FC00000, 0x7FFFFFFF, 0x7F800001, 0x7FFF8000, -1, -0x400000, -0x7FFFFF]
    values = torch.tensor(payloads, dtype=torch.int32).view(torch.float32)
    assert values.isnan().all()

    assert as_bf16(values).isnan().all()
