"""The block of routed experts, as transformers' modules hold their weights."""

from typing import Any

import torch

from service.torch_host.compiled.blocks.assembly import Assembly, free
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.activations import Activation, act_and_mul
from service.torch_host.compiled.ops.experts import (
    Routed,
    Routing,
    combine,
    expert_linear,
    gather,
    route,
)
from service.torch_host.compiled.packing import Packed


def add_experts(
    a: Assembly,
    x: Buffer,
    router: torch.nn.Module,
    experts: Any,  # noqa: ANN401 - a transformers module
    routing: Routing,
    function: Activation,
    *,
    inputs: Buffer | None = None,
    scale: float = 1.0,
) -> None:
    """Add the weighted outputs of each token's experts to the stream.

    Operands as those of `mixed_experts`; the result is multiplied by `scale`.
    """
    outputs = _outputs(a, x, router, experts, routing, function, inputs)
    combine(a.program, *outputs, a.stream, add=True, scale=scale)


def mixed_experts(
    a: Assembly,
    x: Buffer,
    router: torch.nn.Module,
    experts: Any,  # noqa: ANN401 - a transformers module
    routing: Routing,
    function: Activation,
    *,
    inputs: Buffer | None = None,
) -> Buffer:
    """Weighted outputs of each token's experts: an operand of another product.

    `router` has a weight (experts, width), `experts` has `gate_up_proj` (experts, 2 * hidden,
    width) or, without gates, `up_proj` (experts, hidden, width), and `down_proj` (experts, width,
    hidden). `inputs` are the experts' inputs, if not the router's.
    """
    outputs = _outputs(a, x, router, experts, routing, function, inputs)
    mixed = a.program.operand_buffer("mixed experts", (inputs or x).width)
    combine(a.program, *outputs, mixed)
    return mixed


def _outputs(
    a: Assembly,
    x: Buffer,
    router: torch.nn.Module,
    experts: Any,  # noqa: ANN401 - a transformers module
    routing: Routing,
    function: Activation,
    inputs: Buffer | None,
) -> tuple[Buffer, Routed]:
    """Expert outputs, one row per token and choice, sorted by expert, with the rows' origins."""
    program, rows = a.program, routing.top_k
    scores = a.pack_weights([router.weight], exact=True)  # type: ignore[list-item]
    free(router)
    routed = route(program, a.project(x, scores, "router logits"), routing)
    rows_in = gather(program, x if inputs is None else inputs, routed)
    gated = hasattr(experts, "gate_up_proj")
    hidden = int(experts.down_proj.shape[-1])
    first = _pack_each(a, experts, "gate_up_proj" if gated else "up_proj")
    both = program.buffer("hidden of experts", first[0].outputs, rows_per_token=rows)
    expert_linear(program, rows_in, first, both, routed)
    values = both.columns(hidden, hidden) if gated else None
    opened = program.operand_buffer("gated experts", hidden, rows_per_token=rows)
    act_and_mul(program, both.columns(0, hidden), values, opened, function, rows_per_token=rows)
    down = _pack_each(a, experts, "down_proj")
    out = program.buffer("outputs of experts", down[0].outputs, rows_per_token=rows)
    expert_linear(program, opened, down, out, routed)
    return out, routed


def _pack_each(a: Assembly, experts: Any, name: str) -> list[Packed]:  # noqa: ANN401
    """Pack a matrix of every expert, and free the module's own weights."""
    packed = [a.pack_weights([weight]) for weight in getattr(experts, name)]
    setattr(experts, name, torch.nn.Parameter(torch.empty(0), requires_grad=False))
    return packed
