"""Server-sent events out of bytes that were cut anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import sse as sse_data
from service.core.sse import SseData

texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)


def cut(stream, places):
    """The stream in pieces."""
    ends = sorted(place % (len(stream) + 1) for place in places)
    return [stream[begin:end] for begin, end in zip([0, *ends], [*ends, len(stream)], strict=True)]


@given(st.lists(texts), st.sampled_from(["\n", "\r\n"]), st.lists(st.integers(0, 10**6)))
def test_any_cut_gives_the_data_of_every_event(payloads, newline, places):
    """However bytes are cut, events come whole and in order, and comments not at all."""
    lines = [f": ping{newline}{newline}data: {text}{newline}{newline}" for text in payloads]
    events = SseData()
    found = [data for piece in cut("".join(lines).encode(), places) for data in events.push(piece)]

    assert found == [text.encode() for text in payloads]


def test_lines_of_one_event_are_joined():
    """Several data fields are one event's lines, with or without the space after the colon."""
    assert list(SseData().push(b"event: x\ndata:{\ndata: }\n\n")) == [b"{\n}"]


def test_an_event_without_end_is_refused(monkeypatch):
    """A server that never ends a line cannot fill the memory."""
    monkeypatch.setattr(sse_data, "LARGEST_EVENT_BYTES", 8)
    with pytest.raises(ValueError, match="longer than 8 bytes"):
        list(SseData().push(b"data: 123"))
