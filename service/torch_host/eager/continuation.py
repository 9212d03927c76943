"""Two repairs that make prefill in chunks equal to prefill in one pass.

- Mamba-1's mixers (Mamba, Falcon-Mamba, Jamba) start every forward pass of more than one token
  from a zero state, even where their cache holds one.
- Mamba-2's mixers with a `time_step_limit` (Zamba2, Nemotron-H) clamp the time step where they
  scan many tokens but not where they step by one, so a chunk of one token differs. While decoding
  they stay as they are, since that is what `transformers.generate` does.

Both are so in transformers 5.23. The modelling code stays as it is: a mixer calls its
kernels as functions of its module, and what stands in for one gets what is missing from a hook
that runs before the mixer. Without it (any model that is not served from slots) the stand-in calls
the original.
"""

import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from service.torch_host.eager.mamba1 import selective_scan

_SCAN = "mamba_selective_scan"
_STEP = "mamba2_selective_state_update"


def repair_continuation(network: torch.nn.Module) -> None:
    """Hook into the mixers of a model that need it."""
    for mixer in network.modules():
        module = sys.modules[type(mixer).__module__]
        if not hasattr(mixer, "A_log"):
            continue
        if hasattr(module, _SCAN):
            _stand_in(module, _SCAN, _scan_from_state).serve(mixer, _cached_state)
        elif getattr(mixer, "time_step_limit", None) not in (None, (0.0, math.inf)):
            _stand_in(module, _STEP, _step_clamped).serve(mixer, _limit_of_prompts)


class _StandIn:
    """Replaces a function of a module; a mixer hands over what is missing within its thread."""

    def __init__(self, original: Callable[..., Any], replacement: Callable[..., Any]) -> None:
        self._original = original
        self._replacement = replacement
        self._handed = threading.local()

    def serve(self, mixer: torch.nn.Module, missing: Callable[[Any, Any], Any]) -> None:
        """Hand over `missing(mixer, cache)` whenever this mixer runs with a cache."""

        def before(mixer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ANN401
            cache = kwargs.get("cache_params", args[1] if len(args) > 1 else None)
            self._handed.over = None if cache is None else missing(mixer, cache)

        def after(*_: object) -> None:
            self._handed.over = None

        mixer.register_forward_pre_hook(before, with_kwargs=True)
        mixer.register_forward_hook(after, always_call=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the mixer passes
        handed_over = getattr(self._handed, "over", None)
        if handed_over is None:
            return self._original(*args, **kwargs)
        return self._replacement(self._original, handed_over, *args, **kwargs)


def _stand_in(module: Any, name: str, replacement: Callable[..., Any]) -> _StandIn:  # noqa: ANN401
    """The module's stand-in for a function, put there once."""
    found = getattr(module, name)
    if not isinstance(found, _StandIn):
        found = _StandIn(found, replacement)
        setattr(module, name, found)
    return found


def _cached_state(mixer: Any, cache: Any) -> torch.Tensor | None:  # noqa: ANN401
    state: torch.Tensor | None = cache.layers[mixer.layer_idx].recurrent_states[0]
    return state


def _scan_from_state(
    _original: Callable[..., Any],
    state: torch.Tensor,
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    *operands: torch.Tensor,
    **options: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, torch.Tensor]:
    if not (options["delta_softplus"] and options["return_last_state"]):
        raise NotImplementedError("a scan without softplus or without a final state")
    decay, inputs, outputs = operands
    return selective_scan(
        hidden_states,
        dt,
        decay,
        inputs,
        outputs,
        skip=options["D"],
        gate=options["z"],
        dt_bias=options["delta_bias"],
        state=state,
    )


def _limit_of_prompts(mixer: Any, cache: Any) -> tuple[float, float] | None:  # noqa: ANN401
    limit: tuple[float, float] = mixer.time_step_limit
    return limit if getattr(cache, "prefilling", False) else None


def _step_clamped(
    original: Callable[..., Any],
    limit: tuple[float, float],
    state: torch.Tensor,
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    *operands: torch.Tensor,
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    if not options["dt_softplus"]:
        raise NotImplementedError("a step without softplus")
    dt = functional.softplus(dt + options["dt_bias"].to(dt.dtype)).clamp(*limit)
    plain = options | {"dt_bias": None, "dt_softplus": False}
    return original(state, hidden_states, dt, *operands, **plain)
