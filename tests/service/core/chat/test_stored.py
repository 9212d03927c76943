"""A stored prompt is read back as it was."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.chat import ChatPrompt, Message, Sampling, TextPrompt, TokenPrompt
from service.core.chat.stored import read_prompt, read_sampling, stored_prompt

MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.text(),
    name=st.none() | st.text(),
)
CHATS = st.lists(MESSAGES, min_size=1).map(tuple)
PROMPTS = (
    st.builds(TextPrompt, st.text() | st.sampled_from(["[1,2]", "[]", '{"text":"x"}', "{", "[{}]"]))
    | st.builds(ChatPrompt, CHATS, st.booleans())
    | st.builds(TokenPrompt, st.lists(st.integers(0, 2**31), min_size=1).map(tuple))
)


@given(PROMPTS)
def test_every_prompt_is_read_back(prompt):
    """Turns, names, tokens, and that the last turn is to be continued."""
    assert read_prompt(stored_prompt(prompt)) == prompt


def test_texts_are_stored_as_they_are():
    """So that they can be searched and read; only what looks like JSON is wrapped."""
    assert stored_prompt(TextPrompt("hi")) == "hi"
    assert stored_prompt(TextPrompt("[1]")) == '{"text":"[1]"}'
    assert stored_prompt(TokenPrompt((1, 2))) == "[1,2]"
    assert stored_prompt(ChatPrompt((Message(role="user", content="x"),))) == (
        '[{"role":"user","content":"x","name":null}]'
    )


def test_parameters_are_read_back_from_a_records_json():
    """Keys of `logit_bias` are numbers again, and what is left out has its default."""
    sampling = Sampling(temperature=0.5, stop=("a",), logit_bias={7: 1.5}, max_tokens=3)
    kept = {"temperature": 0.5, "stop": ("a",), "logit_bias": {7: 1.5}, "max_tokens": 3}
    assert read_sampling(msgspec.json.decode(msgspec.json.encode(kept))) == sampling
    assert read_sampling(None) == Sampling()


def test_parameters_that_are_none_are_refused():
    """Rather than left out silently."""
    with pytest.raises(msgspec.ValidationError):
        read_sampling({"temperature": "hot"})
