"""What alembic runs: migrations in one transaction, on the store's URL."""

from alembic import context
from sqlalchemy import create_engine

from fedcosim.server.store.tables import Table

engine = create_engine(context.config.attributes["url"])
with engine.connect() as connection:
    batch = engine.dialect.name == "sqlite"  # it cannot alter tables; alembic writes them anew
    context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=batch)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
