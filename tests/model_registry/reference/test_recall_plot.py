"""The card's plot: intervals as Wilson's, the same bytes each time."""

import msgspec
import pytest

from model_registry.reference.checkpoint import WEIGHTS
from model_registry.reference.recall_plot import draw, recall_chance, wilson_interval
from model_registry.reference.results import Results


@pytest.mark.parametrize(
    ("share", "questions", "expected"),
    # From R's prop.test(x, n, correct = FALSE)$conf.int.
    [(0.0, 10, (0.0, 0.2775)), (0.5, 10, (0.2366, 0.7634)), (0.9, 200, (0.8506, 0.9344))],
)
def test_wilson_interval(share, questions, expected):
    """Bounds stay inside 0 to 1 and are those of the standard implementation."""
    assert wilson_interval(share, questions) == pytest.approx(expected, abs=1e-3)


def test_plot_of_the_shipped_results(tmp_path):
    """Every architecture has its curve, and a second drawing is the same file."""
    raw = (WEIGHTS.parent / "results.json").read_bytes()
    results = msgspec.json.decode(raw, type=Results)
    for name in ("a.svg", "b.svg"):
        draw(results, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert all(f">{name}</text>" in text for name in results.models)


def test_chance_is_that_of_a_stated_value():
    """Whoever names a value of the chat is right once in as many as it states."""
    assert recall_chance("recall_past_pairs", 3) == 1 / 2
    assert recall_chance("recall_past_tasks", 512) == 1 / 4
