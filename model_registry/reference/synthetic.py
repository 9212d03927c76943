"""Seeded chats that ask for recall, copying and counting: what separates the architectures.

Recall follows the associative recall tasks of Arora et al., "Zoology" (arXiv:2312.04927): pairs
are stated, then asked for after a distance. Every answer is determined by its chat.
"""

import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Final

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
DISTRACTED_SHARE: Final = 0.5
MAX_DISTRACTIONS: Final = 4
MAX_DISTRACTING_WORDS: Final = 24
MAX_COPIED_WORDS: Final = 48
MAX_COUNTED_WORDS: Final = 32
MAX_SEQUENCE_TERMS: Final = 24


def log_uniform(random: Random, largest: int) -> int:
    """An integer in 1..largest, small ones as often as their logarithms are apart."""
    return min(largest, int(math.exp(random.uniform(0.0, math.log(largest + 1)))))


def any_count(random: Random, largest: int) -> int:
    """An integer in 1..largest, in half the draws a small one."""
    return random.choice((random.randint(1, largest), log_uniform(random, largest)))


def recall(random: Random) -> tuple[Message, ...]:
    """Pairs, in half the chats other tasks, then questions about some or all pairs in any order."""
    pairs = random_pairs(random, any_count(random, MAX_PAIRS))
    asked = random.sample(pairs, any_count(random, len(pairs)))
    chat = [*statement(pairs)]
    if random.random() < DISTRACTED_SHARE:
        for _ in range(log_uniform(random, MAX_DISTRACTIONS)):
            chat += distraction(random)
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
    return copy(random, random.randint(1, MAX_DISTRACTING_WORDS))


def copy(random: Random, count: int | None = None) -> tuple[Message, ...]:
    """A list of words to repeat; of `count` words if given."""
    chosen = random.choices(WORDS, k=count or any_count(random, MAX_COPIED_WORDS))
    words = " ".join(chosen)
    return Message("user", f"Repeat:\n{words}"), Message("assistant", words)


def count_sequence(random: Random) -> tuple[Message, ...]:
    """Counting from one number to a greater one."""
    first = random.randint(1, 60)
    last = first + random.randint(1, MAX_SEQUENCE_TERMS - 1)
    terms = " ".join(str(term) for term in range(first, last + 1))
    return Message("user", f"Count from {first} to {last}."), Message("assistant", terms)


def count_occurrences(random: Random) -> tuple[Message, ...]:
    """Count the occurrences (0 to 9) of a word among others."""
    wanted, *others = random.sample(WORDS, 6)
    occurrences = random.randint(0, 9)
    total = max(occurrences, 1) + random.randint(0, MAX_COUNTED_WORDS - 9)
    words = [wanted] * occurrences + random.choices(others, k=total - occurrences)
    random.shuffle(words)
    question = f"How many times does {wanted} occur?\n{' '.join(words)}"
    return Message("user", question), Message("assistant", str(occurrences))


Task = Callable[[Random], tuple[Message, ...]]
TASKS: Final[dict[str, Task]] = {
    "recall": recall,
    "copy": copy,
    "count_sequence": count_sequence,
    "count_occurrences": count_occurrences,
}
TASK_WEIGHTS: Final = (0.40, 0.35, 0.10, 0.15)


def synthetic_dialogues(seed: int) -> Iterator[Dialogue]:
    """An endless, seeded stream of task chats."""
    random = Random(seed)  # noqa: S311 - data, no secret
    names = tuple(TASKS)
    index = 0
    while True:
        (name,) = random.choices(names, TASK_WEIGHTS)
        yield Dialogue(id=f"{name}-{index}", messages=TASKS[name](random))
        index += 1


def is_synthetic(dialogue: Dialogue) -> bool:
    """True if a dialogue came from `synthetic_dialogues`."""
    return dialogue.id.rpartition("-")[0] in TASKS
