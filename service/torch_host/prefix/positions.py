"""Where snapshots of a prompt are taken; pure arithmetic."""

from typing import Final

SPACING_TOKENS: Final = 1024
"""Distance of snapshots in a long prompt."""

MOST: Final = 8
"""Most snapshots of one prompt: each is a copy, and a cut of a prefill chunk."""

LEAST_TOKENS: Final = 16
"""Prefill that a snapshot has to save beyond the one before it."""


def snapshot_positions(
    prompt_tokens: int, *, restored_tokens: int, matched_tokens: int, message_start: int
) -> list[int]:
    """Numbers of tokens after which the state is kept, in ascending order.

    They are: where the last message begins, since another one may follow the same conversation;
    where the prompt leaves what an earlier one had, since a third may come to the same junction;
    every 1,024 tokens or more; and the whole prompt, with which the next turn begins whether or
    not the tokens of the answer's text will be those that were sampled. The same prompt again
    needs a shorter one, since its last token has to be computed.
    """
    wanted = {message_start, min(matched_tokens, prompt_tokens - 1), prompt_tokens}
    spaces = -(-prompt_tokens // (SPACING_TOKENS * (MOST - 3)))
    wanted.update(range(0, prompt_tokens, SPACING_TOKENS * max(1, spaces)))
    found: list[int] = []
    before = restored_tokens
    for position in sorted(wanted):
        if position <= prompt_tokens and position - before >= LEAST_TOKENS:
            found.append(position)
            before = position
    return found
