"""The gated delta rule's kernels against a plain recurrence in torch."""

import numpy as np
import pytest
import torch

from service.torch_host.compiled import batch
from service.torch_host.compiled.formats.floats import FLOAT32
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.delta_rule import delta_rule
from service.torch_host.compiled.program import Program

SLOTS = 4
SHAPES = {
    "as published": (2, 4, 128, 128),
    "a head for each key": (3, 3, 16, 32),
    "less than a panel": (2, 4, 16, 8),
    "a last block in part": (1, 2, 24, 72),
}
"""Key heads, value heads, key size, value size."""


class Layer:
    """One layer's weights and inputs, and its program over a state of some slots."""

    def __init__(self, shape: tuple[int, int, int, int], *, tokens: int, threads: int = 1) -> None:
        self.key_heads, self.heads, self.size, self.value_size = shape
        draw = torch.Generator().manual_seed(5)
        widths = (2 * self.key_heads * self.size, self.heads * self.value_size)
        self.mixed = torch.randn(tokens, sum(widths), generator=draw)
        self.a = torch.randn(tokens, self.heads, generator=draw) * 3
        self.b = torch.randn(tokens, self.heads, generator=draw)
        self.a_log = torch.rand(self.heads, generator=draw)
        self.dt_bias = torch.rand(self.heads, generator=draw)
        self.state = torch.randn(SLOTS, self.heads, self.size, self.value_size, generator=draw)
        self.kept = self.state.clone()
        self._program = Program(FLOAT32, max_tokens=tokens, threads=threads)
        self._inputs = [
            self._program.buffer(name, values.shape[1])
            for name, values in (("mixed", self.mixed), ("a", self.a), ("b", self.b))
        ]
        mixed, a, b = self._inputs
        self._out = delta_rule(
            self._program,
            mixed,
            a,
            b,
            self.a_log,
            self.dt_bias,
            self.state,
            key_heads=self.key_heads,
        )
        self._program.finish()

    def run(self, segments: dict[int, range]) -> torch.Tensor:
        """Advance slots by some of the tokens; their answers, one segment after the other."""
        chosen = [token for tokens in segments.values() for token in tokens]
        for buffer, values in zip(self._inputs, (self.mixed, self.a, self.b), strict=True):
            view(buffer, len(chosen)).copy_(values[chosen])
        firsts = np.cumsum([0, *map(len, segments.values())], dtype=np.int64)
        slots = np.array(list(segments), dtype=np.int64)
        head = self._program.head
        head[batch.TOKENS], head[batch.SEGMENTS] = len(chosen), len(segments)
        head[batch.FIRST_TOKENS], head[batch.ROWS] = firsts.ctypes.data, slots.ctypes.data
        self._program.run()
        return view(self._out, len(chosen)).clone()

    def expected(self, slot: int, tokens: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Answers and final state by the published recurrence, in float64."""
        width, size = self.key_heads * self.size, self.size
        q, k, v = self.mixed.double().tensor_split([width, 2 * width], dim=1)
        q, k = (x.view(len(x), self.key_heads, size) for x in (q, k))
        q, k = (x / (x.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
        q, k = (x.repeat_interleave(self.heads // self.key_heads, dim=1) for x in (q, k))
        v = v.view(len(v), self.heads, self.value_size)
        softplus = torch.nn.functional.softplus(self.a.double() + self.dt_bias)
        decay, beta = (-self.a_log.double().exp() * softplus).exp(), self.b.double().sigmoid()
        state, answers = self.kept[slot].double(), []
        for t in tokens:
            state = state * decay[t, :, None, None]
            delta = (v[t] - torch.einsum("hkv,hk->hv", state, k[t])) * beta[t, :, None]
            state = state + k[t, :, :, None] * delta[:, None]
            answers.append(torch.einsum("hkv,hk->hv", state, q[t]) * size**-0.5)
        return torch.stack(answers).flatten(1).float(), state.float()


def view(buffer: Buffer, tokens: int) -> torch.Tensor:
    """A buffer's first rows."""
    pointer = (np.ctypeslib.ctypes.c_float * (tokens * buffer.stride // 4)).from_address(
        buffer.address
    )
    rows = torch.from_numpy(np.ctypeslib.as_array(pointer)).view(tokens, buffer.stride // 4)
    return rows[:, : buffer.width]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_the_published_recurrence(shape):
    """From a state of the past, answers and the state left behind are the recurrence's."""
    layer = Layer(shape, tokens=40)

    found = layer.run({1: range(40)})

    answers, state = layer.expected(1, range(40))
    torch.testing.assert_close(found, answers, atol=1e-4, rtol=0)
    torch.testing.assert_close(layer.state[1], state, atol=1e-4, rtol=0)


@pytest.mark.parametrize("threads", [1, 3])
def test_segments_go_to_their_own_slots(threads):
    """Segments of one pass each continue one slot's state and leave the others alone."""
    layer = Layer(SHAPES["as published"], tokens=30, threads=threads)
    segments = {3: range(11), 0: range(11, 12), 2: range(12, 30)}

    found = layer.run(segments)

    expected = {slot: layer.expected(slot, tokens) for slot, tokens in segments.items()}
    torch.testing.assert_close(
        found, torch.cat([answers for answers, _ in expected.values()]), atol=1e-4, rtol=0
    )
    for slot, (_, state) in expected.items():
        torch.testing.assert_close(layer.state[slot], state, atol=1e-4, rtol=0)
    assert torch.equal(layer.state[1], layer.kept[1])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_division_into_passes_changes_no_bit(shape):
    """Tokens that come in one pass or in several, alone or in company, have the same answers."""
    whole, parts = Layer(shape, tokens=20), Layer(shape, tokens=20, threads=2)

    once = whole.run({1: range(20)})
    first = parts.run({1: range(7)})
    then = parts.run({0: range(9), 1: range(7, 8)})[9:]
    last = parts.run({2: range(3), 1: range(8, 20)})[3:]

    assert torch.equal(torch.cat([first, then, last]), once)
    assert torch.equal(parts.state[1], whole.state[1])


def test_a_strong_decay_forgets():
    """A step so long that the decay is as good as 0 leaves only the token's own mapping."""
    layer = Layer(SHAPES["a head for each key"], tokens=1)
    layer.a[:] = 200.0

    layer.run({0: range(1)})

    _, state = layer.expected(0, range(1))
    torch.testing.assert_close(layer.state[0], state, atol=1e-6, rtol=0)
