"""The policy `by_context`: the arm for the length of the prompt."""

import itertools
from typing import Annotated, Literal

from msgspec import Meta, Struct

from service.core.routes.policy import MOST_ARMS, RoutePolicy, TokenCount

CrossoverMetric = Literal["memory_bytes", "tpot_ms", "ttft_ms", "prefill_ms", "energy_j"]


class Threshold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model and the longest prompt that goes to it."""

    model: str
    """A model or `model:variant`."""
    up_to_tokens: TokenCount | None = None
    """Longest prompt, inclusive; None: any length, only for the last."""


class ByContextRoute(
    RoutePolicy, tag="by_context", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The arm for the length of the prompt: by thresholds, or by an experiment's crossovers."""

    thresholds: Annotated[tuple[Threshold, ...], Meta(max_length=MOST_ARMS)] = ()
    """Ascending; the last has no `up_to_tokens`."""
    experiment: str | None = None
    """Id, or name, of the experiment whose crossovers are the thresholds."""
    metric: CrossoverMetric = "tpot_ms"
    """Metric of the experiment whose crossovers count."""
    between: Annotated[tuple[str, ...], Meta(max_length=MOST_ARMS)] = ()
    """With `experiment`: the models to choose among."""

    def __post_init__(self) -> None:
        """Raise ValueError unless it has ascending thresholds, or an experiment and models."""
        if self.experiment is not None:
            if self.thresholds or len(self.between) < 2:  # noqa: PLR2004 (a crossover takes two)
                raise ValueError(
                    "a route by `experiment` has two or more models in `between`, and no "
                    "`thresholds`"
                )
            return
        if self.between:
            raise ValueError("`between` belongs to `experiment`; name the models in `thresholds`")
        check_thresholds(self.thresholds)

    @property
    def models(self) -> tuple[str, ...]:
        """The models of its thresholds, or those to choose among."""
        return tuple(dict.fromkeys(self.between or [one.model for one in self.thresholds]))


def check_thresholds(thresholds: tuple[Threshold, ...]) -> None:
    """Raise ValueError unless they ascend and end with one for any length."""
    limits = [one.up_to_tokens for one in thresholds]
    if not limits or limits[-1] is not None or None in limits[:-1]:
        raise ValueError("every threshold but the last, and only those, needs `up_to_tokens`")
    known = [limit for limit in limits if limit is not None]
    if any(second <= first for first, second in itertools.pairwise(known)):
        raise ValueError("`up_to_tokens` of thresholds must ascend")
