"""Model builds, request records and their contents."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    _create_model_build()
    _create_request_record()
    _create_request_content()


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("request_content")
    op.drop_table("request_record")
    op.drop_table("model_build")


def _create_model_build() -> None:
    op.create_table(
        "model_build",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_sha256", sa.String(length=64), nullable=False),
        sa.Column("model", sa.Text()),
        sa.Column("variant", sa.Text()),
        sa.Column("family", sa.Text()),
        sa.Column("weights_sha256", sa.String(length=64)),
        sa.Column("dtype", sa.Text()),
        sa.Column("quantization", sa.Text()),
        sa.Column("engine", sa.Text()),
        sa.Column("engine_version", sa.Text()),
        sa.Column("device", sa.Text()),
        sa.Column("kernel_path", sa.Text()),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("content_sha256", name="uq_model_build_content_sha256"),
    )


def _create_request_record() -> None:
    op.create_table(
        "request_record",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("requested_model", sa.Text(), nullable=False),
        sa.Column("model_build_id", sa.Integer()),
        sa.Column("route", sa.Text()),
        sa.Column("route_reason", sa.Text()),
        sa.Column("finish_reason", sa.Text()),
        sa.Column("error_code", sa.Text()),
        sa.Column("client_request_id", sa.Text()),
        sa.Column("comparison_id", sa.Text()),
        sa.Column("arm", sa.Integer()),
        sa.Column("cold", sa.Boolean(), nullable=False),
        sa.Column("verified", sa.Boolean()),
        sa.Column("accepted_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("accepted_ns", sa.BigInteger(), nullable=False),
        sa.Column("queued_ns", sa.BigInteger()),
        sa.Column("scheduled_ns", sa.BigInteger()),
        sa.Column("first_ns", sa.BigInteger()),
        sa.Column("last_ns", sa.BigInteger()),
        sa.Column("closed_ns", sa.BigInteger()),
        sa.Column("load_ns", sa.BigInteger()),
        sa.Column("itl_p50_ns", sa.BigInteger()),
        sa.Column("itl_p95_ns", sa.BigInteger()),
        sa.Column("itl_p99_ns", sa.BigInteger()),
        sa.Column("itl_max_ns", sa.BigInteger()),
        sa.Column("prompt_tokens", sa.Integer()),
        sa.Column("cached_tokens", sa.Integer()),
        sa.Column("completion_tokens", sa.Integer()),
        sa.Column("completion_bytes", sa.BigInteger()),
        sa.Column("attention_kv_bytes", sa.BigInteger()),
        sa.Column("window_kv_bytes", sa.BigInteger()),
        sa.Column("ssm_state_bytes", sa.BigInteger()),
        sa.Column("conv_state_bytes", sa.BigInteger()),
        sa.Column("snapshot_bytes", sa.BigInteger()),
        sa.Column("reserved_bytes", sa.BigInteger()),
        sa.Column("workspace_peak_bytes", sa.BigInteger()),
        sa.Column("co_scheduled", sa.Integer()),
        sa.Column("sampling", sa.JSON(none_as_null=True)),
        sa.ForeignKeyConstraint(
            ["model_build_id"], ["model_build.id"], name="fk_request_record_model_build"
        ),
        sa.PrimaryKeyConstraint("request_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_request_record_accepted_at",
        "request_record",
        ["accepted_at_ns", "request_id"],
        unique=False,
    )
    op.create_index(
        "ix_request_record_comparison",
        "request_record",
        ["comparison_id"],
        unique=False,
        sqlite_where=sa.text("comparison_id IS NOT NULL"),
        postgresql_where=sa.text("comparison_id IS NOT NULL"),
    )
    op.create_index(
        "ix_request_record_open",
        "request_record",
        ["request_id"],
        unique=False,
        sqlite_where=sa.text("phase = 'accepted'"),
        postgresql_where=sa.text("phase = 'accepted'"),
    )


def _create_request_content() -> None:
    op.create_table(
        "request_content",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text()),
        sa.Column("completion", sa.Text()),
        sa.ForeignKeyConstraint(
            ["request_id"], ["request_record.request_id"], name="fk_request_content_request"
        ),
        sa.PrimaryKeyConstraint("request_id"),
    )
