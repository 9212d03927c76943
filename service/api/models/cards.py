"""Models and routes as clients see them."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from model_registry.spec import Family
from service.core.events import ModelMemory
from service.core.model_status import ArchitectureSummary, LoadState, ModelStatus
from service.core.ports import LoadProgress
from service.core.routing import Route

OWNER = "triptych"


class Pricing(Struct, frozen=True, kw_only=True):
    """Nothing costs anything here; LibreChat takes a context length only beside a price."""

    prompt: str = "0"
    completion: str = "0"


class CardStatus(Struct, frozen=True, kw_only=True):
    """How far a model is from answering."""

    value: Literal["loaded", "loading", "unloaded"]
    """In the words of llama.cpp's router, which chat tools read."""
    state: LoadState
    """In our own words: `unverified` is loaded; with an `error` it cannot answer at the moment."""
    failed: bool = False
    error: str | None = None
    progress: LoadProgress | None = None
    requests: int = 0
    """How many wait or run."""
    pinned: bool = False
    """Never unloaded to make room for others, nor for resting."""


class CardArm(Struct, frozen=True, kw_only=True):
    """One model of a route."""

    model: str
    weight: float | None
    """None where the order decides."""


class CardRoute(Struct, frozen=True, kw_only=True):
    """How a route chooses."""

    policy: Literal["weighted", "fallback"]
    arms: list[CardArm]


class ModelCard(Struct, frozen=True, kw_only=True):
    """A model, a variant or a route."""

    id: str
    object: Literal["model"] = "model"
    created: int
    name: str
    root: str
    """The model without its variant."""
    parent: str | None
    """For a variant, the model it is of."""
    max_model_len: int
    context_length: int
    status: CardStatus
    family: Family | None = None
    architecture: ArchitectureSummary | None = None
    variants: list[str] = []
    """Ids that can be asked for, as `model:variant`."""
    dtype: str | None = None
    quantization: str | None = None
    verified: bool | None = None
    """Whether it passed its conformance probe; None until it was loaded."""
    verification: str | None = None
    memory: ModelMemory | None = None
    """Bytes held now; None unless it is loaded."""
    licence: str | None = None
    description: str | None = None
    route: CardRoute | None = None
    pricing: Pricing = Pricing()
    owned_by: str = OWNER


class ModelList(Struct, frozen=True, kw_only=True):
    """All that can be asked for."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def model_card(status: ModelStatus, created: int) -> ModelCard:
    """One model or variant."""
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
    """Both vocabularies."""
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
    """A route: its context is what all of its arms can hold, its status that of its best arm."""
    arms = [models[arm.model] for arm in route.arms]
    policy: Literal["weighted", "fallback"] = route.__struct_config__.tag  # type: ignore[assignment]
    context_tokens = min(arm.spec.context_tokens for arm in arms)
    families = {arm.spec.family for arm in arms}
    return ModelCard(
        id=name,
        created=created,
        name=name,
        root=name,
        parent=None,
        max_model_len=context_tokens,
        context_length=context_tokens,
        status=_best([card_status(arm) for arm in arms]),
        family=families.pop() if len(families) == 1 else None,
        route=CardRoute(
            policy=policy,
            arms=[
                CardArm(model=arm.model, weight=arm.weight if policy == "weighted" else None)
                for arm in route.arms
            ],
        ),
    )


def _best(arms: Sequence[CardStatus]) -> CardStatus:
    return min(arms, key=lambda arm: ("loaded", "loading", "unloaded").index(arm.value))
