"""Grading of probes: exact, and by content rather than by the words around it."""

import re
from typing import Final

from model_registry.reference import synthetic
from service.core.probes.items import ProbeItem

_WORD: Final = re.compile(r"\w+")
_NUMBER: Final = re.compile(r"\d+")
_VALUES: Final = frozenset(synthetic.VALUES)


def graded(item: ProbeItem, text: str) -> bool:
    """True if a text answers the item.

    Recall: the value is named, and no other value. Occurrences: the count is the only number.
    Copying and counting to a number: all words in order and nothing else, but for letter case and
    punctuation.
    """
    match item.probe:
        case "recall" | "recall_distance" | "needle":
            value = item.answer.split()[-1]
            return _VALUES.intersection(_words(text)) == {value}
        case "count_occurrences":
            return _NUMBER.findall(text) == [item.answer]
        case "copy" | "count_sequence":
            return _words(text) == _words(item.answer)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
