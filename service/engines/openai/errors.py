"""What another server's refusals and failures are here."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from msgspec import Struct

from service.core.errors import (
    ContextOverflow,
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    Overloaded,
    TriptychError,
)

LONGEST_MESSAGE: Final = 500

#: vLLM, OpenAI and Triptych, llama.cpp; a machine code where there is one.
_OVERFLOW: Final = re.compile(
    r"maximum context length|context_length_exceeded|max_model_len|context size|exceed_context",
    re.IGNORECASE,
)


class _Told(Struct, frozen=True):
    message: str = ""
    param: str | None = None
    code: str | int | None = None


def of_status(
    status: int, headers: Mapping[str, str], content: bytes, *, server: str
) -> TriptychError:
    """The error that a response stands for. `server` names it in messages."""
    told = _told(content)
    retry_after_s = _seconds(headers.get("retry-after"))
    match status:
        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
            return of_message(told.message, told.param, told.code)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return InvalidRequest(f"The request is too large for {server}.")
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return ModelNotReady(f"{server} does not accept the API key that it was given.")
        case HTTPStatus.NOT_FOUND:
            return ModelNotReady(f"{server} has no such model or address: {told.message}")
        case HTTPStatus.TOO_MANY_REQUESTS:
            return Overloaded(f"{server} is busy.", retry_after_s=retry_after_s)
    return EngineFailed(
        f"{server} answered with status {status}: {told.message}", retry_after_s=retry_after_s
    )


def of_event(content: bytes, *, server: str) -> TriptychError:
    """The error that an event of a stream tells."""
    told = _told(content)
    if told.code == HTTPStatus.BAD_REQUEST or _is_overflow(told.message, told.code):
        return of_message(told.message, told.param, told.code)
    return EngineFailed(f"{server} failed: {told.message}")


def of_message(message: str, param: str | None, code: str | int | None) -> TriptychError:
    """A refusal in the server's own words."""
    if _is_overflow(message, code):
        return ContextOverflow(message, param=param)
    return InvalidRequest(message or "The server refused the request.", param=param)


def _is_overflow(message: str, code: str | int | None) -> bool:
    return bool(_OVERFLOW.search(f"{code} {message}"))


def _told(content: bytes) -> _Told:
    """`{"error": {…}}`, its inside alone, `{"error": "text"}`, or the text itself."""
    try:
        value = msgspec.json.decode(content)
        if isinstance(value, dict) and isinstance(value.get("error"), dict | str):
            value = value["error"]
        told = _Told(value) if isinstance(value, str) else msgspec.convert(value, _Told)
    except msgspec.MsgspecError:
        told = _Told(content.decode("utf-8", "replace").strip())
    return msgspec.structs.replace(told, message=told.message[:LONGEST_MESSAGE])


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
