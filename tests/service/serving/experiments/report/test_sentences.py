"""The grammar of verdicts."""

import pytest

from service.core.experiments.report import ReportCrossover
from service.core.statistics.verdict import Verdict
from service.serving.experiments.report.sentences import crossover_sentence, verdict_sentence


def verdict(kind, **more):
    """Return a verdict on A and B."""
    base = {
        "metric": "tpot_ms",
        "arms": ("A", "B"),
        "ratio": None,
        "low": None,
        "high": None,
        "n": 0,
        "verdict": "undecided",
        "reason": None,
        "margin": 0.02,
    }
    return Verdict(kind=kind, **{**base, **more})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            verdict("resolved", ratio=0.82, low=0.78, high=0.86, n=120, verdict="B", holm=6),
            "B's TPOT is 0.82× A's [0.78, 0.86], 95 %, 120 pairs, Holm over 6.",
        ),
        (
            verdict("equivalent", ratio=1.0, low=0.99, high=1.01, n=80, verdict="no_difference"),
            "Same within ±2 %: 1.00 [0.99, 1.01].",
        ),
        (
            verdict(
                "unresolved",
                ratio=0.99,
                low=0.93,
                high=1.06,
                n=40,
                reason="about 400 pairs would settle it",
            ),
            (
                "Cannot rank: 0.99 [0.93, 1.06] allows 7 % faster or 6 % slower; "
                "about 400 pairs would settle it."
            ),
        ),
        (verdict("not_tested", reason="4 pairs, 6 needed"), "Cannot say: 4 pairs, 6 needed"),
        (
            verdict(
                "resolved",
                metric="recall",
                difference=-0.34,
                low=-0.44,
                high=-0.247,
                n=100,
                holm=1,
            ),
            "B's accuracy in recall is 34.0 points below A's [-44.0, -24.7], 95 %, 100 pairs.",
        ),
        (
            verdict("unresolved", ratio=1.05, low=1.01, high=1.09, reason="because"),
            "Cannot rank: 1.05 [1.01, 1.09] allows 1 % to 9 % slower; because.",
        ),
        (
            verdict(
                "resolved", metric="memory_bytes", ratio=0.05, low=0.03, high=0.1, n=6, exact=True
            ),
            "B's memory is 0.05× A's [0.03, 0.10], range of 6 prompts.",
        ),
    ],
)
def test_each_kind_has_its_sentence(given, said):
    """Word for word."""
    assert verdict_sentence(given) == said


def test_a_located_crossover_names_who_is_lower_after_it():
    """With its interval, and what it lacks."""
    crossing = ReportCrossover(
        metric="tpot_ms",
        arms=("A", "B"),
        context_tokens=512.4,
        low=470.0,
        high=None,
        reason="the interval reaches beyond 1,536 tokens, the most measured",
        lower_before="A",
    )

    assert crossover_sentence(crossing) == (
        "TPOT: B is lower than A from 512 tokens on [470, …], 95 % "
        "(the interval reaches beyond 1,536 tokens, the most measured)."
    )


def test_an_uncertain_crossover_is_not_called_none():
    """Where resampled curves cross and the fits do not, nothing is claimed."""
    crossing = ReportCrossover(
        metric="tpot_ms", arms=("A", "B"), context_tokens=None, low=None, high=None, reason="noise"
    )

    assert crossover_sentence(crossing) == "TPOT, A and B: cannot say where they cross: noise."


def test_no_crossover_says_why():
    """And who is lower throughout."""
    crossing = ReportCrossover(
        metric="tpot_ms",
        arms=("A", "B"),
        context_tokens=None,
        low=None,
        high=None,
        reason="the curves do not cross between 64 and 1,536 tokens",
        lower_before="B",
    )

    assert crossover_sentence(crossing) == (
        "TPOT, A and B: no crossover (the curves do not cross between 64 and 1,536 tokens; "
        "B is lower)."
    )
