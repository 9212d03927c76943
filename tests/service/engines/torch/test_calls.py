"""Calls to the torch host, and the errors that it replies with."""

import asyncio

import pytest

from service.core import errors
from service.core.errors import EngineFailed, InvalidRequest, TriptychError
from service.engines.torch.calls import Calls, error_named
from service.engines.torch.protocol.messages import CallFailed, Detokenize, Text

KINDS = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, TriptychError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_can_be_named(kind):
    """One that could not be built from its message took the connection down, and all models."""
    error = error_named(kind.code, "It broke.", "messages")

    assert (type(error), str(error), error.param) == (kind, "It broke.", "messages")


def test_an_unknown_error_is_the_engines():
    """Of a host that is newer, say."""
    assert type(error_named("no_such_code", "It broke.", None)) is EngineFailed


async def test_replies_find_their_calls():
    """In any order; one that nobody waits for is dropped."""
    sent = []
    calls = Calls(sent.append)
    asked = [
        asyncio.create_task(calls.ask(lambda id_: Detokenize(id_, "m", (1,)))) for _ in range(2)
    ]
    await asyncio.sleep(0)
    first, second = (question.call_id for question in sent)
    calls.answer(Text(second, "b"))
    calls.answer(CallFailed(first, "invalid_request", "No."))
    calls.answer(Text(99, "nobody's"))

    with pytest.raises(InvalidRequest, match="No"):
        await asked[0]
    assert (await asked[1]).text == "b"
    assert len(calls) == 0


async def test_a_question_that_cannot_be_sent_leaves_no_call():
    """As one that is too large for a frame."""

    def send(_):
        raise InvalidRequest("too large")

    calls = Calls(send)
    with pytest.raises(InvalidRequest, match="too large"):
        await calls.ask(lambda id_: Detokenize(id_, "m", (1,)))

    assert len(calls) == 0
