"""Windows are the same bytes for all models, fit each of them, and score every byte once."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import InvalidRequest
from service.core.ports import TextTokens
from service.core.scores.windows import longest, tokens_of, windows


def tokens(sizes, context_tokens, start_id=-1):
    """Tokens of so many bytes each; ids count from 0."""
    begins = [sum(sizes[:index]) for index in range(len(sizes))]
    return TextTokens(
        token_ids=tuple(range(len(sizes))),
        begins_bytes=tuple(begins),
        start_id=start_id,
        start_token="<s>",
        context_tokens=context_tokens,
    )


@st.composite
def tokenized(draw):
    """One text by up to three models: ways to cut as many bytes, and a context for each."""
    size = draw(st.integers(1, 200))
    models = []
    for _ in range(draw(st.integers(1, 3))):
        cuts = draw(st.lists(st.integers(1, max(1, size - 1)), unique=True, max_size=size))
        edges = sorted({0, size, *cuts})
        sizes = [b - a for a, b in pairwise(edges)]
        models.append(tokens(sizes, draw(st.integers(4, 40))))
    return size, models


@given(tokenized())
def test_every_byte_is_scored_once_in_windows_that_fit(case):
    """Whatever the tokens are: begin to end without gap, and each token in exactly one window."""
    size, models = case
    cut = windows(models, size)
    assert [cut[0].begin, *(window.end for window in cut)] == [
        *(window.begin for window in cut),
        size,
    ]
    assert all(window.context <= window.begin < window.end for window in cut)
    for model in models:
        parts = [tokens_of(model, window, size) for window in cut]
        assert all(len(part.token_ids) <= model.context_tokens for part in parts)
        assert all(part.token_ids[0] == model.start_id for part in parts)
        scored = [
            id_ for part in parts for id_ in part.token_ids[len(part.token_ids) - part.scored :]
        ]
        assert scored == list(model.token_ids)


def test_later_windows_have_half_a_window_of_context():
    """Ten tokens of a byte each through a window of start token and four."""
    cut = windows([tokens([1] * 10, 5)], 10)
    assert [(w.context, w.begin, w.end) for w in cut] == [
        (0, 0, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10),
    ]  # fmt: skip


def test_the_shortest_context_cuts_for_all():
    """A model with room for everything is given the windows of the one without."""
    long, short = tokens([2] * 5, 100), tokens([1] * 10, 5)
    assert windows([long, short], 10) == windows([short, long], 10)
    assert windows([long, short], 10)[0].end == 4
    assert len(windows([long], 10)) == 1


def test_a_limit_below_the_context_cuts_too():
    """`window_tokens` gives the same windows whatever models are asked."""
    assert len(windows([tokens([1] * 10, 100)], 10, most_tokens=5)) == 4


def test_no_window_is_longer_than_its_scores_may_be_kept():
    """A context of a million tokens does not make one request of a million scores."""
    assert longest(tokens([1], 10**6), None) == longest(tokens([1], 10**6), 10**6) == 32_768
    assert longest(tokens([1], 2048), None) == 2048


def test_a_window_that_cannot_advance_is_refused():
    """A character of three tokens does not fit a window of start token and one."""
    model = TextTokens(
        token_ids=(1, 2, 3, 4), begins_bytes=(0, 0, 0, 3), start_id=0, start_token="",
        context_tokens=2,
    )  # fmt: skip
    with pytest.raises(InvalidRequest, match="too short"):
        windows([model], 4)
