"""Routed experts as instructions, held against plain torch."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import silu
from transformers.models.phimoe.modeling_phimoe import sparsemixer

from service.torch_host.compiled import batch
from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.experts import add_experts, mixed_experts
from service.torch_host.compiled.formats.floats import BFLOAT16, FLOAT32
from service.torch_host.compiled.formats.format import Format
from service.torch_host.compiled.formats.int8 import INT8
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.activations import Activation
from service.torch_host.compiled.ops.experts import Routing, Scoring, route
from service.torch_host.compiled.program import Program
from service.torch_host.compiled.states import Slots

TOKENS, WIDTH, HIDDEN, EXPERTS = 21, 32, 24, 8
CONFIG = SimpleNamespace(hidden_size=WIDTH)
#: What an operand is, what a matrix is, and how far the results may be from those in float32.
EXACT, HALF, BYTES = (
    (FLOAT32, FLOAT32, 1e-5),
    (BFLOAT16, BFLOAT16, 0.02),
    (BFLOAT16, INT8, 0.06),
)
KINDS = pytest.mark.parametrize("kinds", [EXACT, HALF, BYTES], ids=["float32", "bfloat16", "int8"])
ROUTING, SILU = Routing(EXPERTS, 2, normalized=True), Activation.SILU


def filled(program: Program, name: str, values: torch.Tensor) -> Buffer:
    """A buffer with a row of `values` for each token."""
    buffer = program.buffer(name, values.shape[1], element_bytes=values.element_size())
    rows(program, buffer, values.dtype)[: len(values)] = values
    return buffer


def rows(program: Program, buffer: Buffer, dtype: torch.dtype) -> torch.Tensor:
    """A buffer's memory, shape (most tokens, width)."""
    storage = next(s for b, s in program._buffers.values() if b.address == buffer.address)
    return storage.view(program.max_tokens, buffer.stride).view(dtype)[:, : buffer.width]


def run(program: Program, tokens: int) -> None:
    """Run a program over some tokens."""
    program.head[batch.TOKENS] = tokens
    program.finish()
    program.run()


def routed(logits: torch.Tensor, routing: Routing) -> tuple[torch.Tensor, torch.Tensor]:
    """Choices and weights, each (tokens, top_k)."""
    program = Program(FLOAT32, max_tokens=len(logits), threads=2)
    found = route(program, filled(program, "logits", logits), routing)
    run(program, len(logits))
    return rows(program, found.choices, torch.int64), rows(program, found.weights, torch.float32)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(3)) * 2


@pytest.mark.parametrize("normalized", [False, True])
def test_softmax_routes_to_the_largest(logits, normalized):
    """Weights are those of a softmax over all experts, or over the chosen ones."""
    choices, weights = routed(logits, Routing(EXPERTS, 3, normalized=normalized, scale=1.5))

    best, indices = logits.topk(3, dim=-1)
    expected = best.softmax(-1) if normalized else logits.softmax(-1).gather(1, indices)
    assert torch.equal(choices, indices)
    torch.testing.assert_close(weights, expected * 1.5)


