"""Seeded questions with known answers: recall by distance, copying and counting."""

from collections.abc import Callable
from random import Random
from typing import Final

import msgspec
from tokenizers import Tokenizer

from model_registry.reference import synthetic
from model_registry.reference.corpus import MESSAGE_END, MESSAGE_START, Message, render_chat

QUESTIONS: Final = 200
PAIRS_ASIDE: Final = 4
LATER_PAIRS: Final = (0, 1, 4, 16, synthetic.MAX_PAIRS - 1)
DISTANCES_TOKENS: Final = (64, 128, 256, 384, 512, 1024, 1536)
COPIED_WORDS: Final = (1, 4, 16, 48)
TOKENS_PER_PAIR: Final = 3
DISTANCE_SLACK_TOKENS: Final = 16

Chat = tuple[Message, ...]


class Probe(msgspec.Struct, frozen=True):
    """A cell of the card: chats whose last message is the expected answer."""

    task: str
    size: int | None
    """Distance in tokens (recall) or words (copy); None where the task has no size."""
    chats: tuple[Chat, ...]

    def rows(self, tokenizer: Tokenizer) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of the prompts (up to the assistant's turn) and of the answers."""
        start = f"{MESSAGE_START}assistant\n"
        prompts = [render_chat(chat[:-1]) + start for chat in self.chats]
        answers = [chat[-1].content + MESSAGE_END for chat in self.chats]
        encoded = [tokenizer.encode_batch_fast(texts) for texts in (prompts, answers)]
        prompt_ids, answer_ids = ([e.ids for e in encodings] for encodings in encoded)
        return prompt_ids, answer_ids


def recall_past_pairs(random: Random, later: int) -> Chat:
    """A pair asked for after `later` other pairs: 3 tokens each, all of the same form."""
    pairs = synthetic.random_pairs(random, later + 1)
    return (*synthetic.statement(pairs), *synthetic.question(pairs[:1]))


def recall_past_tasks(random: Random, distance_tokens: int, tokenizer: Tokenizer) -> Chat:
    """Recall of one of PAIRS_ASIDE pairs after about `distance_tokens` of other tasks.

    The distance lies at most DISTANCE_SLACK_TOKENS below the one asked for.
    """
    pairs = synthetic.random_pairs(random, PAIRS_ASIDE)
    chat = [*synthetic.statement(pairs)]
    room = distance_tokens - token_count(chat[1:], tokenizer)
    while room > DISTANCE_SLACK_TOKENS:
        turn = synthetic.distraction(random)
        if (size := token_count(turn, tokenizer)) <= room:
            chat += turn
            room -= size
    return (*chat, *synthetic.question(random.sample(pairs, 1)))


def token_count(messages: list[Message] | Chat, tokenizer: Tokenizer) -> int:
    """Tokens of the messages in ChatML."""
    return len(tokenizer.encode(render_chat(tuple(messages))).ids)


def probes(tokenizer: Tokenizer, seed: int, questions: int = QUESTIONS) -> list[Probe]:
    """All probes, `questions` each, from a stream of their own: no training seed gives it."""
    random = Random(f"probes-{seed}")  # noqa: S311 - data, no secret

    def probe(task: str, size: int | None, chat: Callable[..., Chat], *arguments: object) -> Probe:
        return Probe(task, size, tuple(chat(random, *arguments) for _ in range(questions)))

    return [
        *(
            probe("recall_past_pairs", later * TOKENS_PER_PAIR, recall_past_pairs, later)
            for later in LATER_PAIRS
        ),
        *(
            probe("recall_past_tasks", distance, recall_past_tasks, distance, tokenizer)
            for distance in DISTANCES_TOKENS
        ),
        *(probe("copy", words, synthetic.copy, synthetic.FULL, words) for words in COPIED_WORDS),
        probe("count_sequence", None, synthetic.count_sequence),
        probe("count_occurrences", None, synthetic.count_occurrences),
    ]
