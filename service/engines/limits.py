"""What a request may ask of an engine: checked before anything is started."""

import math
from collections.abc import Sequence
from typing import Final

from service.core.chat import Sampling
from service.core.errors import ContextOverflow, InvalidRequest

LARGEST_BIAS: Final = 100

_BOUNDS: Final = {
    "temperature": (0, 1000),
    "top_p": (1e-9, 1),
    "top_k": (1, math.inf),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "max_tokens": (0, math.inf),
    "min_tokens": (0, math.inf),
    "logprobs": (0, math.inf),
}


def check_sampling(sampling: Sampling, *, vocabulary_tokens: int) -> None:
    """Raise InvalidRequest naming the first value that no sampler can obey.

    The bounds of penalties and biases are OpenAI's; they also keep every logit finite.
    """
    for name, (lowest, highest) in _BOUNDS.items():
        value = getattr(sampling, name)
        if value is not None and not lowest <= value <= highest:
            raise InvalidRequest(
                f"`{name}` must be {_range(lowest, highest)}, not {value}.", param=name
            )
    for token_id, bias in sampling.logit_bias.items():
        if not 0 <= token_id < vocabulary_tokens:
            raise InvalidRequest(
                f"`logit_bias` names token {token_id}; this model has tokens 0 to "
                f"{vocabulary_tokens - 1}.",
                param="logit_bias",
            )
        if not -LARGEST_BIAS <= bias <= LARGEST_BIAS:
            raise InvalidRequest(
                f"`logit_bias` must be between -100 and 100, not {bias}.", param="logit_bias"
            )


def check_tokens(token_ids: Sequence[int], *, vocabulary_tokens: int) -> None:
    """Raise InvalidRequest for a token that the model does not have."""
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocabulary_tokens:
        raise InvalidRequest(
            f"A token is outside 0 to {vocabulary_tokens - 1}, the tokens of this model.",
            param="prompt",
        )


def check_prompt(token_ids: Sequence[int], *, vocabulary_tokens: int) -> None:
    """Raise InvalidRequest for an empty prompt or a token that the model does not have."""
    if not token_ids:
        raise InvalidRequest("The prompt is empty.", param="prompt")
    check_tokens(token_ids, vocabulary_tokens=vocabulary_tokens)


def answer_limit(
    *, context_tokens: int, prompt_tokens: int, max_tokens: int | None, default_tokens: int | None
) -> int:
    """Most tokens that the answer may have.

    A named `max_tokens` must fit beside the prompt, as with OpenAI and vLLM; where none is named
    the answer may fill the context, or `default_tokens` of it. Raises ContextOverflow.
    """
    left = context_tokens - prompt_tokens
    if max_tokens is None:
        if left < 1:
            raise ContextOverflow.of(context_tokens=context_tokens, prompt_tokens=prompt_tokens)
        return left if default_tokens is None else min(left, default_tokens)
    if max_tokens > left:
        raise ContextOverflow.of(
            context_tokens=context_tokens, prompt_tokens=prompt_tokens, max_tokens=max_tokens
        )
    return max_tokens


def _range(lowest: float, highest: float) -> str:
    if math.isinf(highest):
        return f"at least {lowest:g}"
    return f"between {lowest:g} and {highest:g}"
