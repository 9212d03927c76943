"""What a request reused, worked and spent, who routed it, and what it was part of."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "route_inputs": sa.JSON(none_as_null=True),
    "shadow_of": sa.Text(),
    "replay_of": sa.Text(),
    "experiment_id": sa.Text(),
    "matched_tokens": sa.Integer(),
    "restored_from": sa.Text(),
    "restore_ns": sa.BigInteger(),
    "saved_prefill_ns": sa.BigInteger(),
    "cache_miss": sa.Text(),
    "prefill_flops": sa.BigInteger(),
    "decode_flops": sa.BigInteger(),
    "weight_bytes_read": sa.BigInteger(),
    "state_bytes_read": sa.BigInteger(),
    "state_bytes_written": sa.BigInteger(),
    "decode_bytes": sa.BigInteger(),
    "energy_uj": sa.BigInteger(),
    "energy_source": sa.Text(),
    "energy_shared": sa.Boolean(),
}


def upgrade() -> None:
    """Add the columns, in which rows recorded before say nothing, and the tables."""
    for name, kind in _COLUMNS.items():
        op.add_column("request_record", sa.Column(name, kind))
    _create_experiments()
    _create_votes()
    _create_routes()


def downgrade() -> None:
    """Drop the tables and the columns."""
    op.drop_table("vote")
    op.drop_index("ix_request_record_error", "request_record")
    op.drop_index("ix_request_record_routed", "request_record")
    op.drop_table("route")
    op.drop_table("experiment_trial")
    op.drop_table("experiment")
    for name in reversed(_COLUMNS):
        op.drop_column("request_record", name)


def _create_experiments() -> None:
    op.create_table(
        "experiment",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
    )
    op.create_table(
        "experiment_trial",
        sa.Column(
            "experiment_id",
            sa.Text(),
            sa.ForeignKey("experiment.id", name="fk_experiment_trial_experiment"),
            primary_key=True,
        ),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
    )


def _create_votes() -> None:
    op.create_table(
        "vote",
        sa.Column("vote_id", sa.Text(), primary_key=True),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("route", sa.Text()),
        sa.Column("left_model", sa.Text(), nullable=False),
        sa.Column("right_model", sa.Text(), nullable=False),
        sa.Column("left_response", sa.Text()),
        sa.Column("right_response", sa.Text()),
        sa.Column("choice", sa.Text(), nullable=False),
        sa.Column("voter", sa.Text()),
        sa.Column("not_counted", sa.Text()),
        sa.Column("revealed", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("key", name="uq_vote_key"),
    )
    op.create_index("ix_vote_left_response", "vote", ["left_response"])
    op.create_index("ix_vote_right_response", "vote", ["right_response"])


def _create_routes() -> None:
    op.create_table(
        "route",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("document", sa.JSON(), nullable=False),
    )
    conditions = {
        "ix_request_record_routed": sa.text("route != 'direct'"),
        "ix_request_record_error": sa.text("error_code IS NOT NULL"),
    }
    for name, condition in conditions.items():
        op.create_index(
            name,
            "request_record",
            ["requested_model", "accepted_at_ns", "request_id"],
            sqlite_where=condition,
            postgresql_where=condition,
        )
