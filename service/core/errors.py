"""Errors of the service, in one tree.

    TriptychError
    ├── InvalidRequest            the request itself is wrong; nothing was started
    │   ├── UnsupportedField      a known field that is not supported here, refused by name
    │   ├── ContextOverflow       prompt and answer do not fit the model's context
    │   └── PoisonedRequest       the engine died each time it ran this request
    ├── Conflict                  it contradicts what was done before
    ├── RequestTimeout            the client took too long to send its request
    ├── FeatureDisabled           switched off by the operator
    ├── NotFound                  no such record, route or page
    │   └── ModelNotFound         no such model, variant or route
    │       ├── ModelNotPulled    its files are not on this machine
    │       └── ModelUnusable     its files are damaged, or cannot be served here
    ├── DeadlineExceeded          the answer was not complete within the request's time limit
    ├── Unavailable               the service cannot answer now
    │   ├── Overloaded            the queue is full
    │   ├── MachineBusy           no quiet moment for an isolated comparison
    │   ├── ModelNotReady         the model could not be loaded
    │   ├── DoesNotFit            the memory budget has no room for the model or the request
    │   ├── Draining              the service is shutting down
    │   ├── StoreUnavailable      records cannot be written or read: disk full, locked, gone
    │   ├── ShadowSkipped         a shadow found no spare capacity, or nothing to shadow
    │   ├── ShadowYielded         a shadow ended because a client's request came
    │   └── EngineFailed          the engine failed while it held the request
    │       └── EngineDied        its process died, was killed, or hung and was killed
    ├── QueryCancelled            nobody waits for the result of a query any more
    └── ConfigError               settings or catalogue are wrong: names file, key and fix

`code` is stable and machine-readable; `service.api.errors` maps classes to HTTP statuses.
Errors of other libraries are turned into these where they enter.
"""

from typing import ClassVar


class TriptychError(Exception):
    """Root of the tree. `str(error)` is safe to show to clients."""

    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        """The request field at fault."""
        self.retry_after_s = retry_after_s
        """When it is worth trying again, in seconds."""


class InvalidRequest(TriptychError):
    """The request itself is wrong."""

    code = "invalid_request"


class UnsupportedField(InvalidRequest):
    """A known field that is not supported here."""

    code = "unsupported_parameter"


class ContextOverflow(InvalidRequest):
    """Prompt and answer do not fit the model's context."""

    code = "context_length_exceeded"

    @classmethod
    def of(
        cls, *, context_tokens: int, prompt_tokens: int, max_tokens: int = 0, at_least: bool = False
    ) -> "ContextOverflow":
        """Word it as OpenAI does, since clients match the text.

        With `at_least` the prompt was not tokenized, and may have more tokens than that.
        """
        asked = "at least " if at_least else ""
        asked += f"{prompt_tokens + max_tokens} tokens ({prompt_tokens} in the messages"
        asked += f", {max_tokens} in the completion)" if max_tokens else ")"
        return cls(
            f"This model's maximum context length is {context_tokens} tokens. However, you "
            f"requested {asked}. Please reduce the length of the messages or completion.",
            param="messages",
        )


class PoisonedRequest(InvalidRequest):
    """The engine died each time that it ran this request, so it is not run again."""

    code = "poisoned_request"


class Conflict(TriptychError):
    """The request contradicts what was done before; asking again changes nothing."""

    code = "conflict"


class RequestTimeout(TriptychError):
    """The client took too long to send its request."""

    code = "request_timeout"


class FeatureDisabled(TriptychError):
    """The operator has switched this off; the message names the setting."""

    code = "feature_disabled"


class NotFound(TriptychError):
    """No such thing."""

    code = "not_found"


class ModelNotFound(NotFound):
    """No such model, variant or route."""

    code = "model_not_found"


class ModelNotPulled(ModelNotFound):
    """The model's files are not on this machine; the message has the command that fetches them."""

    code = "model_not_pulled"


class ModelUnusable(ModelNotFound):
    """The model's files are damaged, or of a kind that cannot be served here."""

    code = "model_unusable"


class Unavailable(TriptychError):
    """The service cannot answer; most of these pass by themselves."""

    code = "unavailable"


class Overloaded(Unavailable):
    """The queue is full."""

    code = "overloaded"


class MachineBusy(Unavailable):
    """An isolated comparison found no moment at which nothing else ran."""

    code = "machine_busy"


class ModelNotReady(Unavailable):
    """The model could not be loaded.

    Without `retry_after_s` somebody has to mend something first.
    """

    code = "model_not_ready"


class DoesNotFit(Unavailable):
    """The memory budget has no room; the message has the numbers and names what would have to go.

    Without `retry_after_s` it never will, unless the budget or the set of pinned models changes.
    """

    code = "does_not_fit"


class Draining(Unavailable):
    """The service is shutting down."""

    code = "draining"


class ShadowSkipped(Unavailable):
    """A shadow was not run: no spare capacity in time, or no answer to shadow."""

    code = "shadow_skipped"


class ShadowYielded(Unavailable):
    """A running shadow ended because a client's request came."""

    code = "shadow_yielded"


class DeadlineExceeded(TriptychError):
    """The answer was not complete within the request's time limit."""

    code = "deadline_exceeded"


class StoreUnavailable(Unavailable):
    """Records cannot be written or read."""

    code = "store_unavailable"


class EngineFailed(Unavailable):
    """The engine failed while it held the request."""

    code = "engine_failed"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.detail = detail
        """The engine's own words, for logs and supervisors; never shown to clients."""


class EngineDied(EngineFailed):
    """The engine's process died, was killed, or hung and was killed."""

    code = "engine_died"

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, suspect: bool = True
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.suspect = suspect
        """Whether this request may have been what ended it."""


class QueryCancelled(TriptychError):
    """Nobody waits for the result of a query any more."""

    code = "query_cancelled"


class ConfigError(TriptychError):
    """Settings or catalogue are wrong; the message names file, key and fix."""

    code = "config_error"
