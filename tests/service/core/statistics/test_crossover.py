"""The context at which two arms cross."""

import numpy as np
import pytest

from service.core.statistics.crossover import crossover

CONTEXTS = (64, 128, 256, 512, 1024, 1536)


def noisy(rng, intercept, slope, noise=0.03, n=5):
    """Return observations of a straight curve."""
    return {
        tokens: (intercept + slope * tokens) * np.exp(noise * rng.normal(size=n))
        for tokens in CONTEXTS
    }


def test_exact_curves_cross_at_a_point():
    """Keys and values reach a constant state of 200,000 bytes at 250 tokens."""
    found = crossover(
        {tokens: [800.0 * tokens] * 3 for tokens in CONTEXTS},
        {tokens: [200_000.0] * 3 for tokens in CONTEXTS},
    )

    assert found.context_tokens == pytest.approx(250)
    assert (found.low, found.high) == (pytest.approx(250), pytest.approx(250))
    assert found.lower_before == 0


def test_intervals_hold_the_crossing():
    """About 95 % of intervals hold 500 tokens: 300 runs, between 91 and 99 %."""
    rng = np.random.default_rng(4)
    held = 0
    for seed in range(300):
        found = crossover(noisy(rng, 10, 0.010), noisy(rng, 14, 0.002), seed=seed, resamples=500)
        held += (found.low or 0) <= 500 <= (found.high or np.inf)

    assert 0.91 < held / 300 < 0.99


def test_curves_that_do_not_cross_say_so():
    """The crossing lies at 8,000 tokens: out of range, with the arm that is lower until there."""
    rng = np.random.default_rng(5)

    found = crossover(noisy(rng, 10, 0.002), noisy(rng, 18, 0.001))

    assert found.context_tokens is None
    assert found.lower_before == 0
    assert "do not cross between 64 and 1,536 tokens" in found.reason


def test_noise_is_not_a_crossing():
    """Curves of the same truth cross somewhere, and the interval says that this means nothing."""
    rng = np.random.default_rng(6)
    for _ in range(10):
        found = crossover(noisy(rng, 10, 0.01), noisy(rng, 10, 0.01), resamples=500)
        assert found.context_tokens is None or found.low is None or found.high is None


def test_the_same_values_have_no_crossing():
    """A model against itself."""
    same = {tokens: [800.0 * tokens] * 3 for tokens in CONTEXTS}

    found = crossover(same, same)

    assert found.context_tokens is None
    assert found.reason == "the curves are the same everywhere"


def test_two_shared_contexts_are_too_few():
    """Only contexts that both arms answered count."""
    found = crossover({64: [1.0], 128: [2.0], 256: [3.0]}, {128: [2.0], 256: [1.0], 512: [1.0]})

    assert found.reason == "contexts measured on both arms: 2, 3 needed"


def test_parabolas_may_cross_twice():
    """The first crossing is given, and that there is a second."""
    contexts = tuple(range(100, 1100, 100))

    found = crossover(
        {tokens: [1e-4 * tokens**2 + 10.0] * 3 for tokens in contexts},
        {tokens: [0.1 * tokens - 16.0 + 10.0] * 3 for tokens in contexts},
    )

    assert found.context_tokens == pytest.approx(200)
    assert "cross twice" in found.reason
