"""Stamps belong to the bytes that completed an event, however the stream was cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from loadtest.answer import Reading
from loadtest.wire.messages import Exchange

TEXTS = ("Grüße", " aus", "\u2028Köln", "!")
EVENTS = [
    b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode() for text in TEXTS
] + [
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]
STREAM = b"".join(EVENTS)
#: Where each event is complete.
ENDS = list(itertools.accumulate(map(len, EVENTS)))


def exchange(pieces: list[tuple[int, bytes]], **changes: object) -> Exchange:
    values: dict[str, object] = {
        "key": 0, "dispatched_ns": 1, "sent_ns": 2, "head_ns": 3, "status": 200,
        "request_id": None, "pieces": pieces, "ended_ns": 10_000, "problem": None,
    }  # fmt: skip
    return Exchange(**(values | changes))


@given(st.sets(st.integers(1, len(STREAM) - 1), max_size=12))
def test_an_event_has_the_stamp_of_the_piece_that_completed_it(cuts: set[int]) -> None:
    """First and last text are stamped as the piece in which their events end, wherever the cuts."""
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [(100 + end, STREAM[start:end]) for start, end in itertools.pairwise(edges)]

    reading = Reading(exchange(pieces))

    assert reading.outcome == "ok"
    assert reading.first_ns == 100 + next(end for end in edges[1:] if end >= ENDS[0])
    assert reading.last_ns == 100 + next(end for end in edges[1:] if end >= ENDS[len(TEXTS) - 1])
    assert reading.text_bytes == len("".join(TEXTS).encode())


def test_events_of_one_piece_share_its_stamp() -> None:
    """Events that arrived together have no time between them, and none is made up."""
    reading = Reading(exchange([(7, STREAM)]))

    assert (reading.first_ns, reading.last_ns, reading.chunks) == (7, 7, len(TEXTS))
    assert reading.first_text_bytes == reading.text_bytes


def test_a_malformed_event_fails() -> None:
    """What is no JSON is a failure with a name, not an error of the load test."""
    reading = Reading(exchange([(7, b"data: {\n\n")]))

    assert (reading.outcome, reading.error) == ("failed", "malformed event")


def test_a_timeout_keeps_what_had_come() -> None:
    """A request that was given up in mid-answer is a timeout, with the stamps it has."""
    reading = Reading(exchange([(7, EVENTS[0])], problem="timeout"))

    assert (reading.outcome, reading.first_ns, reading.last_ns) == ("timeout", 7, 7)
