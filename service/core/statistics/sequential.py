"""Always-valid comparison of two arms that are looked at as often as one likes.

I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy, A. Ramdas, "Time-uniform central limit theory
and asymptotic confidence sequences" (arXiv:2103.06476), theorem 2.2, on the difference of two
means. At any two moments s < t the covariance of the differences is their variance at t; over its
variance the difference is thus a Brownian motion, as the running mean in the paper is.
"""

import math
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

#: Fewer observations an arm give no interval: the normal approximation does not hold yet.
MINIMUM: Final = 30


class Moments(Struct, frozen=True, kw_only=True):
    """Count, mean and squared deviations of what one arm gave: all that a comparison needs."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""

    @classmethod
    def of(cls, values: Iterable[float]) -> "Moments":
        """Return the moments of values."""
        moments = cls()
        for value in values:
            moments = moments.added(value)
        return moments

    def added(self, value: float) -> "Moments":
        """Return the moments with one more value: B. P. Welford, Technometrics 4 (1962)."""
        n = self.n + 1
        gap = value - self.mean
        mean = self.mean + gap / n
        return Moments(n=n, mean=mean, squares=self.squares + gap * (value - mean))


class Sequential(Struct, frozen=True, kw_only=True):
    """The difference b - a as known so far. All intervals ever looked at hold together."""

    difference: float | None
    low: float | None
    """None before both arms have enough observations."""
    high: float | None
    n: tuple[int, int]
    reason: str | None = None
    """Why there is no interval."""

    @property
    def decided(self) -> bool:
        """Whether 0 is excluded."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def compare_means(
    a: Moments, b: Moments, *, alpha: float = 0.05, horizon: int = 1000
) -> Sequential:
    """Compare the means of two arms, e.g. of the logarithms of their latencies.

    Of a difference of logarithms, `exp` is the ratio of geometric means.

    Args:
        a: what the first arm gave.
        b: what the second arm gave.
        alpha: probability that any of all intervals ever looked at misses the true difference.
        horizon: observations of both arms together at which the interval is narrowest for its
            size; fixed beforehand.

    Raises:
        ValueError: if alpha or horizon is out of range.
    """
    variances = [moments.squares / max(moments.n - 1, 1) for moments in (a, b)]
    return _compare(a.n, b.n, a.mean, b.mean, variances, alpha, horizon)


def compare_shares(
    successes_a: int,
    n_a: int,
    successes_b: int,
    n_b: int,
    *,
    alpha: float = 0.05,
    horizon: int = 1000,
) -> Sequential:
    """Compare the shares of successes of two arms.

    Variances are of shares with half a success and half a failure added, so that an arm that never
    failed is not taken as certain.

    Raises:
        ValueError: if there are more successes than observations, or alpha or horizon is wrong.
    """
    shares, variances = [], []
    for successes, n in ((successes_a, n_a), (successes_b, n_b)):
        if not 0 <= successes <= n:
            raise ValueError(f"a share needs 0 <= successes <= n, not {successes} of {n}")
        shares.append(successes / n if n else 0.0)
        likely = (successes + 0.5) / (n + 1)
        variances.append(likely * (1 - likely))
    return _compare(n_a, n_b, shares[0], shares[1], variances, alpha, horizon)


def _compare(
    n_a: int,
    n_b: int,
    mean_a: float,
    mean_b: float,
    variances: list[float],
    alpha: float,
    horizon: int,
) -> Sequential:
    if not 0 < alpha < 1 or horizon <= 1:
        raise ValueError(
            f"alpha must lie in (0, 1) and horizon exceed 1, not {alpha} and {horizon}"
        )
    n = n_a + n_b
    difference = mean_b - mean_a if n_a and n_b else None
    if difference is None or min(n_a, n_b) < MINIMUM:
        reason = f"{min(n_a, n_b)} observations of one arm, {MINIMUM} needed"
        return Sequential(difference=difference, low=None, high=None, n=(n_a, n_b), reason=reason)
    variance = variances[0] / n_a + variances[1] / n_b
    if variance == 0:
        reason = "all observations of each arm are the same value: their spread is unknown"
        return Sequential(difference=difference, low=None, high=None, n=(n_a, n_b), reason=reason)
    # The paper's rho, tuned to the horizon by its equation (79).
    rho_squared = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / horizon
    grown = n * rho_squared
    half = math.sqrt(variance * 2 * (grown + 1) / grown * math.log(math.sqrt(grown + 1) / alpha))
    return Sequential(
        difference=difference, low=difference - half, high=difference + half, n=(n_a, n_b)
    )
