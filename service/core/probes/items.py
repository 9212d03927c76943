"""Probe items: seeded chats whose answers are known, in the wording that the trio is trained on.

Recall follows the associative recall tasks of Arora et al., "Zoology" (arXiv:2312.04927).
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, Literal, get_args

from msgspec import Struct

from model_registry.reference import synthetic
from model_registry.reference.corpus import Message as TaskMessage
from service.core.chat import Message
from service.core.errors import InvalidRequest

ProbeKind = Literal[
    "recall", "recall_distance", "needle", "copy", "count_sequence", "count_occurrences"
]
KINDS: Final[tuple[ProbeKind, ...]] = get_args(ProbeKind)

DEFAULT_LEVELS: Final[dict[ProbeKind, tuple[int, ...]]] = {
    "recall": (1, 2, 4, 8, 16, 32),
    "recall_distance": (32, 64, 128, 256, 512),
    "needle": (0, 25, 50, 75, 100),
    "copy": (1, 4, 16, 48),
    "count_sequence": (4, 8, 16, 24),
    "count_occurrences": (1, 3, 5, 9),
}
"""By kind: pairs stated; words between pairs and question; depth of the needle in percent; words
to copy; numbers to count; times that a word occurs."""

PAIRS_ASIDE: Final = 4
"""Pairs that are stated before a distance."""
SHORTEST_ANSWER_TOKENS: Final = 32
"""Room for a sentence around a one-word answer."""
MOST_FILLER_WORDS: Final = 10_000
_MOST_DRAWS: Final = 10_000

Chat = tuple[TaskMessage, ...]


class ProbeItem(Struct, frozen=True, kw_only=True):
    """A question whose answer is determined by its conversation."""

    probe: ProbeKind
    level: int
    """What the probe varies, in the unit of DEFAULT_LEVELS."""
    messages: tuple[Message, ...]
    answer: str
    """Expected answer; `graded` says which texts contain it."""
    max_tokens: int
    """Room for the answer in the tokens of any model."""


def probe_items(
    kind: ProbeKind,
    seed: int,
    levels: Sequence[int] | None = None,
    per_level: int = 10,
    *,
    context_words: int = 256,
) -> tuple[ProbeItem, ...]:
    """Generate *per_level* items for each level; the same arguments give the same items.

    An item depends on kind, seed, level and its number alone: more levels or more items a level
    change no other item.

    Args:
        kind: What is asked.
        seed: Of the stream; no seed of the trio's training gives the same one.
        levels: DEFAULT_LEVELS of the kind if None.
        per_level: Items a level.
        context_words: Words around a needle; other kinds have none.

    Raises:
        InvalidRequest: an unknown kind, or a level that the kind does not have.
    """
    if kind not in _CHATS:
        raise InvalidRequest(f"no probe `{kind}`; there are {', '.join(KINDS)}", param="probe")
    if not 0 <= context_words <= MOST_FILLER_WORDS:
        raise InvalidRequest(f"0 to {MOST_FILLER_WORDS} words", param="context_words")
    wanted = DEFAULT_LEVELS[kind] if levels is None else tuple(levels)
    for level in wanted:
        _check(kind, level)
    return tuple(
        _item(kind, level, Random(f"probe-{kind}-{seed}-{level}-{number}"), context_words)  # noqa: S311
        for level in wanted
        for number in range(per_level)
    )


def _item(kind: ProbeKind, level: int, random: Random, context_words: int) -> ProbeItem:
    *chat, answer = _CHATS[kind](random, level, context_words)
    return ProbeItem(
        probe=kind,
        level=level,
        messages=tuple(Message(role=turn.role, content=turn.content) for turn in chat),
        answer=answer.content,
        # A token is a byte at least.
        max_tokens=max(SHORTEST_ANSWER_TOKENS, len(answer.content.encode()) + 8),
    )


_LEVELS: Final[dict[ProbeKind, tuple[int, int]]] = {
    "recall": (1, synthetic.MAX_PAIRS),
    "recall_distance": (0, MOST_FILLER_WORDS),
    "needle": (0, 100),
    "copy": (1, 1000),
    "count_sequence": (2, synthetic.MAX_SEQUENCE_TERMS),
    "count_occurrences": (0, 9),
}


def _check(kind: ProbeKind, level: int) -> None:
    lowest, highest = _LEVELS[kind]
    if not lowest <= level <= highest:
        raise InvalidRequest(
            f"`{kind}` has levels {lowest} to {highest}, not {level}", param="levels"
        )


def _recall(random: Random, pairs: int, _context: int) -> Chat:
    stated = synthetic.random_pairs(random, pairs)
    return (*synthetic.statement(stated), *synthetic.question(random.sample(stated, 1)))


def _recall_distance(random: Random, words: int, _context: int) -> Chat:
    stated = synthetic.random_pairs(random, PAIRS_ASIDE)
    question = synthetic.question(random.sample(stated, 1))
    return (*synthetic.statement(stated), *_filler(random, words), *question)


def _needle(random: Random, depth_percent: int, context_words: int) -> Chat:
    """A pair after so many percent of other tasks, asked for at the end."""
    pair = synthetic.random_pairs(random, 1)
    before = context_words * depth_percent // 100
    return (
        *_filler(random, before),
        *synthetic.statement(pair),
        *_filler(random, context_words - before),
        *synthetic.question(pair),
    )


def _copy(random: Random, words: int, _context: int) -> Chat:
    return synthetic.copy(random, count=words)


def _count_sequence(random: Random, terms: int, _context: int) -> Chat:
    return _drawn(
        lambda: synthetic.count_sequence(random), lambda answer: len(answer.split()) == terms
    )


def _count_occurrences(random: Random, times: int, _context: int) -> Chat:
    return _drawn(lambda: synthetic.count_occurrences(random), lambda answer: answer == str(times))


def _filler(random: Random, words: int) -> Chat:
    """Tasks of so many words in all, their answers included, or at most two fewer."""
    chat: list[TaskMessage] = []
    while words > 2:  # noqa: PLR2004 (a task has its own word, and another twice)
        count = min(random.randint(1, synthetic.MAX_DISTRACTING_WORDS), (words - 1) // 2)
        turn = synthetic.copy(random, count=count)
        chat += turn
        words -= sum(len(message.content.split()) for message in turn)
    return tuple(chat)


def _drawn(draw: Callable[[], Chat], fits: Callable[[str], bool]) -> Chat:
    """The first chat drawn whose answer fits."""
    for _ in range(_MOST_DRAWS):
        chat = draw()
        if fits(chat[-1].content):
            return chat
    raise AssertionError("the level is within its bounds, so it is drawn sooner or later")


_CHATS: Final[dict[ProbeKind, Callable[[Random, int, int], Chat]]] = {
    "recall": _recall,
    "recall_distance": _recall_distance,
    "needle": _needle,
    "copy": _copy,
    "count_sequence": _count_sequence,
    "count_occurrences": _count_occurrences,
}
