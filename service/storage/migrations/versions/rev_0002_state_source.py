"""Source of a build's state bytes: measured or computed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; builds recorded before do not say."""
    op.add_column("model_build", sa.Column("state_source", sa.Text()))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("model_build", "state_source")
