"""Page cursors: the position where a page ended, as an opaque token."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from service.core.errors import InvalidRequest
from service.core.ports import RecordPage
from service.core.record import RequestRecord


class Position(Struct, frozen=True, order=True, array_like=True):
    """Place of a record in the order of pages; a total order, since ids are unique."""

    accepted_at_ns: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    request_id: str

    @classmethod
    def of(cls, record: RequestRecord) -> "Position":
        """The position of a record."""
        return cls(record.accepted_at_ns, record.request_id)


def encode(position: Position) -> str:
    """A cursor that continues after *position*."""
    return urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()


def decode(cursor: str) -> Position:
    """The position in a cursor. Raises InvalidRequest if it is not one of ours."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return msgspec.json.decode(urlsafe_b64decode(padded), type=Position)
    except (UnicodeError, binascii.Error, msgspec.MsgspecError) as error:
        raise InvalidRequest(
            "cursor is not one that a page returned; leave it out to start at the newest record",
            param="cursor",
        ) from error


def page(found: Sequence[RequestRecord], limit: int) -> RecordPage:
    """The first *limit* of the records found; a cursor follows if there were more."""
    shown = tuple(found[:limit])
    more = len(found) > limit > 0
    return RecordPage(records=shown, next_cursor=encode(Position.of(shown[-1])) if more else None)
