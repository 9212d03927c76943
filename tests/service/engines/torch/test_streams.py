"""Requests of one process: their events, and who is suspected when it dies."""

import pytest

from service.core.errors import EngineDied, InvalidRequest
from service.core.events import Started, TokenLogprob
from service.engines.torch.streams import Streams

STARTED = Started(queued_ns=1, scheduled_ns=2, prompt_tokens=3)


def suspects(*, last_step):
    """Which of a request that runs and one that waits is suspected."""
    streams = Streams()
    opened = {name: streams.open(name) for name in ("runs", "waits")}
    streams.deliver("runs", STARTED)
    opened["runs"].arrived.get_nowait()
    streams.lose("it died", retry_after_s=2, last_step=last_step)
    errors = {name: stream.arrived.get_nowait() for name, stream in opened.items()}
    assert all(isinstance(error, EngineDied) for error in errors.values())
    assert {error.retry_after_s for error in errors.values()} == {2}
    return [name for name, error in errors.items() if error.suspect]


def test_the_last_step_names_the_suspects():
    """Whoever was not computed for is innocent."""
    assert suspects(last_step=("runs",)) == ["runs"]


@pytest.mark.parametrize("last_step", [(), ("ended before",)])
def test_a_death_outside_of_steps_is_of_those_that_had_not_begun(last_step):
    """They were being tokenized, or were about to take their first step."""
    assert suspects(last_step=last_step) == ["waits"]


def test_a_death_of_something_else_suspects_nobody():
    """A load may take the process down."""
    assert suspects(last_step=None) == []


def test_scores_that_come_in_parts_are_told_with_the_start():
    """The host sends a prompt's scores chunk by chunk; the service joins them."""
    scores = [TokenLogprob(token_id=id_, text="", logprob=-1.0) for id_ in range(5)]
    streams = Streams()
    stream = streams.open("a")
    streams.score("a", scores[:2])
    streams.score("gone", scores)
    streams.score("a", scores[2:])
    streams.deliver("a", STARTED)

    assert stream.arrived.get_nowait().prompt_logprobs == tuple(scores)


def test_an_id_is_used_once_at_a_time():
    """A second stream with the id of an open one is refused."""
    streams = Streams()
    streams.open("a")
    with pytest.raises(InvalidRequest, match="in use"):
        streams.open("a")
    streams.close("a")
    streams.open("a")

    assert len(streams) == 1


async def test_a_stream_ends_with_an_error():
    """The error is raised; what arrives for a closed stream is dropped."""
    streams = Streams()
    stream = streams.open("a")
    streams.deliver("a", STARTED)
    streams.fail(EngineDied("gone"))

    assert await stream.next() is STARTED
    with pytest.raises(EngineDied, match="gone"):
        await stream.next()
    streams.close("a")
    streams.deliver("a", STARTED)

    assert len(streams) == 0
