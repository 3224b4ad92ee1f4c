"""Experiments, their events, and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "experiments",
        sa.Column("id", sa.String(120), primary_key=True),
        sa.Column("turn", sa.Integer, nullable=False, unique=True),
        sa.Column("name", sa.String(80), nullable=False, index=True),
        sa.Column("owner", sa.String(80), nullable=False),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("final", sa.JSON, nullable=False),
        sa.Column("rounds", sa.Integer, nullable=False),
        sa.Column("sweep", sa.String(80), index=True),
        sa.Column("parent", sa.String(120)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("overrides", sa.JSON, nullable=False),
        sa.Column("stop_asked", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("started", sa.Float),
        sa.Column("ended", sa.Float),
        sa.Column("lease", sa.Float),
        sa.Column("key", sa.String(200)),
        sa.Column("body", sa.String(64)),
        sa.UniqueConstraint("owner", "key"),
    )
    op.create_index("by_status", "experiments", ["status", "turn"])
    op.create_table(
        "events",
        sa.Column("experiment", sa.String(120), sa.ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("who", sa.String(80), nullable=False),
        sa.Column("role", sa.String(12), nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("what", sa.String(120), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("audit", "events", "experiments"):
        op.drop_table(table)
