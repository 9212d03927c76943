"""From the wire to a valid request and back, where no socket is needed."""

import msgspec
import pytest

from service.api.openai.logprobs import completion_logprobs
from service.api.openai.request import Caller, Limits, chat_request
from service.api.openai.schema import ChatCompletionBody
from service.api.openai.usage import metrics, timings, usage
from service.core.chat import Message
from service.core.chat.sampling import Sampling
from service.core.events import TokenAlternative, TokenLogprob
from service.core.metrics import derive
from service.core.routes.route import Arm, WeightedRoute

ROUTE = WeightedRoute(arms=(Arm(model="a"),), sticky_header="x-session")
LIMITS = Limits(max_answer_tokens=100, routes={"r": ROUTE})


def asked(headers=None, **fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    caller = Caller(request_id="req-1", headers=headers or {}, accepted_ns=1, accepted_at_ns=2)
    wire = msgspec.json.decode(msgspec.json.encode(body), type=ChatCompletionBody)
    return chat_request(wire, None, caller, LIMITS)


def test_a_plain_request_has_default_sampling():
    """Nothing named, nothing changed."""
    request = asked()
    assert request.sampling == Sampling()
    assert request.prompt.messages == (Message(role="user", content="hi"),)
    assert (request.endpoint, request.stream, request.accepted_ns) == ("chat", False, 1)


def test_every_sampling_field_arrives():
    """Under the name that engines know."""
    sampling = asked(
        temperature=0, top_p=0.5, top_k=3, min_p=0.1, repetition_penalty=1.1, presence_penalty=0.2,
        frequency_penalty=0.3, logit_bias={"7": -1}, seed=5, max_tokens=9, min_tokens=2,
        stop=["x", "y"], ignore_eos=True, logprobs=True, top_logprobs=4,
    ).sampling  # fmt: skip
    assert sampling == Sampling(
        temperature=0, top_p=0.5, top_k=3, min_p=0.1, repetition_penalty=1.1, presence_penalty=0.2,
        frequency_penalty=0.3, logit_bias={7: -1}, seed=5, max_tokens=9, min_tokens=2,
        stop=("x", "y"), ignore_eos=True, logprobs=4,
    )  # fmt: skip


def test_the_prefix_cache_is_used_unless_the_body_says_no():
    """Null is the same as absent, and the salt arrives as it was given."""
    plain, null = asked(), asked(prefix_cache=None, cache_salt=None)
    salted, without = asked(cache_salt="mine"), asked(prefix_cache=False)

    assert [each.prefix_cache for each in (plain, null, salted, without)] == [True] * 3 + [False]
    assert [each.cache_salt for each in (plain, null, salted)] == [None, None, "mine"]


@pytest.mark.parametrize(("stop", "expected"), [("x", ("x",)), ("", ()), ([], ()), (None, ())])
def test_stop_may_be_a_string_a_list_or_null(stop, expected):
    """One shape below."""
    assert asked(stop=stop).sampling.stop == expected


@pytest.mark.parametrize(
    ("headers", "fields", "key"),
    [
        ({}, {}, None),
        ({"x-openwebui-chat-id": "chat"}, {}, "chat"),
        ({"x-openwebui-chat-id": "chat"}, {"user": "ann"}, "ann"),
        ({"x-session": "s", "x-openwebui-chat-id": "chat"}, {"user": "ann", "model": "r"}, "s"),
        ({"x-session": "s"}, {}, None),
    ],
)
def test_a_client_is_known_by_the_routes_header_then_user_then_chat(headers, fields, key):
    """The named header counts only for its route."""
    assert asked(headers, **fields).sticky_key == key


def test_a_callers_id_is_shortened():
    """It is a label, and not a place to store things."""
    assert len(asked({"x-request-id": "x" * 500}).client_request_id) == 128


def test_cached_tokens_are_told_where_they_are_known(make_record):
    """In usage as OpenAI has it, in timings as llama.cpp has it."""
    record = make_record("a", prompt_tokens=12, cached_tokens=4)
    assert usage(record).prompt_tokens_details.cached_tokens == 4
    assert (timings(record, derive(record)).prompt_n, timings(record, derive(record)).cache_n) == (
        8,
        4,
    )


def test_unknown_cached_tokens_are_left_out(make_record):
    """Not 0."""
    record = make_record("a", cached_tokens=None)
    assert usage(record).prompt_tokens_details is None
    assert b"cache_n" not in msgspec.json.encode(timings(record, derive(record)))


def test_timings_agree_with_the_metrics(make_record):
    """Two vocabularies, one formula."""
    record = make_record("a")
    ours, theirs = metrics(record, derive(record)), timings(record, derive(record))
    assert theirs.predicted_per_second == ours.tokens_per_s
    assert theirs.predicted_per_token_ms == ours.tpot_ms
    assert theirs.prompt_ms == ours.prefill_ms


def test_of_tokens_with_the_same_text_the_likeliest_counts():
    """Pieces of characters look alike; lm-eval compares the largest number."""
    top = (TokenAlternative(1, "\ufffd", -0.5), TokenAlternative(2, "\ufffd", -1.0))
    token = TokenLogprob(token_id=2, text="\ufffd", logprob=-1.0, top=top)
    assert completion_logprobs([token]).top_logprobs == [{"\ufffd": -0.5}]


def test_the_chosen_token_is_always_among_the_likeliest():
    """Also when it was not likely."""
    token = TokenLogprob(token_id=2, text="b", logprob=-9.0, top=(TokenAlternative(1, "a", -0.1),))
    assert completion_logprobs([token]).top_logprobs == [{"a": -0.1, "b": -9.0}]
