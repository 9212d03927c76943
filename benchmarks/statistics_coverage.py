"""How often intervals hold the truth, on simulated data of a known one.

    python benchmarks/statistics_coverage.py [--runs 1000]

Prints a Markdown table. Of 1,000 intervals of 95 %, 936 to 964 hold the truth in 95 of 100
simulations.
"""

import argparse
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

from service.core.statistics import intervals, shares
from service.core.statistics.crossover import crossover
from service.core.statistics.judging import judge
from service.core.statistics.paired import Pair, compare_ratios
from service.core.statistics.sequential import Moments, compare_means

COUNTED = 50
CROSSING = 500
SHARE = 0.7
CONTEXTS = (64, 128, 256, 512, 1024, 1536)
NOISES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(0, 0.1, n),
    "heavy tails (t, 3 degrees)": lambda rng, n: 0.1 * rng.standard_t(3, n),
    "skewed (exponential)": lambda rng, n: 0.1 * (rng.exponential(size=n) - math.log(2)),
}


def ratio_rows(runs: int) -> Iterator[tuple[str, str, str]]:
    """Yield coverage of a true paired ratio of 0.9, by three methods."""
    truth = math.log(0.9)
    for name, noise in NOISES.items():
        for n in (6, 10, 30, 120):
            rng = np.random.default_rng(n)
            held = dict.fromkeys(("Hodges-Lehmann", "order statistics", "BCa of the median"), 0)
            for _ in range(runs):
                ratios = truth + noise(rng, n)
                for method, (low, high) in (
                    ("Hodges-Lehmann", _hodges_lehmann(ratios)),
                    ("order statistics", _bounds(intervals.median(ratios))),
                    ("BCa of the median", _bca(ratios, rng)),
                ):
                    held[method] += low <= truth <= high
            for method, count in held.items():
                yield f"paired ratio, {method}, {name}", f"{n} pairs", f"{count / runs:.1%}"


def _bounds(estimate: intervals.Estimate) -> tuple[float, float]:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.high


def _hodges_lehmann(values: np.ndarray) -> tuple[float, float]:
    """Return the interval that Wilcoxon's test inverts to, on all pairwise means."""
    n = len(values)
    rows, columns = np.triu_indices(n)
    means = np.sort((values[rows] + values[columns]) / 2)
    if n <= COUNTED:
        probabilities = np.ones(1)
        for rank in range(1, n + 1):
            probabilities = np.convolve(probabilities, [0.5, *[0] * (rank - 1), 0.5])
        place = int(np.searchsorted(np.cumsum(probabilities), 0.025, side="right"))
    else:
        deviation = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        place = int(n * (n + 1) / 4 - 1.96 * deviation)
    return float(means[place - 1]), float(means[-place])


def _bca(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate resamples of few values
        found = stats.bootstrap(
            (values,), np.median, n_resamples=999, method="BCa", rng=rng
        ).confidence_interval
    return float(found.low), float(found.high)


def crossover_rows(runs: int) -> Iterator[tuple[str, str, str]]:
    """Yield coverage of two lines that cross at 500 tokens, open ends counted as holding it."""
    for repetitions in (3, 5, 10, 20):
        for noise in (0.03, 0.1):
            rng = np.random.default_rng([repetitions, round(100 * noise)])
            held = 0
            for seed in range(runs):
                curves = [
                    {
                        tokens: (start + slope * tokens) * rng.lognormal(0, noise, repetitions)
                        for tokens in CONTEXTS
                    }
                    for start, slope in ((10, 0.010), (14, 0.002))
                ]
                found = crossover(curves[0], curves[1], seed=seed, resamples=999)
                low = -math.inf if found.low is None else found.low
                high = math.inf if found.high is None else found.high
                held += low <= CROSSING <= high
            case = f"{repetitions} repetitions, noise {noise:.0%}"
            yield "crossover of two lines", case, f"{held / runs:.1%}"


def share_rows(runs: int) -> Iterator[tuple[str, str, str]]:
    """Yield coverage of a paired difference of shares, and of a single share."""
    for n in (20, 50, 200):
        for only_a, only_b in ((0.2, 0.1), (0.05, 0.3), (0.05, 0.02)):
            rng = np.random.default_rng(n)
            held = 0
            for _ in range(runs):
                drawn = [
                    int(count)
                    for count in rng.multinomial(n, [0.4, only_a, only_b, 0.6 - only_a - only_b])
                ]
                low, high = _bounds(
                    shares.difference(
                        shares.Table(
                            both=drawn[0], only_a=drawn[1], only_b=drawn[2], neither=drawn[3]
                        )
                    )
                )
                held += low <= only_b - only_a <= high
            case = f"{n} pairs, {only_a:.0%} only a, {only_b:.0%} only b"
            yield "paired difference of shares (Tango)", case, f"{held / runs:.1%}"
        rng = np.random.default_rng(n)
        held = 0
        for successes in rng.binomial(n, SHARE, runs):
            low, high = _bounds(intervals.wilson(int(successes), n))
            held += low <= SHARE <= high
        yield "share (Wilson)", f"{n} observations, 70 %", f"{held / runs:.1%}"


def false_rows(runs: int) -> Iterator[tuple[str, str, str]]:
    """Yield how often a model against itself is called better or no different."""
    for n, noise in ((12, 0.1), (30, 0.05), (120, 0.05), (400, 0.05)):
        rng = np.random.default_rng(n)
        found = {"better": 0, "no_difference": 0, "undecided": 0}
        for _ in range(runs):
            values = rng.lognormal(0, noise, (n, 2))
            pairs = [Pair(prompt=k, a=float(a), b=float(b)) for k, (a, b) in enumerate(values)]
            (verdict,) = judge([compare_ratios("tpot_ms", ("a", "b"), pairs)], margin=0.02)
            found["better" if verdict.kind == "resolved" else verdict.verdict] += 1
        told = ", ".join(f"{name} {count / runs:.1%}" for name, count in found.items())
        yield "a model against itself, margin 2 %", f"{n} pairs, noise {noise:.0%}", told


def sequential_rows(runs: int) -> Iterator[tuple[str, str, str]]:
    """Yield how often 1,000 looks at two equal arms ever decide."""
    for name, draw in (
        ("normal", lambda rng: rng.standard_normal()),
        ("exponential", lambda rng: rng.exponential()),
    ):
        rng = np.random.default_rng(0)
        decided = 0
        for _ in range(runs):
            arms = [Moments(), Moments()]
            for _ in range(1000):
                arm = int(rng.integers(2))
                arms[arm] = arms[arm].added(float(draw(rng)))
                if compare_means(arms[0], arms[1]).decided:
                    decided += 1
                    break
        yield (
            "equal arms ever decided (always valid)",
            f"1,000 looks, {name}",
            f"{decided / runs:.1%}",
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    print("| what | case | coverage |\n|---|---|--:|")
    for rows in (ratio_rows, crossover_rows, share_rows, false_rows, sequential_rows):
        for row in rows(runs):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
