"""Synthetic texts: varied English sentences, decided by a seed alone."""

import random
from typing import Final

_WHO: Final = (
    "I", "We", "My sister", "The driver", "A friend of mine", "Our guide", "The man at the desk",
    "Her teacher", "Two students", "The cook", "His neighbour", "The whole team",
)  # fmt: skip
_DOES: Final = (
    "wanted to book", "asked about", "could not find", "paid for", "had heard of", "looked for",
    "wrote down the address of", "changed the date of", "forgot", "recommended", "cancelled",
    "took a photo of",
)  # fmt: skip
_WHAT: Final = (
    "a table for four", "the last train", "a quiet room", "two tickets", "the blue umbrella",
    "an Italian restaurant", "the morning flight", "a map of the city", "the long report",
    "a doctor's appointment", "the film about bees", "a cheap hotel", "the concert",
    "a red bicycle", "the parcel", "a song for the drive",
)  # fmt: skip
_WHERE: Final = (
    "near the station", "in San Jose", "by the harbour", "behind the old church", "in Leipzig",
    "on the third floor", "at the market", "outside the museum", "in the mountains", "next door",
    "across the river", "in Oakland",
)  # fmt: skip
_WHEN: Final = (
    "this morning", "on Saturday", "after lunch", "at half past seven", "last winter",
    "before noon", "in the first week of May", "every second day", "yesterday",
    "at the end of the month",
)  # fmt: skip
_AND: Final = (
    "because the weather was bad", "and nobody complained", "although it cost {n} dollars",
    "so that {n} people could come", "which took {n} minutes", "but the number {n} was missing",
    "and it was worth the wait", "while the others were asleep", "and the answer was no",
)  # fmt: skip


def synthetic_text(seed: str, words: int) -> str:
    """Sentences of *words* words; more words of the same seed begin with the same text."""
    draw = random.Random(seed)  # noqa: S311 (a text to be repeated, no secret)
    found: list[str] = []
    while len(found) < words:
        found += _sentence(draw).split()
    return " ".join(found[:words])


def _sentence(draw: random.Random) -> str:
    who, does, what, where, when, more = (
        draw.choice(part) for part in (_WHO, _DOES, _WHAT, _WHERE, _WHEN, _AND)
    )
    clause = more.format(n=draw.randrange(2, 500))
    match draw.randrange(3):
        case 0:
            return f"{who} {does} {what} {where} {when}."
        case 1:
            inside = who if who == "I" else who[0].lower() + who[1:]
            return f"{when.capitalize()} {inside} {does} {what}, {clause}."
        case _:
            return f"{who} {does} {what} {where}, {clause}."
