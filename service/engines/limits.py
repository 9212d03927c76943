"""Checks of a request against its model, made before the engine starts anything."""

from collections.abc import Sequence

from service.core.chat.sampling import BOUNDS, Sampling
from service.core.errors import ContextOverflow, InvalidRequest


def check_sampling(sampling: Sampling, *, vocabulary_tokens: int) -> None:
    """Raise InvalidRequest naming the first parameter that is out of its bounds."""
    for name, bounds in BOUNDS.items():
        value = getattr(sampling, name)
        for each in value.values() if isinstance(value, dict) else (value,):
            if each is not None and each not in bounds:
                raise InvalidRequest(f"`{name}` must be {bounds}, not {each}.", param=name)
    for token_id in sampling.logit_bias:
        if not 0 <= token_id < vocabulary_tokens:
            raise InvalidRequest(
                f"`logit_bias` names token {token_id}; this model has tokens 0 to "
                f"{vocabulary_tokens - 1}.",
                param="logit_bias",
            )


def check_tokens(
    token_ids: Sequence[int], *, vocabulary_tokens: int, param: str = "prompt"
) -> None:
    """Raise InvalidRequest for a token id outside the model's vocabulary."""
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocabulary_tokens:
        raise InvalidRequest(
            f"A token is outside 0 to {vocabulary_tokens - 1}, the tokens of this model.",
            param=param,
        )


def check_prompt(token_ids: Sequence[int], *, vocabulary_tokens: int) -> None:
    """Raise InvalidRequest for an empty prompt or a token id outside the vocabulary."""
    if not token_ids:
        raise InvalidRequest("The prompt is empty.", param="prompt")
    check_tokens(token_ids, vocabulary_tokens=vocabulary_tokens)


def answer_limit(
    *, context_tokens: int, prompt_tokens: int, max_tokens: int | None, default_tokens: int | None
) -> int:
    """Return the largest number of tokens that the answer may have.

    A given `max_tokens` must fit the context beside the prompt, as with OpenAI and vLLM. Without
    one the answer may fill the context, up to `default_tokens`. Raises ContextOverflow.
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
