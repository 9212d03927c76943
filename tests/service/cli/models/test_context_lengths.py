"""Lengths are read and written as people do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli.models.context_lengths import human_tokens, read_tokens


@pytest.mark.parametrize(
    ("text", "tokens"), [("300", 300), ("8k", 8192), (" 8K ", 8192), ("1m", 1_048_576)]
)
def test_suffixes_are_binary(text, tokens):
    """The suffix k is 1024, m its square."""
    assert read_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "k", "0", "0k", "-1", "1.5k", "8g"])
def test_what_is_no_length_is_refused(text):
    """The refusal shows the text."""
    with pytest.raises(ValueError, match="is not a length"):
        read_tokens(text)


@given(st.integers(1, 1 << 24))
def test_what_is_written_reads_back(tokens):
    """Writing loses nothing."""
    assert read_tokens(human_tokens(tokens).replace(",", "")) == tokens
