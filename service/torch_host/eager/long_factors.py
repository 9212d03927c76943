"""LongRoPE's factors in transformers' rotary embeddings, chosen by sequence and not by batch."""

from typing import Any

import torch
from torch import nn


class LongFactors:
    """Makes the LongRoPE modules of a network rotate with the long factors on demand.

    transformers takes the long factors for a batch that has a position beyond the switch. Here a
    batch that belongs to a longer sequence is given such a position in addition, whose rotation is
    dropped.
    """

    def __init__(self, network: nn.Module, *, switch_tokens: int) -> None:
        self.long = False
        """Whether the next batch is rotated with the long factors."""
        self._beyond = switch_tokens
        for module in network.modules():
            if "longrope" in str(getattr(module, "rope_type", "")):
                module.register_forward_pre_hook(self._add_position, with_kwargs=True)
                module.register_forward_hook(self._drop_position)

    def _add_position(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self.long:
            return None
        if "position_ids" in kwargs:
            return args, kwargs | {"position_ids": self._with_beyond(kwargs["position_ids"])}
        hidden, position_ids, *rest = args
        return (hidden, self._with_beyond(position_ids), *rest), kwargs

    def _with_beyond(self, position_ids: torch.Tensor) -> torch.Tensor:
        return torch.cat([position_ids, torch.full_like(position_ids[:, :1], self._beyond)], dim=1)

    def _drop_position(
        self, _module: nn.Module, _args: tuple[Any, ...], output: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...] | None:
        return tuple(part[:, :-1] for part in output) if self.long else None
