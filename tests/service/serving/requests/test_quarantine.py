"""Who is suspected of an engine's death, and for how long."""

import pytest

from service.core.chat import ChatRequest, Sampling, TextPrompt
from service.core.errors import PoisonedRequest
from service.serving.requests.quarantine import CAPACITY, TTL_S, Quarantine
from support.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def quarantine(clock):
    return Quarantine(clock)


def request(text="boom", **fields):
    values = {
        "request_id": "a",
        "model": "m",
        "prompt": TextPrompt(text),
        "accepted_ns": 1,
        "accepted_at_ns": 1,
    }
    return ChatRequest(**(values | fields))


def test_a_first_death_makes_a_suspect_and_a_second_a_refusal(quarantine):
    """The refusal is the client's to mend: it says how long and what to do."""
    assert quarantine.check(request()) is False
    quarantine.blame(request())
    assert quarantine.check(request()) is True
    quarantine.blame(request())
    with pytest.raises(PoisonedRequest, match=r"died 2 times .* next 60 min\. .* change this one"):
        quarantine.check(request())


def test_the_id_does_not_matter_and_what_is_asked_does(quarantine):
    """A retry has a new id; another prompt, model or sampling is another request."""
    quarantine.blame(request())

    assert quarantine.check(request(request_id="b", accepted_ns=9, stream=True))
    others = (
        request("other"),
        request(model="n"),
        request(sampling=Sampling(seed=1)),
        request(echo=True),
    )
    assert not any(quarantine.check(other) for other in others)


def test_the_order_of_biases_does_not_matter(quarantine):
    """They are a set."""
    quarantine.blame(request(sampling=Sampling(logit_bias={1: 1.0, 2: 2.0})))

    assert quarantine.check(request(sampling=Sampling(logit_bias={2: 2.0, 1: 1.0})))


def test_an_answer_clears_a_suspect(quarantine):
    """It was there by chance."""
    quarantine.blame(request())
    quarantine.clear(request())
    quarantine.blame(request())

    assert quarantine.check(request()) is True


def test_a_suspicion_ends(quarantine, clock):
    """Each death renews it."""
    quarantine.blame(request())
    clock.now = TTL_S - 1
    quarantine.blame(request())
    clock.now = 2 * TTL_S - 2
    with pytest.raises(PoisonedRequest, match="next 1 min"):
        quarantine.check(request())
    clock.now = 2 * TTL_S
    assert quarantine.check(request()) is False


def test_the_oldest_suspicion_gives_way(quarantine):
    """There are never more than it has room for."""
    for number in range(CAPACITY + 1):
        quarantine.blame(request(str(number)))

    assert not quarantine.check(request("0"))
    assert quarantine.check(request("1"))
    assert quarantine.check(request(str(CAPACITY)))
