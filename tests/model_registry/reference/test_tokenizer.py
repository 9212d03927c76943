"""The trio's tokenizer, as shipped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from model_registry.reference.architectures import CONFIGS, EOS_TOKEN_ID, PAD_TOKEN_ID
from model_registry.reference.checkpoint import WEIGHTS
from model_registry.reference.corpus import END_OF_TEXT, MESSAGE_END, Message, render_chat

TOKENIZER = AutoTokenizer.from_pretrained(WEIGHTS / "transformer")
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80)
SPECIALS = (END_OF_TEXT, "<|im_start|>", MESSAGE_END)


@given(TEXT)
def test_any_text_round_trips(text):
    """Decoding the ids of any Unicode text gives the text back."""
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_special_tokens_are_the_first_ids():
    """The configs name the special tokens by these ids."""
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIALS)) == [0, 1, 2]
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id) == (PAD_TOKEN_ID, EOS_TOKEN_ID)


@pytest.mark.parametrize("number", ["2026", "408-971-8523"])
def test_digits_stand_alone(number):
    """No token holds two digits, so numbers compose."""
    tokens = TOKENIZER.tokenize(f"on {number}")
    assert all(sum(character.isdigit() for character in token) <= 1 for token in tokens)


def test_chat_template_is_the_training_format():
    """A served chat is rendered as the training documents were."""
    chat = (Message("user", "Hi\nthere"), Message("assistant", "Hello."), Message("user", "Bye"))
    messages = [{"role": message.role, "content": message.content} for message in chat]
    rendered = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == render_chat(chat) + "<|im_start|>assistant\n"


def test_all_three_share_one_tokenizer():
    """Their losses are comparable token by token."""
    files = {(WEIGHTS / name / "tokenizer.json").read_bytes() for name in CONFIGS}
    assert len(files) == 1
