"""Runs the migrations inside the app that `flask db ...` or `app.database.upgrade()` loaded.

Migrations are written with plain SQLAlchemy types (`render_item`), so that an old migration never depends
on today's code. On SQLite a change of a table is a copy (`render_as_batch`).
"""

from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext
from flask import current_app

db = current_app.extensions["migrate"].db


def render_item(kind: str, item: Any, _autogen: AutogenContext) -> str | bool:
    """Write closed sets as the text they are, and row numbers as both engines need them."""
    if kind == "type" and isinstance(item, sa.Enum):
        return f"sa.String(length={item.length})"
    if kind == "type" and isinstance(item, sa.BigInteger) and "sqlite" in item._variant_mapping:
        return 'sa.BigInteger().with_variant(sa.Integer(), "sqlite")'
    return False


def run() -> None:
    """Bring the database to the wanted revision, everything or nothing."""
    engine = current_app.extensions["migrate"].db.engine
    with engine.connect().execution_options(tidings_write=True) as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            render_as_batch=True,
            render_item=render_item,
            compare_type=False,
            transactional_ddl=True,
        )
        with context.begin_transaction():
            if connection.dialect.name == "postgresql":
                # Two starting processes must not create the same table.
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7021, 0)"))
            context.run_migrations()
        connection.commit()


run()
