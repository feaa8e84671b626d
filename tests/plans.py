"""Which statements are executed, and how an engine would go about them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from app.database import db, is_sqlite


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """The statements that are executed meanwhile, with their parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, parameters))

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(db.engine, "before_cursor_execute", note)


def enlarge(tables: dict[str, int]) -> None:
    """Have PostgreSQL's planner believe that the tables have so many rows.

    It multiplies the rows of a page, as last counted, by the pages that it sees; what ANALYZE found of a few
    thousand rows about the values of their columns stays. Pages are fewer than they would be, so a scan looks
    cheaper than it is. SQLite plans by its rules, however many rows there are.
    """
    if is_sqlite():
        return
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
        for table, rows in tables.items():
            connection.execute(
                sa.text("UPDATE pg_class SET reltuples = :rows WHERE oid = CAST(:table AS regclass)"),
                {"rows": rows, "table": table},
            )


def explained(statement: str, parameters: Any) -> str:
    """The plan that the engine makes of a statement, as text."""
    connection = db.session.connection()
    first = parameters[0] if isinstance(parameters, list) else parameters
    if is_sqlite():
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", first)
        return "\n".join(row[-1] for row in rows)
    return "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", first))
