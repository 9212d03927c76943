"""Mamba-1's selective scan as instructions, held against plain torch."""

from collections.abc import Sequence

import pytest
import torch
from torch.nn import functional

from service.torch_host.compiled.formats.floats import BFLOAT16, FLOAT32
from service.torch_host.compiled.formats.format import Format
from service.torch_host.compiled.ops.selective_scan import (
    Norms,
    Selected,
    select,
    selective_scan,
)
from service.torch_host.compiled.program import Program
from support.one_pass import filled, rows, run

SLOTS, TOKENS = 4, 60
SEGMENTS = ((2, 37), (0, 1), (3, 20), (1, 2))


class Layer:
    """Weights, inputs and a state that is not empty."""

    def __init__(self, channels: int, states: int) -> None:
        generator = torch.Generator().manual_seed(channels + states)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        self.channels, self.states = channels, states
        self.decay = -torch.exp(normal(channels, states))
        self.bias, self.skip = normal(channels), normal(channels)
        self.hidden, self.gate = normal(TOKENS, channels), normal(TOKENS, channels) * 3
        self.delta = normal(TOKENS, channels) * 4 - 3
        self.selected = normal(TOKENS, 2 * states)
        self.state = normal(SLOTS, channels, states)

    def expected(self, segments: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Results, (tokens, channels), and the state afterwards, by the recurrence in float64."""
        delta = functional.softplus(self.delta.double() + self.bias)
        inputs, outputs = self.selected.double().chunk(2, dim=1)
        results, states, token = [], self.state.double(), 0
        for slot, tokens in segments:
            for t in range(token, token + tokens):
                kept = torch.exp(delta[t, :, None] * self.decay)
                states[slot] = states[slot] * kept + torch.outer(
                    delta[t] * self.hidden[t], inputs[t]
                )
                mixed = states[slot] @ outputs[t] + self.skip * self.hidden[t]
                results.append(mixed * functional.silu(self.gate[t].double()))
            token += tokens
        return torch.stack(results).float(), states.float()

    def found(
        self,
        passes: Sequence[Sequence[tuple[int, int]]],
        *,
        kind: Format = FLOAT32,
        threads: int = 1,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Results and the state after several passes in succession."""
        program = Program(kind, max_tokens=TOKENS, threads=threads)
        inputs = {name: getattr(self, name) for name in ("hidden", "delta", "gate", "selected")}
        buffers = {name: program.buffer(name, x.shape[1]) for name, x in inputs.items()}
        x, states = buffers["selected"], self.states
        state = self.state.clone()
        out = selective_scan(
            program,
            buffers["hidden"],
            buffers["delta"],
            buffers["gate"],
            Selected(x, x.columns(0, states), x.columns(states, states)),
            decay=self.decay,
            delta_bias=self.bias,
            skip=self.skip,
            state=state,
        )
        program.finish()
        results, first = [], 0
        for segments in passes:
            tokens = sum(count for _, count in segments)
            for name, values in inputs.items():
                filled(program, name, values[first : first + tokens])
            run(program, segments)
            results.append(rows(program, out, kind.dtype)[:tokens].clone())
            first += tokens
        return torch.cat(results), state


@pytest.mark.parametrize("states", [1, 8, 16, 32])
@pytest.mark.parametrize("channels", [16, 64, 208])
def test_segments_continue_their_states(channels, states):
    """Segments of several lengths, each from its slot's state, follow the recurrence."""
    layer = Layer(channels, states)
    out, state = layer.found([SEGMENTS])

    expected, after = layer.expected(SEGMENTS)
    torch.testing.assert_close(out, expected, atol=3e-5, rtol=3e-6)
    torch.testing.assert_close(state, after, atol=1e-5, rtol=3e-6)


def test_results_are_rounded_for_a_product():
    """A bfloat16 operand is the float32 result, rounded once."""
    layer = Layer(208, 16)

    exact, _ = layer.found([SEGMENTS])
    rounded, _ = layer.found([SEGMENTS], kind=BFLOAT16)
    assert torch.equal(rounded, exact.bfloat16())


def test_other_slots_keep_their_states():
    """A slot without a segment is not touched."""
    layer = Layer(80, 16)
    _, state = layer.found([[(2, 5)]])

    assert torch.equal(state[[0, 1, 3]], layer.state[[0, 1, 3]])


@pytest.mark.parametrize("threads", [1, 3])
def test_chunks_and_neighbours_change_no_bit(threads):
    """A prompt in chunks, among other segments, gives the bits that it gives alone and whole."""
    layer = Layer(208, 16)
    whole, state = layer.found([[(1, TOKENS)]])

    for sizes in ([1] * TOKENS, [2, 17, 16, 3, 22]):
        out, after = layer.found([[(1, size)] for size in sizes], threads=threads)
        assert torch.equal(out, whole)
        assert torch.equal(after, state)
    alone, _ = layer.found([[(2, 37)]])
    together, _ = layer.found([SEGMENTS], threads=threads)
    assert torch.equal(together[:37], alone)


@pytest.mark.parametrize("size", [1e-6, 30.0, 1e4])
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_time_steps_and_gates(size, sign):
    """Steps near zero keep the state, huge ones forget it; gates close without underflow."""
    layer = Layer(32, 16)
    layer.delta = torch.full_like(layer.delta, sign * size)
    layer.gate = torch.full_like(layer.gate, sign * size)
    out, state = layer.found([SEGMENTS])

    expected, after = layer.expected(SEGMENTS)
    torch.testing.assert_close(out, expected, atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(state, after, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["hidden", "delta", "gate", "selected"])
def test_nan_is_not_hidden(name):
    """What a model computes that is no number stays none."""
    layer = Layer(16, 16)
    getattr(layer, name)[:] = torch.nan

    assert layer.found([SEGMENTS])[0].isnan().all()


def test_channels_are_whole_vectors():
    """Other widths are refused with their number."""
    with pytest.raises(ValueError, match="24 channels"):
        Layer(24, 16).found([SEGMENTS])


@pytest.mark.parametrize("kind", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("rank", [5, 48])
@pytest.mark.parametrize("normed", ["not", "without weights", "with weights"])
def test_selection(kind, rank, normed):
    """A row is parted into delta's operand, padded to pairs, B and C, all normalized or not."""
    states, generator = 16, torch.Generator().manual_seed(3)
    x = torch.randn(TOKENS, rank + 2 * states, generator=generator)
    widths = [rank, states, states]
    weights = [torch.randn(width, generator=generator) for width in widths]
    if normed == "without weights":
        weights = [None] * 3
    norms = None if normed == "not" else Norms(*weights, 1e-5)
    program = Program(kind, max_tokens=TOKENS, threads=2)
    found = select(program, filled(program, "x", x), rank, states, norms)
    program.finish()
    run(program, [(0, TOKENS)])

    parts = x.split(widths, dim=1)
    if norms is not None:
        parts = [
            functional.rms_norm(part, part.shape[1:], weight, 1e-5)
            for part, weight in zip(parts, weights, strict=True)
        ]
    delta = rows(program, found.delta, kind.dtype)
    tolerance = {"atol": 0.02, "rtol": 0.01} if kind is BFLOAT16 else {}
    torch.testing.assert_close(delta[:, :rank].float(), parts[0], **tolerance)
    assert not delta[:, rank:].any()
    start = (found.inputs.address - filled(program, "x", x[:0]).address) // 4
    assert start == rank
    row = rows(program, program.buffer("x", x.shape[1]))
    torch.testing.assert_close(row[:, rank:], torch.cat(parts[1:], dim=1))
