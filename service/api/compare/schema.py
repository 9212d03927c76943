"""Bodies of POST /v1/compare."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from service.api.openai.schema import (
    MOST_MESSAGES,
    AnswerMetrics,
    CacheSalt,
    ModelName,
    SamplingFields,
    TimeoutSeconds,
    Timings,
    WireMessage,
)
from service.core.compare.comparison import ArmDifference
from service.core.events import ModelBuild
from service.core.record import Status
from service.serving.requests.compare import ARMS_AT_LEAST, ARMS_AT_MOST, ArmError, Mode


class CompareArm(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model; sampling fields that are left out are those of the comparison."""

    model: ModelName
    variant: ModelName | None = None
    """Short for `model:variant`."""


class CompareBody(SamplingFields, frozen=True, kw_only=True):
    """Conversation for several models."""

    messages: Annotated[list[WireMessage], Meta(min_length=1, max_length=MOST_MESSAGES)]
    arms: Annotated[list[CompareArm], Meta(min_length=ARMS_AT_LEAST, max_length=ARMS_AT_MOST)]
    mode: Mode | None = None
    """`isolated` (the default) runs one arm after another, each while nothing else runs."""
    order_seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    """Decides in which order the arms begin; drawn and reported if left out."""
    stream: bool | None = None
    prefix_cache: bool | None = None
    """`true`: arms may continue prefixes of earlier requests; otherwise each computes its whole
    prompt, so that no arm gains by what was asked before."""
    cache_salt: CacheSalt | None = None
    """With `prefix_cache`: only requests with the same salt continue each other's prefixes."""
    timeout_s: TimeoutSeconds | None = None
    """Time limit of the whole comparison in seconds, or the header `x-request-timeout`."""


class ArmAnswer(Struct, frozen=True, kw_only=True):
    """An arm's answer, or the error that kept it from answering."""

    object: Literal["comparison.arm"] = "comparison.arm"
    arm: int
    model: str
    status: Status
    text: str
    finish_reason: str | None
    request_id: str | None
    """The key of its record."""
    metrics: AnswerMetrics | None
    timings: Timings | None
    build: ModelBuild | None
    error: ArmError | None
    difference: ArmDifference | None
    """To arm 0; null for arm 0, and where either did not answer."""
    waited_ms: float | None
    """Wait for model, memory and a quiet machine before the arm's clock started; null unless it
    ran isolated."""


class ComparisonAnswer(Struct, frozen=True, kw_only=True):
    """All arms, in the order of the request."""

    id: str
    object: Literal["comparison"] = "comparison"
    created: int
    mode: Mode
    order: list[int]
    """Arms in the order in which they began."""
    order_seed: int
    arms: list[ArmAnswer]
    caveats: list[str]
    """What to know before believing a difference."""


class ArmStarted(Struct, frozen=True, kw_only=True):
    """An arm's prefill begins."""

    id: str
    object: Literal["comparison.started"] = "comparison.started"
    arm: int
    model: str
    prompt_tokens: int | None


class ArmDelta(Struct, frozen=True, kw_only=True):
    """New text of an arm."""

    id: str
    object: Literal["comparison.delta"] = "comparison.delta"
    arm: int
    model: str
    text: str
    tokens: int | None
    """How many tokens were sampled since the last one; their text may still be held back."""
