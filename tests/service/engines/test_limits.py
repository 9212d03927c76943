"""What a request may ask of an engine."""

import pytest

from service.core.chat import Sampling
from service.core.errors import ContextOverflow, InvalidRequest
from service.engines.limits import answer_limit, check_prompt, check_sampling

INVALID = {
    "temperature": -0.1,
    "top_p": 0.0,
    "top_k": 0,
    "min_p": 1.5,
    "repetition_penalty": 0.0,
    "presence_penalty": 2.5,
    "frequency_penalty": float("nan"),
    "max_tokens": -1,
    "min_tokens": -1,
    "logprobs": -1,
    "logit_bias": {10: 1.0},
}


@pytest.mark.parametrize("field", INVALID)
def test_an_impossible_value_is_refused_by_name(field):
    """The error names the field."""
    with pytest.raises(InvalidRequest) as caught:
        check_sampling(Sampling(**{field: INVALID[field]}), vocabulary_tokens=10)

    assert field == caught.value.param


def test_an_unbounded_bias_is_refused():
    """A bias that would make a logit infinite is refused."""
    with pytest.raises(InvalidRequest, match="between -100 and 100"):
        check_sampling(Sampling(logit_bias={1: float("inf")}), vocabulary_tokens=10)


def test_usual_values_pass():
    """The defaults and everyday settings are accepted."""
    check_sampling(Sampling(), vocabulary_tokens=10)
    check_sampling(
        Sampling(temperature=0, top_p=0.9, top_k=40, min_p=0.05, logit_bias={9: -100}),
        vocabulary_tokens=10,
    )


@pytest.mark.parametrize("token_ids", [[], [10], [-1, 3]])
def test_a_prompt_must_have_tokens_of_the_model(token_ids):
    """Empty prompts and unknown tokens are refused."""
    with pytest.raises(InvalidRequest):
        check_prompt(token_ids, vocabulary_tokens=10)


@pytest.mark.parametrize(
    ("prompt", "named", "default", "limit"),
    [(10, None, None, 90), (10, None, 50, 50), (90, None, 50, 10), (10, 90, 5, 90), (99, 0, 5, 0)],
)
def test_an_answer_may_fill_what_is_left(prompt, named, default, limit):
    """A named length counts as it is; otherwise the default, capped by the context."""
    assert limit == answer_limit(
        context_tokens=100, prompt_tokens=prompt, max_tokens=named, default_tokens=default
    )


@pytest.mark.parametrize(("prompt", "named"), [(100, None), (150, None), (60, 41), (101, 1)])
def test_what_does_not_fit_overflows_in_openai_words(prompt, named):
    """A prompt that leaves no room, and a named answer that does not fit, are refused."""
    with pytest.raises(ContextOverflow, match="maximum context length is 100 tokens"):
        answer_limit(context_tokens=100, prompt_tokens=prompt, max_tokens=named, default_tokens=5)
