"""The model card says what results.json has."""

import msgspec
import pytest

from model_registry.reference.card import label, replies, table, with_section
from model_registry.reference.checkpoint import WEIGHTS
from model_registry.reference.results import Cell, Results


@pytest.fixture
def results():
    raw = (WEIGHTS.parent / "results.json").read_bytes()
    return msgspec.json.decode(raw, type=Results)


def test_the_card_has_the_results(results):
    """Nobody edits the one without the other."""
    card = (WEIGHTS.parent / "README.md").read_text()
    assert table(results) in card
    assert replies(results) in card


def test_a_section_replaces_the_one_before():
    """What stands around the markers stays."""
    card = "before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n"
    written = with_section(card, "results", "new\n")
    assert "old" not in written
    assert written.startswith("before\n<!-- results: begin -->\n\nnew\n")
    assert written.endswith("\n<!-- results: end -->\nafter\n")
    assert with_section(written, "results", "new\n") == written


def test_a_card_without_markers_is_refused():
    """A table is not written into nowhere."""
    with pytest.raises(ValueError, match="no <!-- results: begin -->"):
        with_section("a card", "results", "new\n")


def test_untrained_distances_are_marked():
    """Beyond the longest distance of training a row says so."""
    assert "not trained" not in label(Cell("recall_past_tasks", 384, 1.0))
    assert label(Cell("recall_past_tasks", 512, 1.0)).endswith("(not trained for)")
