"""The probe finds engines whose answers depend on company."""

import asyncio
import itertools
import math

import msgspec
import pytest

from service.core.errors import EngineFailed
from service.core.events import Delta, TokenAlternative, TokenLogprob
from service.serving.models.conformance import first_difference, probe


def probed(bench, prepare=lambda engine: None, **options):
    """The probe's finding on one engine."""

    async def main():
        b = bench()
        await b.ask()
        engine = b.engines["one"]
        prepare(engine)
        return await probe(engine, **options)

    return asyncio.run(main())


def other_token_in_company(gap_nats):
    """Sample another third token whenever requests share a step."""

    def prepare(engine):
        honest = engine.delta

        def delta(request, number, at_ns):
            event = honest(request, number, at_ns)
            top = (TokenAlternative(number, "x", -0.5), TokenAlternative(7, "y", -0.5 - gap_nats))
            token = TokenLogprob(token_id=number, text="x", logprob=-0.5, top=top)
            ids = (70,) if number == 2 and engine.running in range(2, 8) else event.token_ids
            return msgspec.structs.replace(event, logprobs=(token,), token_ids=ids)

        engine.delta = delta

    return prepare


def test_an_engine_that_answers_alike_passes(bench):
    """Alone, together and eight times at once."""
    found = probed(bench)
    assert found.passed
    assert found.duration_ns > 0


def test_copies_that_differ_are_a_fault(bench):
    """Eight equal prompts with six texts, as vLLM 0.32 gave for LFM2."""

    def prepare(engine):
        counter = itertools.count()

        def delta(request, number, at_ns):
            token = next(counter) % 3 if engine.running > 4 else number
            return Delta(text="x", token_ids=(token,), at_ns=at_ns)

        engine.delta = delta

    found = probed(bench, prepare)
    assert not found.passed
    assert found.reason.startswith("8 equal prompts at once got")


def test_a_clear_difference_between_alone_and_together_is_a_fault(bench):
    """The prompt and the position are named."""
    found = probed(bench, other_token_in_company(gap_nats=3.0))
    assert not found.passed
    assert found.reason == "prompt 1, alone and in a batch, differs at token 3"


def test_a_tie_may_fall_either_way(bench):
    """Two candidates closer than float32 can tell apart are no fault."""
    assert probed(bench, other_token_in_company(gap_nats=0.005)).passed


def test_a_probability_that_is_no_number_is_a_fault(bench):
    """NaN in the logits shows before a client sees its text."""

    def prepare(engine):
        def delta(request, number, at_ns):
            token = TokenLogprob(token_id=1, text="x", logprob=math.nan)
            return Delta(text="x", token_ids=(1,), at_ns=at_ns, logprobs=(token,))

        engine.delta = delta

    assert probed(bench, prepare).reason == "a log-probability is not finite"


def test_an_engine_that_answers_nothing_is_a_fault(bench):
    """No token at all is no agreement."""

    def prepare(engine):
        engine.delta = lambda request, number, at_ns: Delta(text="", token_ids=(), at_ns=at_ns)

    assert probed(bench, prepare).reason == "a prompt was answered with no token"


def test_a_probe_that_takes_too_long_gives_up(bench):
    """The model is served all the same, unverified."""
    found = probed(bench, lambda engine: engine.may_step.clear(), timeout_s=0.02)
    assert (found.passed, found.reason) == (False, "probe timed out after 0.02 s")


def test_an_engine_that_fails_the_probe_is_a_fault(bench):
    """Also when eight requests at once are what it cannot stand."""
    found = probed(bench, lambda engine: setattr(engine, "error", EngineFailed("out of memory")))
    assert found.reason == "probe failed: out of memory"


async def test_a_model_that_fails_its_probe_is_served_unverified(bench):
    """Card and record say so; the answer comes."""
    b = bench(probe=True)
    b.prepare["one"] = other_token_in_company(gap_nats=3.0)
    assert len(await b.ask()) == 7
    status = b.pool.status("one")
    assert (status.state, status.verified, status.loaded) == ("unverified", False, True)
    assert "differs at token 3" in status.verification
    assert b.sink.finals[-1].verified is False


async def test_a_model_that_passes_is_verified(bench):
    """And its probe leaves no records behind."""
    b = bench(probe=True)
    await b.ask()
    assert b.pool.status("one").state == "ready"
    assert [record.verified for record in b.sink.finals] == [True]


@pytest.mark.parametrize(
    ("one", "other", "index"),
    [("abc", "abc", None), ("abc", "axc", 1), ("ab", "abc", 2), ("", "a", 0)],
)
def test_the_first_difference_is_found(one, other, index):
    """A shorter answer differs where it ends."""
    assert first_difference(one, other) == index
