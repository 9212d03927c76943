"""Identifiers that the service makes itself: a caller's own id is a label, never a key."""

import secrets
import time
from uuid import UUID


def uuid7() -> UUID:
    """A UUID whose first 48 bits are the time in ms, so that ids sort by age.

    Ref: RFC 9562, section 5.7.
    """
    milliseconds = time.time_ns() // 1_000_000
    random_bits = secrets.randbits(74)
    high, low = random_bits >> 62, random_bits & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)


def new_request_id() -> str:
    """`req-` and a UUIDv7."""
    return f"req-{uuid7()}"


def new_comparison_id() -> str:
    """`cmp-` and a UUIDv7."""
    return f"cmp-{uuid7()}"


def new_experiment_id() -> str:
    """`exp-` and a UUIDv7."""
    return f"exp-{uuid7()}"


def new_score_id() -> str:
    """`score-` and a UUIDv7."""
    return f"score-{uuid7()}"


def new_vote_id() -> str:
    """`vote-` and a UUIDv7."""
    return f"vote-{uuid7()}"


def request_id_of_answer(response_id: str) -> str:
    """The request id of an answer, from the answer's own id or its `x-request-id`."""
    for prefix in ("chatcmpl-", "cmpl-", "req-"):
        if response_id.startswith(prefix):
            return f"req-{response_id.removeprefix(prefix)}"
    return response_id
