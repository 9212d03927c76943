"""Prompts and answers of records: rows of their own, only where storing them is switched on."""

from collections.abc import Sequence

from sqlalchemy import Connection, Text, bindparam, delete, exists, insert, select

from service.core.record import RequestRecord
from service.storage.tables import request_content, request_record

_STANDS = exists().where(
    request_record.c.request_id == bindparam("id"), request_record.c.phase == bindparam("of")
)
_DROP_CONTENT = delete(request_content).where(
    request_content.c.request_id == bindparam("id"), _STANDS
)
_KEEP_CONTENT = insert(request_content).from_select(
    ["request_id", "prompt", "completion"],
    select(
        bindparam("id", type_=Text),
        bindparam("prompt_text", type_=Text),
        bindparam("completion_text", type_=Text),
    ).where(_STANDS),
)


def replace_contents(connection: Connection, records: Sequence[RequestRecord]) -> None:
    """Give every record that now stands its own contents, and no older ones."""
    connection.execute(
        _DROP_CONTENT, [{"id": record.request_id, "of": record.phase} for record in records]
    )
    contents = [
        {
            "id": record.request_id,
            "of": record.phase,
            "prompt_text": record.prompt_content,
            "completion_text": record.completion_content,
        }
        for record in records
        if has_content(record)
    ]
    if contents:
        connection.execute(_KEEP_CONTENT, contents)


def has_content(record: RequestRecord) -> bool:
    """True if the record holds a prompt or an answer."""
    return record.prompt_content is not None or record.completion_content is not None
