"""Server-sent events out of bytes that were cut anywhere."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.core.sse import SseReader

texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
newlines = st.sampled_from(["\n", "\r\n", "\r"])


def read(pieces, **limits):
    """Data of all events in the pieces."""
    reader = SseReader(**limits)
    return [data for piece in pieces for data in reader.push(piece)]


def cut(stream, places):
    """The stream in pieces."""
    ends = sorted(place % (len(stream) + 1) for place in places)
    return [stream[begin:end] for begin, end in zip([0, *ends], [*ends, len(stream)], strict=True)]


@given(st.lists(texts), newlines, st.lists(st.integers(0, 10**6)))
@example(["a\u2028b\u0085c\x0bd\x0ce\x1cf"], "\n", [])
def test_any_cut_gives_the_data_of_every_event(payloads, newline, places):
    """However bytes are cut, events come whole and in order, and comments not at all."""
    lines = [f": ping{newline}{newline}data: {text}{newline}{newline}" for text in payloads]

    assert read(cut("".join(lines).encode(), places)) == [text.encode() for text in payloads]


@given(st.lists(st.sampled_from([b"\r", b"\n", b"data", b":", b" ", b"x", b"\xef\xbb\xbf"])))
def test_a_byte_at_a_time_reads_as_the_whole(parts):
    """Also streams of nothing but line ends and fragments of fields."""
    stream = b"".join(parts)

    assert read(stream[place : place + 1] for place in range(len(stream))) == read([stream])


def test_lines_of_one_event_are_joined():
    """Several data fields are one event's lines, with or without the space after the colon."""
    assert read([b"event: x\ndata:{\ndata: }\n\n"]) == [b"{\n}"]


def test_an_event_without_data_is_none():
    """An id alone ends no event; an empty data field does."""
    assert read([b"id: 1\n\ndata\n\ndatax: 2\n\n"]) == [b""]


def test_a_byte_order_mark_is_skipped():
    """The first field counts also after the mark that some servers send."""
    assert read([b"\xef\xbb\xbfdata: x\n\n"]) == [b"x"]


@pytest.mark.parametrize("stream", [b"data: 123", b"data: 1\ndata: 2\ndata: 345", b": 3456789"])
def test_an_event_without_end_is_refused(stream):
    """A server that never ends a line or an event cannot fill the memory."""
    pieces = (stream[place : place + 1] for place in range(len(stream)))
    with pytest.raises(ValueError, match="longer than 8 bytes"):
        read(pieces, largest_event_bytes=8)
