"""Mamba-2's chunked scan (SSD) for training on CPUs: group-aware, in small chunks.

The algorithm is the state space duality of Dao and Gu, "Transformers are SSMs"
(arXiv:2405.21060, section 6). transformers' own fallback repeats B and C to every head and
materializes heads last; this one multiplies C and B once per group and leaves heads as a batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.granitemoehybrid import modeling_granitemoehybrid
from transformers.models.mamba2 import modeling_mamba2

CHUNK_TOKENS = 64


def chunk_scan(  # noqa: PLR0913, PLR0917 - the signature is transformers' own
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    chunk_size: int = CHUNK_TOKENS,
    D: Tensor | None = None,  # noqa: N803
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **_: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan x [b,l,h,p] with dt [b,l,h], A [h], B and C [b,l,g,n]; y [b,l,h,p] in float32.

    The final state is [b,h,p,n]. The signature is transformers' `mamba2_chunk_scan`.
    """
    batch, tokens, heads, width = hidden_states.shape
    groups, states = B.shape[2:]
    per_group = heads // groups
    chunk = min(chunk_size, CHUNK_TOKENS)
    padding = -tokens % chunk
    chunks = (tokens + padding) // chunk

    dt = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
    dt = functional.softplus(dt) if dt_softplus else dt
    dt = dt.clamp(*dt_limit) if dt_limit != (0.0, float("inf")) else dt
    x = hidden_states.float()

    def chunked(tensor: Tensor, *shape: int) -> Tensor:
        padded = (
            functional.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, padding))
            if padding
            else tensor
        )
        return padded.reshape(batch, chunks, chunk, *shape)

    u = chunked(x * dt[..., None], groups, per_group, width).permute(0, 1, 3, 4, 2, 5)
    b = chunked(B.float(), groups, states).permute(0, 1, 3, 2, 4)
    c = chunked(C.float(), groups, states).permute(0, 1, 3, 2, 4)
    log_decay = chunked(dt * A.float(), groups, per_group).permute(0, 1, 3, 4, 2).cumsum(-1)

    future = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    gap = log_decay[..., :, None] - log_decay[..., None, :]
    weights = torch.exp(gap.masked_fill(future, float("-inf")))
    y = ((c @ b.transpose(-1, -2))[:, :, :, None] * weights) @ u

    to_end = torch.exp(log_decay[..., -1:] - log_decay)
    added = (u * to_end[..., None]).transpose(-1, -2) @ b[:, :, :, None]
    kept = torch.exp(log_decay[..., -1])[..., None, None]
    state = (
        x.new_zeros(batch, groups, per_group, width, states)
        if initial_states is None
        else initial_states.float().reshape(batch, groups, per_group, width, states)
    )
    before = []
    for index in range(chunks):
        before.append(state)
        state = torch.addcmul(added[:, index], kept[:, index], state)
    carried = c[:, :, :, None] @ torch.stack(before, 1).transpose(-1, -2)
    y = y + carried * torch.exp(log_decay)[..., None]

    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, chunks * chunk, heads, width)[:, :tokens]
    y = y if D is None else y + x * D[:, None]
    return (y, state.reshape(batch, heads, width, states)) if return_final_states else y


def causal_conv1d(
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    **_: object,
) -> Tensor:
    """Depthwise causal convolution of x [b,c,l] with weight [c,k], as shifted products."""
    taps = weight.shape[-1]
    tokens = hidden_states.shape[-1]
    # The mixer hands a transposed view; working on [b,l,c] keeps every product contiguous.
    x = functional.pad(hidden_states.transpose(1, 2), (0, 0, taps - 1, 0))
    y = x[:, :tokens] * weight[:, 0]
    for tap in range(1, taps):
        y = torch.addcmul(y, x[:, tap : tap + tokens], weight[:, tap])
    y = y if bias is None else y + bias
    return (functional.silu(y) if activation is not None else y).transpose(1, 2)


@contextmanager
def fast_mamba2() -> Iterator[None]:
    """Let transformers' Mamba-2 mixers use this module's scan and convolution."""
    modules: tuple[Any, ...] = (modeling_mamba2, modeling_granitemoehybrid)
    replaced = {"mamba2_chunk_scan": chunk_scan, "causal_conv1d_fn": causal_conv1d}
    own = [(module, name, getattr(module, name)) for module in modules for name in replaced]
    for module, name, _ in own:
        setattr(module, name, replaced[name])
    try:
        yield
    finally:
        for module, name, function in own:
            setattr(module, name, function)
