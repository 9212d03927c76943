"""What is particular to the echo engine: its words, its pace and its faults."""

import asyncio
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_registry.spec import ModelSpec, ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Message, Sampling
from service.core.errors import EngineFailed, ModelNotReady
from service.core.events import Delta, Finished
from service.engines.echo import EOS, VOCABULARY_TOKENS, EchoBehaviour, EchoEngine, encode, piece


def engine(architecture=None, **behaviour):
    spec = ModelSpec(
        id="echo",
        family="transformer",
        licence="Apache-2.0",
        context_tokens=1000,
        sources=(),
        engine="echo",
        architecture=architecture or {},
    )
    model = ResolvedModel(spec=spec, variant=None, path="", weights_sha256=None)
    return EchoEngine(model, EchoBehaviour(**behaviour) if behaviour else None)


async def answer(of, text="one two three", **sampling):
    messages = (
        Message(role="user", content="before"),
        Message(role="assistant", content="ignored"),
        Message(role="user", content=text),
    )
    request = ChatRequest(
        request_id="r",
        model="echo",
        prompt=ChatPrompt(messages),
        sampling=Sampling(**sampling),
        accepted_ns=0,
        accepted_at_ns=0,
    )
    return [event async for event in of.generate(request)]


def texts(events):
    return [event.text for event in events if isinstance(event, Delta)]


def test_it_repeats_the_last_message_word_by_word():
    """Each word with its space is a token, and the end of sequence follows."""
    events = asyncio.run(answer(engine()))

    assert texts(events) == ["one", " two", " thre", "e", ""]
    assert events[-2].token_ids == (EOS,)
    assert events[-1].reason == "stop"


def test_it_starts_over_if_it_may_not_end():
    """With `ignore_eos` the message is repeated up to the limit."""
    events = asyncio.run(answer(engine(), "a b", ignore_eos=True, max_tokens=5))

    assert texts(events) == ["a", " b", "a", " b", "a"]


def test_an_empty_message_is_answered_with_the_end():
    """There is nothing to repeat."""
    finished = asyncio.run(answer(engine(), ""))[-1]

    assert (finished.completion_tokens, finished.reason) == (1, "stop")


@given(st.text(max_size=60))
def test_tokens_spell_their_text(text):
    """Any text is the concatenation of its tokens, each within the vocabulary."""
    ids = encode(text)

    assert b"".join(map(piece, ids)) == text.encode()
    assert all(0 < token < VOCABULARY_TOKENS for token in ids)


def test_it_keeps_the_pace_asked_for():
    """The first token and the gaps take as long as told."""
    events = asyncio.run(answer(engine(ttft_ms=40, itl_ms=15), "a b c"))
    stamps = [event.at_ns for event in events if isinstance(event, Delta)]

    assert stamps[0] - events[0].scheduled_ns >= 40e6
    assert all(later - earlier >= 15e6 for earlier, later in itertools.pairwise(stamps))


def test_it_fails_where_it_is_told_to():
    """The failure comes after that many tokens."""

    async def count():
        seen = 0
        try:
            async for event in engine(fail_after_tokens=2).generate(
                ChatRequest(
                    request_id="r",
                    model="echo",
                    prompt=ChatPrompt((Message(role="user", content="a b c d"),)),
                    accepted_ns=0,
                    accepted_at_ns=0,
                )
            ):
                seen += isinstance(event, Delta)
        except EngineFailed:
            return seen
        return None

    assert asyncio.run(count()) == 2


def test_it_can_fail_to_load():
    """`start` raises what it is told to, after the time it is told to take."""
    begun = time.monotonic()
    with pytest.raises(ModelNotReady, match="no such file"):
        asyncio.run(engine(load_ms=20, load_error="no such file").start())

    assert time.monotonic() - begun >= 0.02


def test_requests_beyond_its_slots_wait():
    """With one slot the second answer is scheduled when the first has ended."""

    async def two():
        busy = engine(slots=1, itl_ms=5)
        return await asyncio.gather(answer(busy), answer(busy))

    first, second = asyncio.run(two())

    assert second[0].scheduled_ns >= first[-1].last_ns
    assert isinstance(first[-1], Finished)
    assert first[-1].co_scheduled == 0


def test_the_catalogue_can_say_how_it_behaves():
    """The model's `[architecture]` table is its behaviour; a wrong key is refused by name."""
    assert engine({"ttft_ms": 3}).behaviour == EchoBehaviour(ttft_ms=3)
    with pytest.raises(ModelNotReady, match="tft_ms"):
        engine({"tft_ms": 3})
