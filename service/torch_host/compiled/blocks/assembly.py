"""The blocks that architectures are composed of, as instructions of a program."""

from collections.abc import Sequence
from typing import Any

import torch

from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.activations import Activation, act_and_mul
from service.torch_host.compiled.ops.linear import embed, head, linear
from service.torch_host.compiled.ops.norms import norm
from service.torch_host.compiled.packing import Packed, pack
from service.torch_host.compiled.program import Program
from service.torch_host.compiled.quantized import attached
from service.torch_host.compiled.states import Slots


class Assembly:
    """A program under construction: the residual stream, and the blocks that add to it."""

    def __init__(self, program: Program, slots: Slots, config: Any) -> None:  # noqa: ANN401
        self.program = program
        self.slots = slots
        self.config = config
        self.width = int(config.hidden_size)
        self.stream = program.buffer("stream", self.width)
        """The residual stream, float32."""

    def pack(self, *layers: torch.nn.Module, exact: bool = False) -> Packed:
        """Pack linear layers one below the other, and free their own weights.

        `exact` matrices are never quantized: they compute few numbers on which many others depend.
        """
        packed = self.pack_weights(
            [layer.weight for layer in layers],  # type: ignore[misc]
            [getattr(layer, "bias", None) for layer in layers],
            exact=exact,
        )
        free(*layers)
        return packed

    def pack_weights(
        self,
        weights: Sequence[torch.Tensor],
        biases: Sequence[torch.Tensor | None] = (),
        *,
        exact: bool = False,
    ) -> Packed:
        """Pack matrices (outputs, inputs) one below the other."""
        return pack(self.program, weights, biases, kind=self.program.kind if exact else None)

    def begin(
        self, embedding: torch.nn.Module, head_layer: torch.nn.Module, *, scale: float = 1.0
    ) -> Packed:
        """Start the stream with the tokens' embeddings; returns the head's matrix."""
        tied = head_layer.weight is embedding.weight
        bias = getattr(head_layer, "bias", None) if tied else None
        packed = self._pack_embedding(embedding.weight, bias)
        embed(self.program, packed, self.stream, scale=scale)
        free(embedding)
        if not tied:
            packed = self._pack_embedding(head_layer.weight, getattr(head_layer, "bias", None))
        free(head_layer)
        return packed

    def _pack_embedding(self, weight: Any, bias: Any) -> Packed:  # noqa: ANN401
        kind = None if attached(weight) else self.program.embeddings
        return pack(self.program, [weight], [bias], kind=kind)

    def normed(
        self,
        weight: torch.Tensor | None,
        eps: float,
        *,
        x: Buffer | None = None,
        bias: torch.Tensor | None = None,
        layer_norm: bool = False,
    ) -> Buffer:
        """The stream (or `x`), normalized: an operand of a product."""
        x = self.stream if x is None else x
        out = self.program.operand_buffer("normed", x.width)
        norm(self.program, x, weight, out, eps=eps, bias=bias, layer_norm=layer_norm)
        return out

    def project(self, x: Buffer, weight: Packed, name: str, *, scale: float = 1.0) -> Buffer:
        """A product of its own, float32."""
        out = self.program.buffer(name, weight.outputs)
        linear(self.program, x, weight, out, scale=scale)
        return out

    def add(
        self, x: Buffer, weight: Packed, *, scale: float = 1.0, to: Buffer | None = None
    ) -> None:
        """Add a product to the stream."""
        linear(self.program, x, weight, to or self.stream, add=True, scale=scale)

    def add_layer(self, x: Buffer, layer: Any, *, scale: float = 1.0) -> None:  # noqa: ANN401
        """Add a linear layer's result, its bias included, times `scale` to the stream."""
        bias = None if layer.bias is None else layer.bias.float() * scale
        self.add(x, self.pack_weights([layer.weight], [bias]), scale=scale)
        free(layer)

    def gated_mlp(
        self, x: Buffer, gate_up: Packed, width: int, function: Activation, *, scale: float = 1.0
    ) -> Buffer:
        """`function(gate x) * up x`, an operand of the down projection."""
        both = self.project(x, gate_up, "gate and up", scale=scale)
        out = self.program.operand_buffer("gated", width)
        act_and_mul(self.program, both.columns(0, width), both.columns(width, width), out, function)
        return out

    def add_gated_mlp(self, x: Buffer, mlp: Any, width: int, function: Activation) -> None:  # noqa: ANN401
        """Add an MLP whose module has `gate_proj`, `up_proj` and `down_proj` to the stream."""
        gated = self.gated_mlp(x, self.pack(mlp.gate_proj, mlp.up_proj), width, function)
        self.add(gated, self.pack(mlp.down_proj))

    def finish(
        self,
        weight: torch.Tensor,
        eps: float,
        head_matrix: Packed,
        *,
        bias: torch.Tensor | None = None,
        layer_norm: bool = False,
        scale: float = 1.0,
    ) -> None:
        """Final norm, and logits of the tokens that the batch requests them for."""
        out = self.program.operand_buffer("normed", self.width)
        norm(
            self.program,
            self.stream,
            weight,
            out,
            eps=eps,
            bias=bias,
            layer_norm=layer_norm,
            of_logits=True,
        )
        head(self.program, out, head_matrix, scale=scale)
        self.program.finish()


def free(*layers: torch.nn.Module) -> None:
    """Free layers' weights, which a program now holds in its own order."""
    for layer in layers:
        layer.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
