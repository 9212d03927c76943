"""Matrices with a scale and a minimum for every 32 inputs: rounding, packing, products, lookups."""

import hashlib

import numpy as np
import pytest
import torch
from numba import njit

from model_registry.sources.packed import PACKED_FORMAT
from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen import quantized_tiles, tiles
from service.torch_host.compiled.codegen.quantized_tiles import Grouped4Tile, Grouped8Tile, Int8Tile
from service.torch_host.compiled.codegen.tile_writers import Tile
from service.torch_host.compiled.formats.floats import BFLOAT16, FLOAT32
from service.torch_host.compiled.formats.grouped import GROUPED4, GROUPED8
from service.torch_host.compiled.formats.int8 import INT8
from service.torch_host.compiled.ops.linear import embed, linear
from service.torch_host.compiled.packing import Packed, pack
from service.torch_host.compiled.program import Program
from service.torch_host.compiled.quantized import Groups, attach, by_group, by_output
from support import one_pass

OUTPUTS, INPUTS, ROWS = 200, 96, 13


def grouped(code_bits: int) -> Groups:
    """A matrix of random codes, as a GGUF file may hold it."""
    draw = torch.Generator().manual_seed(code_bits)
    codes = torch.randint(0, 2**code_bits, (OUTPUTS, INPUTS), generator=draw, dtype=torch.uint8)
    scales = torch.rand(OUTPUTS, INPUTS // 32, generator=draw).half() / 8
    minima = torch.randn(OUTPUTS, INPUTS // 32, generator=draw).half()
    return Groups(codes, scales, minima, code_bits)


def weight_with(groups: Groups) -> torch.nn.Parameter:
    weight = torch.nn.Parameter(torch.zeros(OUTPUTS, INPUTS), requires_grad=False)
    attach(weight, lambda: groups)
    return weight


def activations() -> torch.Tensor:
    return torch.randn(ROWS, INPUTS, generator=torch.Generator().manual_seed(1))


def rounded_activations() -> torch.Tensor:
    """Activations as a grouped product takes them: 8 bits, a scale for 32."""
    groups = activations().view(ROWS, -1, 32)
    scales = groups.abs().amax(-1, keepdim=True) / 127
    return ((groups / scales).round() * scales).view(ROWS, INPUTS)


def product(groups: Groups) -> torch.Tensor:
    """The activations times a packed matrix."""
    program = Program(FLOAT32, max_tokens=ROWS, threads=1)
    weight = pack(program, [weight_with(groups)])
    out = program.buffer("out", weight.outputs)
    linear(program, one_pass.filled(program, "x", activations()), weight, out)
    program.finish()
    one_pass.run(program, [(0, ROWS)])
    return one_pass.rows(program, out)[:, :OUTPUTS].clone()


@pytest.mark.parametrize("code_bits", [4, 8])
def test_a_product_is_that_of_the_codes_values(code_bits):
    """Codes, scales and minima are multiplied as what they stand for, none lost in packing."""
    groups = grouped(code_bits)

    expected = rounded_activations().double() @ groups.values().double().T
    torch.testing.assert_close(product(groups).double(), expected, rtol=1e-5, atol=1e-4)


def rows_of(values: torch.Tensor, size: int) -> torch.Tensor:
    """Rows as tiles read them: int8, then scales, then what corrects each group."""
    groups = values.view(len(values), -1, size)
    scales = groups.abs().amax(-1) / 127
    whole = (groups / scales[..., None]).round()
    totals = whole.sum(-1)
    last = (totals * -128).int() if size == quantized_tiles.GROUP else totals * scales
    parts = [whole.to(torch.int8).flatten(1), scales, last]
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=1)


def tile_of(kind: type[Tile], x: torch.Tensor, weight: Packed) -> torch.Tensor:
    """What a tile of two rows and 16 columns, compiled now, makes of rows and a matrix."""
    tile, out = tiles._tile(kind(2, 1)), torch.empty(2, 16)
    stride = x.shape[1]

    @njit
    def run(x, w, steps, scales, out):
        tile(x, stride, w, 64, 64, steps, scales, out, 64, np.float32(1.0), 0)

    run(x.data_ptr(), weight.address, weight.steps, weight.scales, out.data_ptr())
    return out


@pytest.mark.parametrize("kind", [Int8Tile, Grouped4Tile, Grouped8Tile])
def test_processors_without_products_of_8_bits_sum_the_same(kind, monkeypatch):
    """Where the instruction is missing, sums are the same whole numbers: not a bit differs."""
    program = Program(FLOAT32, matrices=INT8, max_tokens=1, threads=1)
    draw = torch.Generator().manual_seed(3)
    weight = torch.randn(16, 128, generator=draw)
    if kind is not Int8Tile:
        groups = by_group(weight)._replace(code_bits=kind.code_bits)
        attach(weight, lambda: groups)
    packed = pack(program, [weight])
    x = rows_of(torch.randn(2, 128, generator=draw), packed.kind.group_inputs)
    expected = tile_of(kind, x, packed)

    monkeypatch.setattr(quantized_tiles, "has_int8_dot", lambda: False)

    assert torch.equal(tile_of(kind, x, packed), expected)


@pytest.mark.parametrize("code_bits", [4, 8])
def test_embeddings_are_the_codes_values(code_bits):
    """A row that is read out of a packed matrix is the row that was packed, to the bit."""
    groups = grouped(code_bits)
    program = Program(FLOAT32, max_tokens=OUTPUTS, threads=1)
    out = program.buffer("out", INPUTS)
    embed(program, pack(program, [weight_with(groups)]), out)
    program.finish()
    ids = np.arange(OUTPUTS, dtype=np.int64)
    program.head[batch.TOKEN_IDS] = ids.ctypes.data
    one_pass.run(program, [(0, OUTPUTS)])

    torch.testing.assert_close(one_pass.rows(program, out), groups.values(), rtol=1e-6, atol=1e-6)


def test_weights_of_16_levels_are_kept_exactly():
    """What was rounded to such groups before is found again, not rounded once more."""
    groups = grouped(4)
    groups.codes[:, ::32], groups.codes[:, 1::32] = 0, 15

    again = by_group(groups.values()).values()

    torch.testing.assert_close(again, groups.values(), rtol=1e-3, atol=2e-3)


def test_rounding_errs_less_than_the_range_alone_would_have_it():
    """Narrowed ranges and fitted scales take a tenth off the squared error of the full range."""
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    in_groups = weight.view(64, -1, 32)
    low, high = in_groups.amin(-1, keepdim=True), in_groups.amax(-1, keepdim=True)
    scales = (high - low) / 15
    plain = ((in_groups - low) / scales).round() * scales + low

    error = (by_group(weight).values() - weight).square().sum()

    assert error < 0.92 * (plain - in_groups).square().sum()


def test_inputs_that_are_no_whole_groups_and_constant_groups_are_kept():
    """Padding adds nothing to a product, and a group of equal weights divides by no zero."""
    weight = torch.cat([torch.full((3, 40), 0.5), torch.zeros(2, 40)])

    values = by_group(weight).values()

    torch.testing.assert_close(values[:, :40], weight, rtol=0, atol=1e-3)
    assert values.isfinite().all()


def test_a_grouped_matrix_takes_five_bits_a_weight():
    """The bytes that a program reports are the codes and their scales."""
    program = Program(FLOAT32, matrices=GROUPED4, max_tokens=1, threads=1)
    pack(program, [torch.randn(128, 256)])

    assert program.weights_bytes == 128 * 256 * 5 // 8


def test_embeddings_of_a_4_bit_program_have_8():
    """Logits and embeddings never have fewer than 8 bits."""
    program = Program(BFLOAT16, matrices=GROUPED4, max_tokens=1, threads=1)

    assert program.embeddings is INT8
    assert by_output(torch.tensor([[1.0, -1.0]])).codes.tolist() == [[255, 1]]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (INT8, "5fe511dab09caf44"),
        (GROUPED4, "10d6e1d918c7d6f6"),
        (GROUPED8, "e8aba89bcbfb7a39"),
    ],
)
def test_a_change_of_layout_raises_the_format_of_files(kind, expected):
    """Packed weights on disk are these bytes: who changes them raises PACKED_FORMAT too."""
    program = Program(FLOAT32, matrices=INT8, max_tokens=1, threads=1)
    whole = torch.arange(80 * 64).view(80, 64) * 37 % 251
    weight = (whole - 125).float() / 64
    if kind is not INT8:
        bits = 4 if kind is GROUPED4 else 8
        scales = (whole[:, :2] + 1).half()
        groups = Groups((whole % 2**bits).to(torch.uint8), scales, -scales, bits)
        attach(weight, lambda: groups)
    pack(program, [weight])
    (matrix,) = program.packed

    digest = hashlib.sha256(matrix.stream.numpy().tobytes()).hexdigest()
    assert (PACKED_FORMAT, digest[:16]) == (1, expected)
