"""Reuse: what one sequence took from the prefix cache and gave to it."""

from dataclasses import dataclass, field
from typing import Final, Literal

from service.core.events import PrefixReuse
from service.torch_host.prefix.cache import Match
from service.torch_host.prefix.hashing import BLOCK_TOKENS, Chain

Miss = Literal[
    "disabled",
    "bypassed",
    "prompt is scored",
    "rotary factors depend on length",
    "not supported on this path",
    "prompt too short",
    "no match",
    "no snapshot there",
    "evicted",
    "failed",
]
"""Reasons why fewer tokens were restored than could have been."""

SHORTEST_TOKENS: Final = BLOCK_TOKENS + 1
"""Shortest prompt that a model without snapshots can restore anything of."""


@dataclass(slots=True)
class Reuse:
    """A sequence's part in the prefix cache."""

    message_start: int = 0
    """Tokens before the last message of the prompt; 0 where that is unknown."""
    chain: Chain | None = None
    """Keys of its blocks; None while it takes no part."""
    cached_tokens: int = 0
    """Tokens of the prompt that were restored."""
    told: PrefixReuse = field(default_factory=PrefixReuse)
    """What the record says of it."""
    cuts: list[int] = field(default_factory=list)
    """Lengths at which the prefill pauses for a snapshot, ascending."""
    snapshot_bytes: int = 0
    """Bytes that were stored for it."""


def miss(match: Match, prompt_tokens: int, *, by_snapshot: bool) -> Miss | None:
    """Why no more was restored; None if nothing more could have been."""
    reachable = min(match.matched_tokens, prompt_tokens - 1)
    if not by_snapshot:
        reachable -= reachable % BLOCK_TOKENS
    if match.evicted:
        return "evicted"
    if match.tokens and match.tokens >= reachable:
        return None
    if not by_snapshot and prompt_tokens < SHORTEST_TOKENS:
        return "prompt too short"
    return "no snapshot there" if reachable > match.tokens else "no match"
