"""Cards of models, variants and routes."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from model_registry.spec import Family
from service.core.events import ModelMemory
from service.core.model_status import ArchitectureSummary, LoadState, ModelStatus
from service.core.ports import LoadProgress
from service.core.routes.route import BlindRoute, LeastBusyRoute, Route, WeightedRoute

OWNER = "triptych"


class Pricing(Struct, frozen=True, kw_only=True):
    """Prices, always 0; LibreChat takes a context length only beside a price."""

    prompt: str = "0"
    completion: str = "0"


class CardStatus(Struct, frozen=True, kw_only=True):
    """Readiness of a model."""

    value: Literal["loaded", "loading", "unloaded"]
    """State in the terms of llama.cpp's router, which chat tools read."""
    state: LoadState
    """State in detail: `unverified` is loaded; with an `error` it cannot answer now."""
    failed: bool = False
    error: str | None = None
    progress: LoadProgress | None = None
    requests: int = 0
    """Requests that wait or run."""
    pinned: bool = False
    """Never evicted, nor unloaded when idle."""


class CardArm(Struct, frozen=True, kw_only=True):
    """Model that a route may choose."""

    model: str
    weight: float | None
    """None unless weights decide."""
    status: CardStatus


class CardRoute(Struct, frozen=True, kw_only=True):
    """Policy and arms of a route."""

    policy: str
    arms: list[CardArm]
    """Empty for a blind route: their counts of requests would tell which one answers."""


class ModelCard(Struct, frozen=True, kw_only=True):
    """Card of a model, variant or route."""

    id: str
    object: Literal["model"] = "model"
    created: int
    name: str
    root: str
    """Model without its variant."""
    parent: str | None
    """Model that a variant belongs to."""
    max_model_len: int
    context_length: int
    status: CardStatus
    family: Family | None = None
    architecture: ArchitectureSummary | None = None
    variants: list[str] = []
    """Ids of its variants, as `model:variant`."""
    dtype: str | None = None
    quantization: str | None = None
    verified: bool | None = None
    """It passed its conformance probe; null before it was probed."""
    verification: str | None = None
    memory: ModelMemory | None = None
    """Bytes held now; null unless it is loaded."""
    licence: str | None = None
    description: str | None = None
    route: CardRoute | None = None
    pricing: Pricing = Pricing()
    owned_by: str = OWNER


class ModelList(Struct, frozen=True, kw_only=True):
    """Models and routes."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def model_card(status: ModelStatus, created: int) -> ModelCard:
    """Write the card of a model or variant."""
    spec, variant = status.spec, status.variant
    chosen = spec.variants[variant] if variant else None
    return ModelCard(
        id=status.id,
        created=created,
        name=(spec.name or spec.id) + (f" ({variant})" if variant else ""),
        root=spec.id,
        parent=spec.id if variant else None,
        max_model_len=spec.context_tokens,
        context_length=spec.context_tokens,
        status=card_status(status),
        family=spec.family,
        architecture=status.architecture,
        variants=[] if variant else [f"{spec.id}:{name}" for name in spec.variants],
        dtype=(chosen and chosen.dtype) or spec.dtype,
        quantization=chosen.quantization if chosen else None,
        verified=status.verified,
        verification=status.verification,
        memory=status.memory,
        licence=spec.licence,
        description=(chosen.description if chosen else spec.description) or None,
    )


def card_status(status: ModelStatus) -> CardStatus:
    """Write the status in both vocabularies."""
    value: Literal["loaded", "loading", "unloaded"] = "unloaded"
    if status.loaded:
        value = "loaded"
    elif status.state == "loading":
        value = "loading"
    return CardStatus(
        value=value,
        state=status.state,
        failed=status.state == "failed",
        error=status.error,
        progress=status.progress,
        requests=status.requests,
        pinned=status.pinned,
    )


def route_card(
    name: str, route: Route, models: Mapping[str, ModelStatus], created: int
) -> ModelCard:
    """Write the card of a route: the context of its shortest arm, the status of its best."""
    arms = [models[model] for model in route.models]
    weights = weights_of(route)
    blind = isinstance(route, BlindRoute)
    context_tokens = min(arm.spec.context_tokens for arm in arms)
    status = _best([card_status(arm) for arm in arms])
    families = {arm.spec.family for arm in arms}
    return ModelCard(
        id=name,
        created=created,
        name=name,
        root=name,
        parent=None,
        max_model_len=context_tokens,
        context_length=context_tokens,
        status=_unnamed(status) if blind else status,
        family=families.pop() if len(families) == 1 and not blind else None,
        route=CardRoute(
            policy=route.policy,
            arms=[
                CardArm(model=arm.id, weight=weights.get(arm.id), status=card_status(arm))
                for arm in arms
                if not blind
            ],
        ),
    )


def weights_of(route: Route) -> Mapping[str, float]:
    """Weights by model, of a policy that weighs."""
    if isinstance(route, (WeightedRoute, LeastBusyRoute)):
        return {arm.model: arm.weight for arm in route.arms}
    return {}


def _unnamed(status: CardStatus) -> CardStatus:
    """A status without what is an arm's own."""
    return CardStatus(value=status.value, state=status.state, failed=status.failed)


def _best(arms: Sequence[CardStatus]) -> CardStatus:
    return min(arms, key=lambda arm: ("loaded", "loading", "unloaded").index(arm.value))
