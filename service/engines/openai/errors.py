"""Refusals and failures of another server as errors of this service.

Clients get a status and a message; the remote server's own message is logged, and shown only if a
request was refused for its content, without addresses and paths.
"""

import logging
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
from service.engines.openai.server import OpenAiServer

log = logging.getLogger(__name__)

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


class FarSide(Struct, frozen=True):
    """Other server, as error messages and logs name it."""

    model_id: str
    server: OpenAiServer

    @property
    def name(self) -> str:
        """Name without an address, for clients."""
        return f"the server of {self.model_id}"

    def of_status(self, status: int, headers: Mapping[str, str], content: bytes) -> TriptychError:
        """Return the error that a response stands for."""
        told = _told(content)
        retry_after_s = _seconds(headers.get("retry-after"))
        match status:
            case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
                return self._refusal(told)
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                return InvalidRequest(f"The request is too large for {self.name}.")
            case HTTPStatus.TOO_MANY_REQUESTS:
                return Overloaded(
                    f"The server of {self.model_id} is busy.", retry_after_s=retry_after_s
                )
        self._log(f"answered with status {status}", told.message)
        match status:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                return ModelNotReady(f"The server of {self.model_id} does not accept its API key.")
            case HTTPStatus.NOT_FOUND:
                return ModelNotReady(f"The server of {self.model_id} has no such model.")
        return EngineFailed(
            f"The server of {self.model_id} answered with status {status}.",
            retry_after_s=retry_after_s,
            detail=told.message,
        )

    def of_event(self, content: bytes) -> TriptychError:
        """Return the error that an event of a stream stands for."""
        told = _told(content)
        if told.code == HTTPStatus.BAD_REQUEST or _is_overflow(told):
            return self._refusal(told)
        return self.failed("reported an error", told.message)

    def failed(self, what: str, detail: str) -> EngineFailed:
        """Log a failure with its detail; return the error without it."""
        self._log(what, detail)
        return EngineFailed(f"The server of {self.model_id} {what}.", detail=detail)

    def broke(self, error: Exception) -> EngineFailed:
        """Log a broken connection; return the error for the request that it carried."""
        detail = one_line(error)
        self._log("closed the connection", detail)
        return EngineFailed(f"The connection to {self.name} was lost.", detail=detail)

    def silent(self, limit_s: float) -> EngineFailed:
        """Log a hang; return the error for the request that is given up."""
        return self.failed(f"sent nothing for {limit_s:g} s, so the request was cancelled", "")

    def _refusal(self, told: _Told) -> InvalidRequest:
        """Return a refusal with the server's own message, without addresses."""
        message = self.server.hide_addresses(told.message)
        if _is_overflow(told):
            return ContextOverflow(message, param=told.param)
        return InvalidRequest(
            message or f"The server of {self.model_id} refused the request.", param=told.param
        )

    def _log(self, what: str, detail: str) -> None:
        said = f"{what}: {detail}" if detail else what
        log.warning("%s: the server at %s %s", self.model_id, self.server.address, said)


def one_line(error: Exception) -> str:
    """Text of an error in one line; its class if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def _is_overflow(told: _Told) -> bool:
    return bool(_OVERFLOW.search(f"{told.code} {told.message}"))


def _told(content: bytes) -> _Told:
    """Read `{"error": {…}}`, its inside alone, `{"error": "text"}`, or the text itself."""
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
