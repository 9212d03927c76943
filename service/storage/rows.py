"""Mapping between records and rows; model and build have a row of their own."""

import hashlib
from typing import Any

import msgspec
from msgspec import Struct, structs
from sqlalchemy import RowMapping

from model_registry.spec import Family
from service.core.events import ModelBuild
from service.core.record import PARTS, RequestRecord
from service.storage.tables import ELSEWHERE, request_record


class Served(Struct, frozen=True, kw_only=True):
    """Model and build that answered: a row of `model_build`."""

    model: str | None
    variant: str | None
    family: Family | None
    build: ModelBuild | None


_NOBODY = Served(model=None, variant=None, family=None, build=None)
_SPREAD = tuple(name for part in PARTS.values() for name in part.__struct_fields__)
_BUILD = ModelBuild.__struct_fields__
_SCALARS = tuple(name for name in RequestRecord.__struct_fields__ if name not in ELSEWHERE)

#: What `to_record` reads of `request_record`.
RECORD_COLUMNS = [request_record.c[name] for name in (*_SCALARS, *_SPREAD, "model_build_id")]


def served(record: RequestRecord) -> Served | None:
    """Model and build of a record; None if no model was reached."""
    who = Served(
        model=record.model, variant=record.variant, family=record.family, build=record.build
    )
    return None if who == _NOBODY else who


def content_sha256(who: Served) -> str:
    """Key under which equal builds share a row."""
    return hashlib.sha256(msgspec.json.encode(who)).hexdigest()


def to_build_row(who: Served) -> dict[str, Any]:
    """Values of a `model_build` row, without its id."""
    build = structs.asdict(who.build) if who.build else dict.fromkeys(_BUILD)
    return {
        "content_sha256": content_sha256(who),
        "model": who.model,
        "variant": who.variant,
        "family": who.family,
        **build,
    }


def to_served(row: RowMapping) -> Served:
    """Model and build of a `model_build` row."""
    loaded = row["dtype"] is not None
    return Served(
        model=row["model"],
        variant=row["variant"],
        family=row["family"],
        build=ModelBuild(**{name: row[name] for name in _BUILD}) if loaded else None,
    )


def to_row(record: RequestRecord, model_build_id: int | None, block_id: int) -> dict[str, Any]:
    """Values of a `request_record` row."""
    row = {name: getattr(record, name) for name in _SCALARS}
    for name in PARTS:
        row.update(structs.asdict(getattr(record, name)))
    row["model_build_id"] = model_build_id
    row["block_id"] = block_id
    return row


def to_record(row: RowMapping, who: Served | None) -> RequestRecord:
    """The record of a row of `RECORD_COLUMNS` with the columns of `request_content`."""
    answered = who or _NOBODY
    parts: dict[str, Any] = {
        name: part(**{field: row[field] for field in part.__struct_fields__})
        for name, part in PARTS.items()
    }
    return RequestRecord(
        model=answered.model,
        variant=answered.variant,
        family=answered.family,
        build=answered.build,
        prompt_content=row["prompt"],
        completion_content=row["completion"],
        **parts,
        **{name: row[name] for name in _SCALARS},
    )
