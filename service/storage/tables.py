"""Tables of the record store: one narrow row per request, deduplicated builds, and packed columns.

Columns are named and typed after the fields of the structs that they hold.
"""

import typing

from msgspec import Struct
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.types import TypeEngine

from service.core.events import ModelBuild
from service.core.record import PARTS, RequestRecord

#: Newest alembic revision; a test holds it to `migrations/versions`.
SCHEMA_REVISION = "0004"

#: Fields of a record that other tables hold, or that are spread over several columns.
ELSEWHERE = frozenset(
    {"model", "variant", "family", "build", "prompt_content", "completion_content", *PARTS}
)
_SMALL = frozenset({"arm", "co_scheduled"})

metadata = MetaData()


def _columns_of(
    struct: type[Struct], *, without: frozenset[str] = frozenset()
) -> list[Column[typing.Any]]:
    """A column for each field of a struct, nullable where the field may be None."""
    return [
        Column(
            name,
            _type_of(name, kind),
            primary_key=name == "request_id",
            nullable=type(None) in typing.get_args(kind),
        )
        for name, kind in typing.get_type_hints(struct).items()
        if name not in without
    ]


def _type_of(name: str, kind: object) -> TypeEngine[typing.Any]:
    kinds = {kind, *typing.get_args(kind)}
    if bool in kinds:
        return Boolean()
    if int in kinds:
        return Integer() if name.endswith("_tokens") or name in _SMALL else BigInteger()
    if any(typing.get_origin(each) is dict for each in kinds):
        return JSON(none_as_null=True)
    return String(64) if name.endswith("_sha256") else Text()


def _always_nullable(columns: list[Column[typing.Any]]) -> list[Column[typing.Any]]:
    for column in columns:
        column.nullable = True
    return columns


#: Who answered: one row for each distinct model, variant and build. Columns of the build are NULL
#: where the model was chosen but never loaded: a build always has a dtype.
model_build = Table(
    "model_build",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("content_sha256", String(64), nullable=False),
    Column("model", Text),
    Column("variant", Text),
    Column("family", Text),
    *_always_nullable(_columns_of(ModelBuild)),
    UniqueConstraint("content_sha256", name="uq_model_build_content_sha256"),
)

request_record = Table(
    "request_record",
    metadata,
    *_columns_of(RequestRecord, without=ELSEWHERE),
    *(column for part in PARTS.values() for column in _columns_of(part)),
    Column("model_build_id", ForeignKey("model_build.id", name="fk_request_record_model_build")),
    # Assigned when the row is inserted, and never changed.
    Column("block_id", Integer, nullable=False, server_default=text("0")),
    # Clustered by request_id: SQLite would otherwise keep every id in a second tree of its own.
    sqlite_with_rowid=False,
)

#: The order of pages and exports.
Index(
    "ix_request_record_accepted_at",
    request_record.c.accepted_at_ns,
    request_record.c.request_id,
)
Index(
    "ix_request_record_comparison",
    request_record.c.comparison_id,
    sqlite_where=request_record.c.comparison_id.is_not(None),
    postgresql_where=request_record.c.comparison_id.is_not(None),
)

#: A literal, not a parameter: only then can the planner use the partial index below.
IS_OPEN = request_record.c.phase == literal_column("'accepted'")

#: Rows still without an end: few, so that a start after a crash finds its orphans at once.
Index(
    "ix_request_record_open",
    request_record.c.request_id,
    sqlite_where=IS_OPEN,
    postgresql_where=IS_OPEN,
)

#: Prompts and answers, only where storing them is switched on.
request_content = Table(
    "request_content",
    metadata,
    Column(
        "request_id",
        ForeignKey("request_record.request_id", name="fk_request_content_request"),
        primary_key=True,
    ),
    Column("prompt", Text),
    Column("completion", Text),
)

#: Rows that were inserted one after another. A packed block has its rows in `record_column` too.
record_block = Table(
    "record_block",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Bounds of the rows' accepted_at_ns, both inclusive; never narrower than the rows.
    Column("first_at_ns", BigInteger, nullable=False),
    Column("last_at_ns", BigInteger, nullable=False),
    Column("row_count", Integer, nullable=False),
    Column("packed", Boolean, nullable=False),
)

#: One field of all rows of a block, packed; see `service/storage/columns/packed_column.py`.
record_column = Table(
    "record_column",
    metadata,
    Column("name", Text, primary_key=True),
    Column("block_id", Integer, primary_key=True, autoincrement=False),
    Column("base", BigInteger),
    Column("labels", JSON(none_as_null=True)),
    Column("codes", LargeBinary, nullable=False),
)

#: Plans under way or done. What is asked for by a query has a column; the rest is in the document.
experiment = Table(
    "experiment",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("document", JSON, nullable=False),
)

#: Ended trials.
experiment_trial = Table(
    "experiment_trial",
    metadata,
    Column(
        "experiment_id",
        ForeignKey("experiment.id", name="fk_experiment_trial_experiment"),
        primary_key=True,
    ),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("document", JSON, nullable=False),
)


#: Which of two answers a person preferred; one row for each pair.
vote = Table(
    "vote",
    metadata,
    Column("vote_id", Text, primary_key=True),
    Column("key", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("route", Text),
    Column("left_model", Text, nullable=False),
    Column("right_model", Text, nullable=False),
    Column("left_response", Text),
    Column("right_response", Text),
    Column("choice", Text, nullable=False),
    Column("voter", Text),
    Column("not_counted", Text),
    Column("revealed", Boolean, nullable=False),
    UniqueConstraint("key", name="uq_vote_key"),
)
Index("ix_vote_left_response", vote.c.left_response)
Index("ix_vote_right_response", vote.c.right_response)


#: Routes that were created over HTTP.
route = Table(
    "route",
    metadata,
    Column("id", Text, primary_key=True),
    Column("document", JSON, nullable=False),
)

#: A literal, not a parameter: only then can the planner use the partial index below.
IS_ROUTED = request_record.c.route != literal_column("'direct'")

#: Requests to routes, by the route that was asked for.
Index(
    "ix_request_record_routed",
    request_record.c.requested_model,
    request_record.c.accepted_at_ns,
    request_record.c.request_id,
    sqlite_where=IS_ROUTED,
    postgresql_where=IS_ROUTED,
)

HAS_ERROR = request_record.c.error_code.is_not(None)

#: Requests that failed or were refused: few, so that errors can be counted by what was asked for.
Index(
    "ix_request_record_error",
    request_record.c.requested_model,
    request_record.c.accepted_at_ns,
    request_record.c.request_id,
    sqlite_where=HAS_ERROR,
    postgresql_where=HAS_ERROR,
)
