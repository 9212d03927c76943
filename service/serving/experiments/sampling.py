"""Sampling of an experiment's arms, checked before anything runs."""

from typing import Any, Final

import msgspec

from service.core.chat.sampling import PARAMETERS, Sampling
from service.core.errors import InvalidRequest
from service.core.experiments.plan import Arm

#: Parameters that an arm may not set, and what decides instead.
_DECIDED: Final = {
    "max_tokens": "the prompts' `new_tokens` decide",
    "logprobs": "an experiment reports no log-probabilities",
}


def sampling_of(
    arm: Arm, index: int, *, seed: int, max_tokens: int | None, exact: bool
) -> Sampling:
    """Sampling of one arm; greedy unless the arm says otherwise.

    With *exact* the answer has *max_tokens* tokens, whatever the model would say. Raises
    InvalidRequest naming the arm and the parameter.
    """
    given: dict[str, Any] = {"temperature": 0.0, "seed": seed, "ignore_eos": exact}
    given |= {name: _checked(index, name, value) for name, value in arm.sampling.items()}
    return Sampling(**given, max_tokens=max_tokens)


def kept_sampling(arm: Arm, index: int, own: Sampling, *, max_tokens: int | None) -> Sampling:
    """A recorded request's own sampling, except for what the arm names and the longest answer."""
    named = {name: _checked(index, name, value) for name, value in arm.sampling.items()}
    return msgspec.structs.replace(own, **named, max_tokens=max_tokens)


def _checked(index: int, name: str, value: object) -> object:
    where = f"arms[{index}].sampling.{name}"
    if name in _DECIDED:
        raise InvalidRequest(f"`{where}` cannot be set: {_DECIDED[name]}.", param=where)
    if name not in PARAMETERS:
        known = ", ".join(sorted(PARAMETERS.keys() - _DECIDED.keys()))
        raise InvalidRequest(
            f"`{where}` is not a sampling parameter; there are {known}.", param=where
        )
    try:
        checked = msgspec.convert(value, PARAMETERS[name].type)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"`{where}`: {error}.", param=where) from error
    return tuple(checked) if name == "stop" else checked