@pytest.mark.parametrize(("groups", "kept"), [(1, 1), (4, 2)])
def test_sigmoid_routes_within_the_best_groups(logits, groups, kept):
    """The correction decides who is chosen and does not enter the weights."""
    correction = torch.linspace(0.5, -0.5, EXPERTS)
    routing = Routing(EXPERTS, 3, Scoring.SIGMOID, True, 2.5, groups, kept, correction)
    choices, weights = routed(logits, routing)

    scores = logits.sigmoid()
    ranks = scores + correction
    sums = ranks.view(TOKENS, groups, -1).topk(2, dim=-1).values.sum(-1)
    mask = torch.zeros_like(sums).scatter(1, sums.topk(kept).indices, 1).bool()
    ranks = ranks.masked_fill(~mask.repeat_interleave(EXPERTS // groups, 1), -torch.inf)
    indices = ranks.topk(3, dim=-1).indices
    expected = scores.gather(1, indices)
    assert torch.equal(choices, indices)
    torch.testing.assert_close(weights, expected / expected.sum(-1, keepdim=True) * 2.5)


@pytest.mark.parametrize("jitter", [0.01, 0.3])
def test_sparse_mixer_routes_as_transformers(logits, jitter):
    """The two largest, each with its softmax among the logits that are nearly as large."""
    choices, weights = routed(logits, Routing(EXPERTS, 2, Scoring.SPARSE_MIXER, jitter=jitter))

    expected, indices = sparsemixer(logits, jitter_eps=jitter, training=False)
    assert torch.equal(choices, indices)
    torch.testing.assert_close(weights, expected)


def test_routes_stay_in_bounds_without_numbers():
    """A model that produces NaN must be found out by its answers, not by a crash."""
    logits = torch.full((1, EXPERTS), torch.nan)

    for scoring in Scoring:
        choices, _ = routed(logits, Routing(EXPERTS, 2, scoring, groups=4, top_groups=2))
        assert len(set(choices[0].tolist())) == 2
        assert set(choices[0].tolist()) <= set(range(EXPERTS))


@pytest.fixture(params=["gated", "plain"])
def modules(request) -> tuple[Any, Any]:
    """A router, and experts with or without gates."""
    generator = torch.Generator().manual_seed(5)

    def weights(*shape: int) -> torch.nn.Parameter:
        values = torch.randn(*shape, generator=generator) * shape[-1] ** -0.5
        return torch.nn.Parameter(values.bfloat16().float(), requires_grad=False)

    router = SimpleNamespace(weight=weights(EXPERTS, WIDTH))
    first = {"gate_up_proj": 2 * HIDDEN} if request.param == "gated" else {"up_proj": HIDDEN}
    experts = {name: weights(EXPERTS, outputs, WIDTH) for name, outputs in first.items()}
    return router, SimpleNamespace(**experts, down_proj=weights(EXPERTS, WIDTH, HIDDEN))


@pytest.fixture
def x() -> torch.Tensor:
    values = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(6))
    return values.bfloat16().float()


def computed(
    x: torch.Tensor,
    modules: tuple[Any, Any],
    *,
    kinds: tuple[Format, Format, float] = EXACT,
    threads: int = 1,
    scale: float | None = 1.0,
) -> torch.Tensor:
    """What experts add to a stream of ones, or without a scale their operand: (tokens, width)."""
    router, experts = (SimpleNamespace(**vars(module)) for module in modules)
    kind, matrices, _ = kinds
    program = Program(kind, matrices=matrices, max_tokens=len(x), threads=threads)
    a = Assembly(program, Slots(program, slots=1, limit_tokens=1), CONFIG)
    rows(program, a.stream, torch.float32)[:] = 1.0
    operand = filled(program, "operand", x.to(kind.dtype))
    if scale is None:
        out, dtype = mixed_experts(a, operand, router, experts, ROUTING, SILU), kind.dtype
    else:
        add_experts(a, operand, router, experts, ROUTING, SILU, scale=scale)
        out, dtype = a.stream, torch.float32
    run(program, len(x))
    return rows(program, out, dtype).float().clone()


def expected(x: torch.Tensor, modules: tuple[Any, Any]) -> torch.Tensor:
    """The same in plain torch."""
    router, experts = modules
    best, indices = (x @ router.weight.T).topk(ROUTING.top_k, dim=-1)
    out = torch.zeros_like(x)
    for token, (row, weights, chosen) in enumerate(zip(x, best.softmax(-1), indices, strict=True)):
        for weight, expert in zip(weights, chosen.tolist(), strict=True):
            if hasattr(experts, "gate_up_proj"):
                gate, up = (experts.gate_up_proj[expert] @ row).chunk(2)
            else:
                gate, up = experts.up_proj[expert] @ row, 1.0
            out[token] += weight * (experts.down_proj[expert] @ (silu(gate) * up))
    return out


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_experts_add_to_the_stream(x, modules, threads):
    """Any number of threads adds what torch computes, scaled."""
    found = computed(x, modules, threads=threads, scale=0.5)

    torch.testing.assert_close(found, 1 + 0.5 * expected(x, modules))


@KINDS
def test_experts_in_other_kinds(x, modules, kinds):
    """Operands and matrices are rounded, sums are not."""
    found = computed(x, modules, kinds=kinds)

    torch.testing.assert_close(found - 1, expected(x, modules), atol=kinds[2], rtol=0)


@KINDS
def test_experts_make_an_operand(x, modules, kinds):
    """What another product reads holds the experts' sums alone."""
    found = computed(x, modules, kinds=kinds, scale=None)

    torch.testing.assert_close(found, expected(x, modules), atol=2 * kinds[2], rtol=0)


@KINDS
@pytest.mark.parametrize("threads", [1, 3])
def test_neighbours_change_no_bit(x, modules, kinds, threads):
    """A token's result is the same to the bit alone, among others, and at another place."""
    together = computed(x, modules, kinds=kinds, threads=threads)

    for token in range(0, TOKENS, 5):
        alone = computed(x[token : token + 1], modules, kinds=kinds)[0]
        assert torch.equal(alone, together[token])
    assert torch.equal(computed(x.flip(0), modules, kinds=kinds).flip(0), together)
