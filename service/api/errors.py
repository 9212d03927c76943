"""Errors in OpenAI's format, and the HTTP status of each.

Transient errors are 503, with the time after which to retry. All others are a 4xx that
OpenAI's clients do not retry (they retry 408, 409, 429 and 5xx): nobody waits for the same refusal.
"""

import logging
import math
from typing import Any

from litestar import Request, Response
from litestar.enums import MediaType
from litestar.exceptions import HTTPException, ValidationException
from msgspec import Struct

from service.api.request_id import request_id_of
from service.core.errors import (
    Conflict,
    DeadlineExceeded,
    DoesNotFit,
    FeatureDisabled,
    InvalidRequest,
    ModelNotReady,
    NotFound,
    RequestTimeout,
    TriptychError,
    Unavailable,
)

log = logging.getLogger(__name__)

#: The nearest ancestor counts.
STATUS: dict[type[TriptychError], int] = {
    InvalidRequest: 400,
    FeatureDisabled: 403,
    NotFound: 404,
    RequestTimeout: 408,
    Conflict: 409,
    Unavailable: 503,
    DeadlineExceeded: 504,
    TriptychError: 500,
}
#: Of the unavailable, what lasts until somebody acts: then it carries no `retry_after_s`.
LASTING: dict[type[TriptychError], int] = {
    DoesNotFit: 400,  # a smaller request, or another model, would fit
    ModelNotReady: 424,  # the request depends on a load that has failed
}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
_INTERNAL = "The server had an error while processing your request."


class Problem(Struct, frozen=True, kw_only=True):
    """Error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True):
    """The body of every error."""

    error: Problem


def status_of(error: TriptychError) -> int:
    """The HTTP status of an error."""
    if error.retry_after_s is None:
        for kind, status in LASTING.items():
            if isinstance(error, kind):
                return status
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem_of(error: Exception) -> Problem:
    """The part of an error that clients see; unexpected errors are hidden entirely."""
    if not isinstance(error, TriptychError):
        return Problem(message=_INTERNAL, type="server_error", param=None, code="internal_error")
    return Problem(
        message=str(error), type=_type_of(status_of(error)), param=error.param, code=error.code
    )


def _type_of(status: int) -> str:
    if status >= 500:  # noqa: PLR2004 (server errors)
        return "service_unavailable" if status == 503 else "server_error"  # noqa: PLR2004
    return "invalid_request_error"


def retry_headers(error: TriptychError) -> dict[str, str]:
    """When a client should try again; OpenAI's clients obey all three headers."""
    if error.retry_after_s is not None:
        return {
            "retry-after": str(max(1, math.ceil(error.retry_after_s))),
            "retry-after-ms": str(math.ceil(error.retry_after_s * 1000)),
        }
    # OpenAI's clients repeat 409 and 504 by themselves, in vain.
    return {"x-should-retry": "false"} if isinstance(error, DeadlineExceeded | Conflict) else {}


def handle_triptych_error(_: Request[Any, Any, Any], error: TriptychError) -> Response[ErrorBody]:
    """Respond to a TriptychError."""
    status = status_of(error)
    if status == 500:  # noqa: PLR2004 (internal error)
        log.error("internal error", exc_info=error)
    return _response(problem_of(error), status, retry_headers(error))


def handle_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorBody]:
    """Respond to the framework's errors: no such path, wrong method, too large, malformed."""
    status = 400 if error.status_code == 422 else error.status_code  # noqa: PLR2004 (as OpenAI)
    param, message = None, error.detail
    if isinstance(error, ValidationException):
        param, message = _invalid_value(error)
    elif status >= 500:  # noqa: PLR2004
        log.error("internal error", exc_info=error)
        message = _INTERNAL
    problem = Problem(
        message=message,
        type=_type_of(status),
        param=param,
        code=_CODES.get(status, "invalid_request" if status < 500 else "internal_error"),  # noqa: PLR2004
    )
    return _response(problem, status, dict(error.headers or {}))


def _invalid_value(error: ValidationException) -> tuple[str | None, str]:
    """Name the parameter and the rule; msgspec's messages never contain the value."""
    details = [detail for detail in error.extra or () if isinstance(detail, dict)]
    rule = details[0]["message"] if details else error.detail
    field = next((detail.get("key") for detail in details), None)
    if field == "data":  # what a body holds is checked by `service.api.body`
        return None, "The request body is empty; send JSON."
    return field, f"`{field}`: {rule}" if field else f"The request is invalid: {rule}"


def handle_unreadable(_: Request[Any, Any, Any], __: Exception) -> Response[ErrorBody]:
    """Respond to a body that is not UTF-8 or is nested too deeply; the framework checks neither."""
    problem = Problem(
        message="The request body is not valid JSON, or is nested too deeply.",
        type="invalid_request_error",
        param=None,
        code="invalid_request",
    )
    return _response(problem, 400, {})


def handle_bug(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    """Respond to an unexpected exception: logged in full, hidden from the client."""
    log.error("%s failed", request_id_of(request.scope), exc_info=error)
    return _response(problem_of(error), 500, {})


def _response(problem: Problem, status: int, headers: dict[str, str]) -> Response[ErrorBody]:
    return Response(
        ErrorBody(problem), status_code=status, headers=headers, media_type=MediaType.JSON
    )


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    TriptychError: handle_triptych_error,
    HTTPException: handle_http_error,
    RecursionError: handle_unreadable,
    UnicodeDecodeError: handle_unreadable,
    Exception: handle_bug,
}
