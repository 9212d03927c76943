"""The policy `cheapest`: the smallest predicted cost that meets the objectives given."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from service.core.routes.policy import ArmsPolicy

Cost = Literal["latency", "memory", "energy"]
Limit = Annotated[float, Meta(gt=0)]


class Objectives(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Service level objectives of one request; None: no objective."""

    ttft_ms: Limit | None = None
    tpot_ms: Limit | None = None
    e2e_ms: Limit | None = None
    memory_bytes: Annotated[int, Meta(gt=0)] | None = None


class CheapestRoute(
    ArmsPolicy, tag="cheapest", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The arm with the smallest predicted latency, memory or energy that meets the objectives.

    Predictions come from curves fitted to measured requests, and from the present load.
    """

    minimize: Cost = "latency"
    """`latency`: end to end; `memory`: bytes of the request's state, and of a load that it needs;
    `energy`: microjoules."""
    objectives: Objectives = Objectives()
    min_observations: Annotated[int, Meta(ge=1, le=1000)] = 8
    """Requests near this length that an arm needs; with fewer it is explored."""
    explore: Annotated[float, Meta(ge=0, le=0.5)] = 0.05
    """Share of requests that go to an arm with too few observations near their length."""
