"""Strict decoding of request bodies: a text is no number, and errors name the field."""

import re
from typing import Any, Final

import msgspec
from litestar import Request

from service.core.errors import InvalidRequest

#: msgspec's message: the rule, then the path within the body.
_VIOLATION: Final = re.compile(
    r"(?P<rule>.*?)(?: - at (?:`key` in )?`\$(?P<path>[^`]*)`)?", re.DOTALL
)
_NAMED: Final = re.compile(r"Object (missing required|contains unknown) field `(?P<name>[^`]*)`")

_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


class JsonRequest(Request[Any, Any, Any]):
    """Request whose body is decoded as its handler declares it, without any coercion.

    The framework's own decoder takes `"0.1"` for a number and `"true"` for a boolean.
    """

    async def json(self) -> object:
        """Return the body as the handler's `data`. Raises InvalidRequest naming the field."""
        declared = self.route_handler.parsed_data_field
        return decode_body(await self.body(), object if declared is None else declared.annotation)


def decode_body(body: bytes, kind: type) -> object:
    """Decode JSON as a value of *kind*. Raises InvalidRequest naming the field."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _violation(str(error)) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            "The request body is not valid JSON, or is nested too deeply."
        ) from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from error


def _violation(message: str) -> InvalidRequest:
    found = _VIOLATION.fullmatch(message)
    rule, path = (found["rule"], found["path"] or "") if found else (message, "")
    if named := _NAMED.fullmatch(rule):
        path += f".{named['name']}"
        rule = "is missing" if named[1].startswith("missing") else "is not a field of this request"
    param = path.removeprefix(".").replace("[...]", "")
    if not param:
        return InvalidRequest(f"The request body is invalid: {_lowered(rule)}.")
    separator = " " if named else ": "
    return InvalidRequest(f"`{param}`{separator}{_lowered(rule)}.", param=param)


def _lowered(rule: str) -> str:
    return rule[:1].lower() + rule[1:]
