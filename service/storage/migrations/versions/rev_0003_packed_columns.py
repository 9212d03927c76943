"""Blocks of records, and their packed columns: what summaries read."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the tables, and put the rows that are there into blocks by age."""
    op.create_table(
        "record_block",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("last_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("row_count", sa.Integer(), nullable=False),
        sa.Column("packed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "record_column",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("block_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("base", sa.BigInteger()),
        sa.Column("labels", sa.JSON(none_as_null=True)),
        sa.Column("codes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", "block_id"),
    )
    op.add_column(
        "request_record",
        sa.Column("block_id", sa.Integer(), nullable=False, server_default=sa.text("0")),
    )
    op.execute(
        "UPDATE request_record SET block_id = placed.block_id FROM (SELECT request_id AS id, "
        "(row_number() OVER (ORDER BY accepted_at_ns, request_id) - 1) / 8192 "
        "AS block_id FROM request_record) AS placed WHERE request_record.request_id = placed.id"
    )
    op.execute(
        "INSERT INTO record_block (id, first_at_ns, last_at_ns, row_count, packed) "
        "SELECT block_id, min(accepted_at_ns), max(accepted_at_ns), count(*), false "
        "FROM request_record GROUP BY block_id"
    )


def downgrade() -> None:
    """Drop them; the rows hold everything."""
    op.drop_column("request_record", "block_id")
    op.drop_table("record_column")
    op.drop_table("record_block")
