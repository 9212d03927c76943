"""Right and wrong answers of two arms to the same questions: test and paired difference."""

import math

from msgspec import Struct
from scipy import optimize, stats

from service.core.statistics.intervals import CONFIDENCE, Estimate


class Table(Struct, frozen=True, kw_only=True):
    """How often both, one or neither of two arms answered right."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        """Questions."""
        return self.both + self.only_a + self.only_b + self.neither


def mcnemar(table: Table) -> float:
    """Return McNemar's exact two-sided probability: of the discordant pairs as coin tosses."""
    discordant = table.only_a + table.only_b
    if discordant == 0:
        return 1.0
    return float(stats.binomtest(table.only_b, discordant).pvalue)


def difference(table: Table) -> Estimate:
    """Estimate b's share of right answers minus a's, with the score interval for paired data.

    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998): the differences that his score test
    does not reject.

    Raises:
        ValueError: if the table is empty.
    """
    if table.n == 0:
        raise ValueError("a difference needs at least one pair")
    value = (table.only_b - table.only_a) / table.n
    bound = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    edge = 1 - 1e-9

    def beyond(sign: int) -> float:
        def excess(delta: float) -> float:
            return _score(table, delta) + sign * bound

        if excess(sign * edge) * excess(value) >= 0:
            return float(sign)
        return float(optimize.brentq(excess, *sorted((value, sign * edge))))

    return Estimate(value=value, low=beyond(-1), high=beyond(1), n=table.n)


def _score(table: Table, delta: float) -> float:
    """Return Tango's score of the hypothesis that b's share exceeds a's by `delta`."""
    n, b, c = table.n, table.only_b, table.only_a
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    share = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * share + delta * (1 - delta))
    distance = b - c - n * delta
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)
