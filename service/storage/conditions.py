"""Filters and page positions as SQL conditions."""

from collections.abc import Mapping

from sqlalchemy import ColumnElement, select, tuple_

from service.core.ports import RecordFilter
from service.storage.cursor import Position
from service.storage.rows import Served
from service.storage.tables import HAS_ERROR, IS_ROUTED, model_build, request_record

#: The order of pages and exports.
KEYS = (request_record.c.accepted_at_ns, request_record.c.request_id)


def before(position: Position) -> ColumnElement[bool]:
    """Records older than a position."""
    key = tuple_(*KEYS)
    return key < tuple_(position.accepted_at_ns, position.request_id)


def after(position: Position) -> ColumnElement[bool]:
    """Records newer than a position."""
    key = tuple_(*KEYS)
    return key > tuple_(position.accepted_at_ns, position.request_id)


def allowed_builds(where: RecordFilter, everyone: Mapping[int, Served]) -> set[int] | None:
    """Ids of the builds that a filter allows; None if it does not restrict them."""
    if where.model is None and where.family is None:
        return None
    return {
        key
        for key, who in everyone.items()
        if where.model in (None, who.model) and where.family in (None, who.family)
    }


def matching(where: RecordFilter) -> list[ColumnElement[bool]]:
    """Records that a filter lets through."""
    equal = {
        request_record.c.status: where.status,
        request_record.c.endpoint: where.endpoint,
        request_record.c.requested_model: where.requested_model,
        request_record.c.comparison_id: where.comparison_id,
    }
    conditions: list[ColumnElement[bool]] = [
        column == value for column, value in equal.items() if value is not None
    ]
    if where.since_ns is not None:
        conditions.append(request_record.c.accepted_at_ns >= where.since_ns)
    if where.until_ns is not None:
        conditions.append(request_record.c.accepted_at_ns < where.until_ns)
    if where.route is not None:
        conditions += [request_record.c.requested_model == where.route, IS_ROUTED]
    if where.with_error:
        conditions.append(HAS_ERROR)
    served_by = {model_build.c.model: where.model, model_build.c.family: where.family}
    builds = [column == value for column, value in served_by.items() if value is not None]
    if builds:
        of_build = select(model_build.c.id).where(*builds)
        conditions.append(request_record.c.model_build_id.in_(of_build))
    return conditions
