"""Seeded chats that ask for recall, copying and counting: what separates the architectures.

Recall follows the associative recall tasks of Arora et al., "Zoology" (arXiv:2312.04927): pairs
are stated, then asked for after a distance. Every answer is determined by its chat.
"""

import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Final

import msgspec

from model_registry.reference.corpus import Dialogue, Message

KEY_WORDS: Final = """
apple bread candle desk engine feather garden hammer island jacket kettle ladder mirror needle
orange pencil quilt river saddle table umbrella valley window yellow anchor basket castle dragon
echo forest guitar harbor iron jungle kitchen lemon marble novel ocean paper
"""
VALUE_WORDS: Final = """
tiger copper violin planet silver monkey rocket button pepper camel velvet thunder rabbit purple
cotton falcon ginger honey ivory jelly knight lizard magnet nickel olive pirate queen ribbon
salmon turtle uncle vapor walnut zebra amber bishop cherry donkey eagle fossil
"""
KEYS: Final = tuple(KEY_WORDS.split())
VALUES: Final = tuple(VALUE_WORDS.split())
WORDS: Final = (*KEYS, *VALUES)
Pair = tuple[str, str]

MAX_PAIRS: Final = len(KEYS)
MAX_DISTRACTING_WORDS: Final = 24
MAX_COUNTED_WORDS: Final = 32
MAX_SEQUENCE_TERMS: Final = 24
#: Tokens of a copying task besides its words, which occur twice; see `distraction`.
COPY_FRAME_TOKENS: Final = 13


class Reach(msgspec.Struct, frozen=True):
    """How far the tasks of a training phase reach."""

    pairs: int
    """Most pairs of a recall chat whose question follows at once."""
    distracted_pairs: int
    """Most pairs of a recall chat with other tasks before its question."""
    distance_tokens: int
    """Most tokens of other tasks between pairs and question."""
    distracted_share: float
    """Share of recall chats with other tasks before the question."""
    copied_words: int
    """Most words of a copying task."""
    weights: tuple[float, float, float, float]
    """How often the tasks occur, in the order of TASKS."""


#: Recall and copying alone, in few tokens: here they form.
SHORT: Final = Reach(
    pairs=8,
    distracted_pairs=1,
    distance_tokens=0,
    distracted_share=0.0,
    copied_words=24,
    weights=(0.5, 0.5, 0.0, 0.0),
)
#: Chats of at most about 128 tokens.
MEDIUM: Final = Reach(
    pairs=16,
    distracted_pairs=4,
    distance_tokens=64,
    distracted_share=0.3,
    copied_words=32,
    weights=(0.6, 0.2, 0.1, 0.1),
)
#: Chats of at most about 512 tokens: what the models are trained for.
FULL: Final = Reach(
    pairs=MAX_PAIRS,
    distracted_pairs=8,
    distance_tokens=384,
    distracted_share=0.5,
    copied_words=48,
    weights=(0.6, 0.2, 0.1, 0.1),
)


def log_uniform(random: Random, largest: int) -> int:
    """An integer in 1..largest, small ones as often as their logarithms are apart."""
    return min(largest, int(math.exp(random.uniform(0.0, math.log(largest + 1)))))


def any_count(random: Random, largest: int) -> int:
    """An integer in 1..largest, in half the draws a small one."""
    return random.choice((random.randint(1, largest), log_uniform(random, largest)))


def recall(random: Random, reach: Reach = FULL) -> tuple[Message, ...]:
    """Pairs, in some chats other tasks, then questions about some or all pairs in any order."""
    distracted = random.random() < reach.distracted_share
    pairs = random_pairs(
        random, any_count(random, reach.distracted_pairs if distracted else reach.pairs)
    )
    asked = random.sample(pairs, any_count(random, len(pairs)))
    chat = [*statement(pairs)]
    if distracted:
        room = random.randint(COPY_FRAME_TOKENS, reach.distance_tokens)
        while (words := (room - COPY_FRAME_TOKENS) // 2) > 0:
            count = random.randint(1, min(words, MAX_DISTRACTING_WORDS))
            chat += copy(random, reach, count)
            room -= COPY_FRAME_TOKENS + 2 * count
    return (*chat, *question(asked), *question(random.sample(pairs, 1)))


def random_pairs(random: Random, count: int) -> list[Pair]:
    """Pairs of distinct keys and values that may repeat."""
    return list(zip(random.sample(KEYS, count), random.choices(VALUES, k=count), strict=True))


def statement(pairs: list[Pair]) -> tuple[Message, Message]:
    """The pairs, one per line, and an acknowledgement."""
    lines = ["Remember:", *(" ".join(pair) for pair in pairs)]
    return Message("user", "\n".join(lines)), Message("assistant", "OK")


def question(pairs: list[Pair]) -> tuple[Message, Message]:
    """Question about some keys, and its answer: their pairs in the order asked."""
    keys = ", ".join(key for key, _ in pairs)
    answer = "\n".join(" ".join(pair) for pair in pairs)
    return Message("user", f"What goes with {keys}?"), Message("assistant", answer)


def distraction(random: Random) -> tuple[Message, ...]:
    """A short task unrelated to the pairs."""
    return copy(random, count=random.randint(1, MAX_DISTRACTING_WORDS))


def copy(random: Random, reach: Reach = FULL, count: int | None = None) -> tuple[Message, ...]:
    """Distinct words to repeat, of `count` if given."""
    # The first word stands at the start of a line, where a key would look like a pair's.
    first = random.choice(VALUES)
    others = [word for word in WORDS if word != first]
    count = count or any_count(random, reach.copied_words)
    words = " ".join((first, *random.sample(others, count - 1)))
    return Message("user", f"Repeat:\n{words}"), Message("assistant", words)


def count_sequence(random: Random, _reach: Reach = FULL) -> tuple[Message, ...]:
    """Counting from one number to a greater one."""
    first = random.randint(1, 60)
    last = first + random.randint(1, MAX_SEQUENCE_TERMS - 1)
    terms = " ".join(str(term) for term in range(first, last + 1))
    return Message("user", f"Count from {first} to {last}."), Message("assistant", terms)


def count_occurrences(random: Random, _reach: Reach = FULL) -> tuple[Message, ...]:
    """Count the occurrences (0 to 9) of a word among others."""
    wanted, *others = random.sample(VALUES, 6)
    occurrences = random.randint(0, 9)
    total = max(occurrences, 1) + random.randint(0, MAX_COUNTED_WORDS - 9)
    words = [wanted] * occurrences + random.choices(others, k=total - occurrences)
    random.shuffle(words)
    question = f"How many times does {wanted} occur?\n{' '.join(words)}"
    return Message("user", question), Message("assistant", str(occurrences))


Task = Callable[[Random, Reach], tuple[Message, ...]]
TASKS: Final[dict[str, Task]] = {
    "recall": recall,
    "copy": copy,
    "count_sequence": count_sequence,
    "count_occurrences": count_occurrences,
}


def synthetic_dialogues(seed: int | str, reach: Reach = FULL) -> Iterator[Dialogue]:
    """An endless, seeded stream of task chats."""
    random = Random(seed)  # noqa: S311 - data, no secret
    names = tuple(TASKS)
    index = 0
    while True:
        (name,) = random.choices(names, reach.weights)
        yield Dialogue(id=f"{name}-{index}", messages=TASKS[name](random, reach))
        index += 1


def is_synthetic(dialogue: Dialogue) -> bool:
    """True if a dialogue came from `synthetic_dialogues`."""
    return dialogue.id.rpartition("-")[0] in TASKS
