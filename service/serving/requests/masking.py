"""Masking: errors of a blind route's arm, without the words that would tell which arm it is."""

import copy

from service.core.errors import ContextOverflow, TriptychError


def masked(error: TriptychError, route: str) -> TriptychError:
    """The same error, code, parameter and time to retry, in words that fit every arm."""
    words = (
        f"The blind route `{route}` cannot answer: {error.code}. The record of this request names "
        "the model."
    )
    if isinstance(error, ContextOverflow):  # clients match these words; the number tells the arm
        words = (
            "This model's maximum context length is exceeded. Please reduce the length of the "
            "messages or completion."
        )
    hidden = copy.copy(error)
    hidden.args = (words,)
    return hidden
