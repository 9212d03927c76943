"""The causal convolution as an instruction, held against plain torch."""

from collections.abc import Sequence

import pytest
import torch
from torch.nn import functional

from service.torch_host.compiled.formats.floats import BFLOAT16, FLOAT32
from service.torch_host.compiled.formats.format import Format
from service.torch_host.compiled.ops.convolution import convolution
from service.torch_host.compiled.program import Program
from support.one_pass import filled, rows, run

SLOTS, TOKENS = 4, 60
SEGMENTS = ((2, 37), (0, 1), (3, 20), (1, 2))


class Layer:
    """Weights, inputs and a state that is not empty."""

    def __init__(self, channels: int, taps: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(channels + taps)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        self.weight, self.bias = normal(channels, taps), normal(channels)
        self.x = normal(TOKENS, channels)
        self.state = normal(SLOTS, channels, taps).to(dtype)

    def expected(
        self, segments: Sequence[tuple[int, int]], *, silu: bool, bias: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Results, (tokens, channels), and the state afterwards, of torch's own convolution."""
        outputs, state, first = [], self.state.clone(), 0
        for slot, tokens in segments:
            new = self.x[first : first + tokens].T.to(state.dtype)
            inputs = torch.cat([state[slot], new], dim=1)
            state[slot] = inputs[:, -state.shape[-1] :]
            out = functional.conv1d(
                inputs[None, :, 1:].float(),
                self.weight[:, None],
                self.bias if bias else None,
                groups=len(self.weight),
            )[0].T
            outputs.append(functional.silu(out) if silu else out)
            first += tokens
        return torch.cat(outputs), state

    def found(
        self,
        passes: Sequence[Sequence[tuple[int, int]]],
        *,
        silu: bool = True,
        bias: bool = True,
        threads: int = 1,
        kind: Format = FLOAT32,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Results, results as operands, and the state after several passes in succession."""
        channels = len(self.weight)
        program = Program(kind, max_tokens=TOKENS, threads=threads)
        x, out = program.buffer("x", channels), program.buffer("out", channels)
        operand = program.operand_buffer("operand", channels)
        state = self.state.clone()
        weights = self.bias if bias else None
        convolution(program, x, out, self.weight, weights, state, silu=silu, operand=operand)
        program.finish()
        outputs, operands, first = [], [], 0
        for segments in passes:
            tokens = sum(count for _, count in segments)
            filled(program, "x", self.x[first : first + tokens])
            run(program, segments)
            outputs.append(rows(program, out)[:tokens].clone())
            operands.append(rows(program, operand, kind.dtype)[:tokens].clone())
            first += tokens
        return torch.cat(outputs), torch.cat(operands), state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("taps", [2, 3, 4, 20])
@pytest.mark.parametrize("channels", [5, 64, 208])
def test_segments_continue_their_states(channels, taps, dtype):
    """Segments of several lengths, each from its slot's inputs, come out as torch's do."""
    layer = Layer(channels, taps, dtype)
    out, _, state = layer.found([SEGMENTS])

    expected, after = layer.expected(SEGMENTS, silu=True, bias=True)
    torch.testing.assert_close(out, expected)
    assert torch.equal(state, after)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_bias_and_activation_are_optional(silu, bias):
    """LFM2's convolution has neither, Mamba's has both."""
    layer = Layer(80, 4, torch.float32)
    out, _, _ = layer.found([SEGMENTS], silu=silu, bias=bias)

    expected, _ = layer.expected(SEGMENTS, silu=silu, bias=bias)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("kind", [FLOAT32, BFLOAT16])
def test_operand_is_the_result(kind):
    """What a product reads is the result as that product stores it."""
    out, operand, _ = Layer(80, 4, torch.float32).found([SEGMENTS], kind=kind)

    assert torch.equal(operand, out.to(kind.dtype))


def test_other_slots_keep_their_states():
    """A slot without a segment is not touched."""
    layer = Layer(80, 4, torch.float32)
    _, _, state = layer.found([[(2, 5)]])

    assert torch.equal(state[[0, 1, 3]], layer.state[[0, 1, 3]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 3])
def test_chunks_and_neighbours_change_no_bit(dtype, threads):
    """A prompt in chunks, among other segments, gives the bits that it gives alone and whole."""
    layer = Layer(208, 4, dtype)
    whole, _, state = layer.found([[(1, TOKENS)]])

    for sizes in ([1] * TOKENS, [2, 17, 16, 3, 22]):
        out, _, after = layer.found([[(1, size)] for size in sizes], threads=threads)
        assert torch.equal(out, whole)
        assert torch.equal(after, state)
    alone, _, _ = layer.found([[(2, 37)]])
    together, _, _ = layer.found([SEGMENTS], threads=threads)
    assert torch.equal(together[:37], alone)
