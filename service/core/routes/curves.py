"""What policies may ask about measured requests and experiments, as Protocols."""

from typing import Protocol

from msgspec import Struct

from service.core.routes.by_context import CrossoverMetric, Threshold
from service.core.routes.facts import Prediction


class AskedCost(Struct, frozen=True, kw_only=True):
    """A request, and the load of the model whose cost for it is asked."""

    prompt_tokens: int
    answer_tokens: int
    others: int
    """Requests that wait or run on the model."""
    slots: int | None
    """Requests that it answers at once; None where unknown."""
    load_ns: int | None
    """Time of the load that it needs first: 0 if it is loaded, None where unknown."""


class MeasuredCurves(Protocol):
    """Costs by length, fitted to measured requests."""

    def prompt_tokens(self, model: str, prompt_bytes: int) -> int | None:
        """Likely tokens of a prompt's text in a model's tokens; None without observations."""

    def answer_tokens(self, models: tuple[str, ...]) -> int | None:
        """Typical length of an answer of these models; None without observations."""

    def predict(self, model: str, asked: AskedCost) -> Prediction | None:
        """Cost of a request on a model; None without observations."""


class NoCurves:
    """Curves of a service that has measured nothing."""

    def prompt_tokens(self, model: str, prompt_bytes: int) -> int | None:  # noqa: ARG002
        """Unknown."""
        return None

    def answer_tokens(self, models: tuple[str, ...]) -> int | None:  # noqa: ARG002
        """Unknown."""
        return None

    def predict(self, model: str, asked: AskedCost) -> Prediction | None:  # noqa: ARG002
        """Unknown."""
        return None


class Crossovers(Protocol):
    """Crossovers of experiments' reports."""

    def thresholds(
        self, experiment: str, metric: CrossoverMetric, between: tuple[str, ...]
    ) -> tuple[Threshold, ...]:
        """Thresholds between models by a metric's crossovers; from memory after the first time.

        Raises InvalidRequest, which says why, if the experiment gives none.
        """
