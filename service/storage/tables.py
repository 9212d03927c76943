"""Tables of the record store: narrow rows, with what repeats kept once in `model_build`."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)

#: Newest alembic revision; a test holds it to `migrations/versions`.
SCHEMA_REVISION = "0002"

metadata = MetaData()

#: Who answered: one row for each distinct model, variant and build.
model_build = Table(
    "model_build",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("content_sha256", String(64), nullable=False),
    Column("model", Text),
    Column("variant", Text),
    Column("family", Text),
    Column("weights_sha256", String(64)),
    # NULL where the model was chosen but never loaded: a build always has a dtype.
    Column("dtype", Text),
    Column("quantization", Text),
    Column("engine", Text),
    Column("engine_version", Text),
    Column("device", Text),
    Column("kernel_path", Text),
    Column("state_source", Text),
    UniqueConstraint("content_sha256", name="uq_model_build_content_sha256"),
)

request_record = Table(
    "request_record",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("phase", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("requested_model", Text, nullable=False),
    Column("model_build_id", ForeignKey("model_build.id", name="fk_request_record_model_build")),
    Column("route", Text),
    Column("route_reason", Text),
    Column("finish_reason", Text),
    Column("error_code", Text),
    Column("client_request_id", Text),
    Column("comparison_id", Text),
    Column("arm", Integer),
    Column("cold", Boolean, nullable=False),
    Column("verified", Boolean),
    Column("accepted_at_ns", BigInteger, nullable=False),
    Column("accepted_ns", BigInteger, nullable=False),
    Column("queued_ns", BigInteger),
    Column("scheduled_ns", BigInteger),
    Column("first_ns", BigInteger),
    Column("last_ns", BigInteger),
    Column("closed_ns", BigInteger),
    Column("load_ns", BigInteger),
    Column("itl_p50_ns", BigInteger),
    Column("itl_p95_ns", BigInteger),
    Column("itl_p99_ns", BigInteger),
    Column("itl_max_ns", BigInteger),
    Column("prompt_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("completion_bytes", BigInteger),
    Column("attention_kv_bytes", BigInteger),
    Column("window_kv_bytes", BigInteger),
    Column("ssm_state_bytes", BigInteger),
    Column("conv_state_bytes", BigInteger),
    Column("snapshot_bytes", BigInteger),
    Column("reserved_bytes", BigInteger),
    Column("workspace_peak_bytes", BigInteger),
    Column("co_scheduled", Integer),
    Column("sampling", JSON(none_as_null=True)),
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
