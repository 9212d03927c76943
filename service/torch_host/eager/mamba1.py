"""Mamba-1's selective scan from a given state, in operators of torch."""

import torch
from torch.nn import functional

#: Tokens whose discretized inputs are held at once: bounds memory, costs no accuracy.
_CHUNK_TOKENS = 64


def selective_scan(  # noqa: PLR0913 - the scan's operands
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    decay: torch.Tensor,
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    *,
    skip: torch.Tensor,
    gate: torch.Tensor,
    dt_bias: torch.Tensor | None,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The selective scan of Mamba (arXiv 2312.00752, algorithm 2) in float32, from a given state.

    `hidden_states`, `dt`, `gate`: (batch, channels, tokens); `decay` (A): (channels, state size);
    `inputs` (B), `outputs` (C): (batch, state size, tokens); `skip` (D), `dt_bias`: (channels,);
    `state`: (batch, channels, state size). Returns what `hidden_states` become, gated, and the
    state after the last token. Time comes first inside, so that each token is one contiguous
    update; the rounding of `dt` follows the modelling code.
    """
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)[:, None]
    delta = functional.softplus(dt).float().permute(2, 0, 1).contiguous()
    hidden = hidden_states.float().permute(2, 0, 1).contiguous()
    driven = delta * hidden
    inputs = inputs.float().permute(2, 0, 1).contiguous()
    outputs = outputs.float().permute(2, 0, 1).contiguous()
    state = state.float()
    mixed = []
    for first in range(0, hidden.shape[0], _CHUNK_TOKENS):
        chunk = slice(first, first + _CHUNK_TOKENS)
        kept = torch.exp(delta[chunk, ..., None] * decay)
        states = driven[chunk, ..., None] * inputs[chunk, :, None]
        for token in range(states.shape[0]):
            state = torch.addcmul(states[token], kept[token], state, out=states[token])
        mixed.append(torch.matmul(states, outputs[chunk, ..., None]).squeeze(-1))
    result = torch.addcmul(torch.cat(mixed), hidden, skip)
    return result.permute(1, 2, 0) * functional.silu(gate), state.clone()
