"""Facts that a route's policy decides by: all of them, so that a decision can be computed again."""

from typing import Literal

from msgspec import Struct

from service.core.routes.by_context import Threshold


class Prediction(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Cost of one request on one arm, predicted from measured requests; None where unknown."""

    observations: int
    """Measured requests that the curves are fitted to."""
    near: int
    """Of these, requests with between half and twice as many prompt tokens."""
    wait_ms: float | None = None
    """Until its prefill begins: for a slot, and for a load if the arm is not loaded."""
    prefill_ms: float | None = None
    tpot_ms: float | None = None
    answer_tokens: int = 1
    """Tokens of the answer that the other numbers are for."""
    state_bytes: float | None = None
    """The request's own state at its end."""
    energy_uj: float | None = None


class ArmFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An arm at the moment of a decision."""

    model: str
    context_tokens: int
    prompt_tokens: int
    """Likely length of the prompt in this model's tokens."""
    down: str | None = None
    """Reason why it cannot answer any request now."""
    loaded: bool = False
    requests: int = 0
    """Waiting or running."""
    requests_limit: int
    load_bytes: int | None = None
    """Memory that its load would take; 0 while it is loaded, None where unknown."""
    prediction: Prediction | None = None


class RouteFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request and the arms of its route at the moment of a decision."""

    prompt_bytes: int | None = None
    """UTF-8 bytes of the prompt's text; None for token ids."""
    tokens_by: Literal["token_ids", "bytes"] = "bytes"
    """How `prompt_tokens` of the arms is known: exactly, or estimated from the bytes."""
    max_tokens: int | None = None
    """Longest answer that was asked for."""
    key: str | None = None
    """Hash of the key that keeps a client on an arm."""
    draw: float = 0.0
    """Random number in [0, 1)."""
    arms: tuple[ArmFacts, ...]
    thresholds: tuple[Threshold, ...] = ()
    """Thresholds from an experiment's crossovers."""
