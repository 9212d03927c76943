"""Mamba-2's recurrence as an instruction, held against the recurrence in float64."""

import math
from collections.abc import Sequence
from itertools import accumulate

import pytest
import torch
from torch.nn import functional

from service.torch_host.compiled import batch
from service.torch_host.compiled.formats.floats import FLOAT32
from service.torch_host.compiled.ops.ssd import ssd
from service.torch_host.compiled.program import Program
from support.one_pass import filled, rows, run

SLOTS, TOKENS = 4, 90
SEGMENTS = ((2, 66), (0, 1), (3, 20), (1, 3))
SHAPES = {
    "as published": (4, 64, 128, 1),
    "several groups": (6, 16, 16, 3),
    "rows that are not fours": (2, 7, 48, 1),
}
"""Heads, head size, state size, groups."""


class Layer:
    """Weights, inputs and a state that is not empty."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.heads, self.size, self.width, self.groups = shape
        generator = torch.Generator().manual_seed(sum(shape))

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        self.x = normal(TOKENS, self.heads * self.size)
        self.b, self.c = normal(2, TOKENS, self.groups * self.width)
        self.dt = normal(TOKENS, self.heads) * 3
        self.rate = -normal(self.heads).exp()
        self.skip, self.dt_bias = normal(2, self.heads)
        self.state = normal(SLOTS, self.heads, self.size, self.width)

    def expected(
        self,
        segments: Sequence[tuple[int, int]],
        *,
        limit: tuple[float, float] = (0.0, math.inf),
        scale: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Results, (tokens, heads * head size), and the state afterwards."""
        shared = self.heads // self.groups
        x = self.x.double().view(TOKENS, self.heads, self.size)
        b, c = (
            part.double().view(TOKENS, self.groups, self.width).repeat_interleave(shared, 1)
            for part in (self.b, self.c)
        )
        step = functional.softplus(self.dt.double() * scale + self.dt_bias).clamp(*limit)
        outputs, state, token = [], self.state.double(), 0
        for slot, tokens in segments:
            for _ in range(tokens):
                kept = state[slot] * (step[token] * self.rate).exp()[:, None, None]
                added = (step[token, :, None] * x[token])[:, :, None] * b[token, :, None]
                state[slot] = kept + added
                out = torch.einsum("hpn,hn->hp", state[slot], c[token])
                outputs.append((out + x[token] * self.skip[:, None]).flatten())
                token += 1
        return torch.stack(outputs).float(), state.float()

    def found(
        self,
        passes: Sequence[Sequence[tuple[int, int]]],
        *,
        threads: int = 1,
        limit: tuple[float, float] = (0.0, math.inf),
        scale: float = 1.0,
        prefilling: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Results and the state after several passes in succession."""
        program = Program(FLOAT32, max_tokens=TOKENS, threads=threads)
        inputs = {"x": self.x, "b": self.b, "c": self.c, "dt": self.dt}
        buffers = {name: program.buffer(name, part.shape[1]) for name, part in inputs.items()}
        out, state = program.buffer("out", self.x.shape[1]), self.state.clone()
        ssd(
            program,
            *buffers.values(),
            out,
            state,
            rate=self.rate,
            skip=self.skip,
            dt_bias=self.dt_bias,
            dt_scale=scale,
            dt_limit=limit,
        )
        program.finish()
        program.head[batch.PREFILLING] = prefilling
        outputs, first = [], 0
        for segments in passes:
            tokens = sum(count for _, count in segments)
            for name, part in inputs.items():
                filled(program, name, part[first : first + tokens])
            run(program, segments)
            outputs.append(rows(program, out)[:tokens].clone())
            first += tokens
        return torch.cat(outputs), state


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def layer(request) -> Layer:
    return Layer(request.param)


@pytest.mark.parametrize("threads", [1, 3])
def test_it_is_the_recurrence(layer, threads):
    """Segments of one pass continue the states of their slots, however threads divide the rows."""
    outputs, state = layer.found([SEGMENTS], threads=threads)

    expected, expected_state = layer.expected(SEGMENTS)
    torch.testing.assert_close(outputs, expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(state, expected_state, atol=2e-4, rtol=1e-4)


def test_chunks_change_no_bit(layer):
    """A prompt in chunks, down to single tokens, leaves what the whole prompt leaves."""
    whole, state = layer.found([[(1, 80)]])
    for chunks in ([1] * 80, [7] * 11 + [3], [64, 16]):
        outputs, of_chunks = layer.found([[(1, chunk)] for chunk in chunks])

        assert torch.equal(outputs, whole)
        assert torch.equal(of_chunks, state)


def test_neighbours_change_no_bit(layer):
    """A segment's results are those it has alone, also where more threads divide the work."""
    together, state = layer.found([SEGMENTS], threads=3)
    apart, state_of_apart = layer.found([[segment] for segment in SEGMENTS])

    assert torch.equal(together, apart)
    assert torch.equal(state, state_of_apart)


def test_other_slots_stay(layer):
    """Slots that have no segment in a pass keep their states."""
    _, state = layer.found([[(2, 5)]])

    assert torch.equal(state[[0, 1, 3]], layer.state[[0, 1, 3]])


@pytest.mark.parametrize("tokens", [1, 30])
def test_the_time_step_is_limited_while_prefilling_only(layer, tokens):
    """As transformers does, whose step by one token while decoding knows no limit."""
    limit = (0.5, 2.0)
    for prefilling in (True, False):
        outputs, _ = layer.found([[(0, tokens)]], limit=limit, prefilling=prefilling)

        used = limit if prefilling else (0.0, math.inf)
        expected, _ = layer.expected([(0, tokens)], limit=used)
        torch.testing.assert_close(outputs, expected, atol=2e-4, rtol=1e-4)


def test_dt_is_scaled_before_its_bias(layer):
    """The multiplier of Falcon-H1 belongs to the projection."""
    outputs, _ = layer.found([SEGMENTS], scale=0.25)

    expected, _ = layer.expected(SEGMENTS, scale=0.25)
    torch.testing.assert_close(outputs, expected, atol=2e-4, rtol=1e-4)


def test_the_smallest_time_steps_keep_their_precision():
    """Far below zero softplus is as small as the exponential, and as precise."""
    layer = Layer(SHAPES["as published"])
    layer.state.zero_()
    layer.skip.zero_()
    layer.dt.copy_(torch.linspace(-40, 30, TOKENS)[:, None].expand_as(layer.dt))
    passes = [[(0, 1)]] * 3

    outputs, _ = layer.found(passes)

    expected, _ = layer.expected([(0, 3)])
    torch.testing.assert_close(outputs / expected, torch.ones_like(expected), atol=1e-3, rtol=0)


def test_a_state_of_parts_of_vectors_is_refused():
    """What the kernel's vectors would overrun is refused when the program is built."""
    with pytest.raises(ValueError, match="24"):
        Layer((2, 8, 24, 1)).found([[(0, 1)]])


def test_segments_cover_the_tokens():
    """The tests' segments are of every length that the kernel tells apart."""
    counts = [tokens for _, tokens in SEGMENTS]

    assert list(accumulate(counts))[-1] == TOKENS
    assert min(counts) == 1
    assert max(counts) > 64
