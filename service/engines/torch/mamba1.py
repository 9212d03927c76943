"""Mamba-1's selective scan from a given state.

The mixers of Mamba, Falcon-Mamba and Jamba (transformers 5.19 to 5.23) start every forward pass of
more than one token from a zero state, even when their cache holds one, so a prompt that is
prefilled in chunks comes out wrong. Here a mixer that is about to run hands its cached state to the
scan, which replaces the module-level function that the mixer calls. A mixer without a hand-over
(any model that is not served from slots) gets transformers' own scan.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

_MIXERS = {"MambaMixer", "FalconMambaMixer", "JambaMambaMixer"}
_SCAN = "mamba_selective_scan"
#: Tokens whose discretized inputs are held at once: bounds memory, costs no accuracy.
_CHUNK_TOKENS = 64


def continue_from_cache(model: torch.nn.Module) -> bool:
    """Let the Mamba-1 mixers of a model continue from their cached state; False if it has none."""
    mixers = [m for m in model.modules() if type(m).__name__ in _MIXERS]
    for mixer in mixers:
        module = sys.modules[type(mixer).__module__]
        if not isinstance(getattr(module, _SCAN), _ScanFromState):
            setattr(module, _SCAN, _ScanFromState(getattr(module, _SCAN)))
        scan = getattr(module, _SCAN)
        mixer.register_forward_pre_hook(scan.hand_over, with_kwargs=True)
        mixer.register_forward_hook(scan.drop, always_call=True)
    return bool(mixers)


class _ScanFromState:
    """Stands in for transformers' scan; one engine loop runs at a time, so one state is enough."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self._original = original
        self._state: torch.Tensor | None = None

    def hand_over(
        self, mixer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Before a mixer runs: remember the state that its layer of the cache holds."""
        cache = kwargs.get("cache_params", args[1] if len(args) > 1 else None)
        if cache is not None:
            self._state = cache.layers[mixer.layer_idx].recurrent_states[0]

    def drop(self, *_: object) -> None:
        """After a mixer ran, or failed."""
        self._state = None

    def __call__(
        self,
        hidden_states: torch.Tensor,
        dt: torch.Tensor,
        *arguments: Any,  # noqa: ANN401 - transformers' signature
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Scan from the state handed over, if there is one."""
        if self._state is None:
            return self._original(hidden_states, dt, *arguments, **options)
        decay, inputs, outputs = arguments
        if not (options["delta_softplus"] and options["return_last_state"]):
            raise NotImplementedError("a scan without softplus or without a final state")
        return selective_scan(
            hidden_states,
            dt,
            decay,
            inputs,
            outputs,
            skip=options["D"],
            gate=options["z"],
            dt_bias=options["delta_bias"],
            state=self._state,
        )


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
