"""Many: rows and ids that go to the database as one parameter.

A statement with a parameter for every value is written, parsed and prepared anew for every number of them,
and psycopg keeps none with more than 50. With 100 events that took PostgreSQL's client 6.5 ms, six times as
long as the same rows as one JSON text.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeDecorator

from app.database import db, is_sqlite


def insert_many(
    table: Table,
    rows: Sequence[dict[str, Any]],
    *,
    skip: bool = False,
    returning: tuple[str, ...] = (),
) -> list[Any]:
    """Insert rows, which have the same keys, in their order, inside the caller's transaction.

    skip: leave out what a unique constraint refuses, without an error. Returns the columns `returning` of
    each row that was inserted.
    """
    connection = db.session.connection()
    if not is_sqlite():
        statement = _from_json(table, tuple(rows[0]), skip, returning)
        numbered = [row | {"n": n} for n, row in enumerate(rows)]
        found = connection.execute(statement, {"rows": orjson.dumps(numbered).decode()})
    elif returning:
        found = connection.execute(_from_values(table, skip, returning), rows)
    else:
        # Row by row in the driver, which is SQLite's cheapest way.
        connection.execute(_from_values(table, skip, ()), rows)
        return []
    return list(found) if returning else []


@lru_cache(maxsize=64)
def _from_values(table: Table, skip: bool, returning: tuple[str, ...]) -> Any:
    insert = sqlite.insert(table)
    if skip:
        insert = insert.on_conflict_do_nothing()
    return insert.returning(*(table.c[name] for name in returning)) if returning else insert


@lru_cache(maxsize=64)
def _from_json(table: Table, names: tuple[str, ...], skip: bool, returning: tuple[str, ...]) -> Any:
    columns = [sa.column(name, _plain(table.c[name].type)) for name in names]
    rows = (
        sa.func.json_to_recordset(sa.cast(sa.bindparam("rows", type_=sa.Text), sa.JSON))
        .table_valued(*columns, sa.column("n", sa.Integer))
        .render_derived(name="given", with_types=True)
    )
    # Row numbers are given in the order of the list.
    chosen = sa.select(*(rows.c[name] for name in names)).order_by(rows.c.n)
    insert = postgresql.insert(table).from_select(list(names), chosen, include_defaults=False)
    if skip:
        insert = insert.on_conflict_do_nothing()
    return insert.returning(*(table.c[name] for name in returning)) if returning else insert


def _plain(column_type: Any) -> Any:
    return sa.Text() if isinstance(column_type, sa.String) else column_type


class _Array(TypeDecorator[Any]):
    """A list of ids as the literal of a PostgreSQL array: psycopg takes a tenth of the time for a text."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Iterable[Any] | None, _dialect: Any) -> str:
        """The text."""
        return "{" + ",".join([_quoted(one) for one in value or ()]) + "}"


class _Numbers(TypeDecorator[Any]):
    """A list of ids as a JSON text: a parameter for each of 100 takes twice the time of the statement."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Iterable[Any] | None, _dialect: Any) -> str:
        """The text."""
        return orjson.dumps(list(value or ())).decode()


def _quoted(element: str | int) -> str:
    if isinstance(element, int):
        return str(element)
    escaped = element.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def one_of(column: sa.ColumnElement[Any], name: str, on_sqlite: bool) -> sa.ColumnElement[bool]:
    """Whether the column is in the list that is bound as `name`: of numbers, on SQLite.

    On both engines the list is one text. The column must be a primary key: of any other SQLite's planner
    does not know that the list is short, and may read the whole table instead.
    """
    if on_sqlite:
        given = sa.func.json_each(sa.bindparam(name, type_=_Numbers())).table_valued("value")
        return column.in_(sa.select(given.c.value))
    array = postgresql.ARRAY(_plain(column.type))
    return column == sa.any_(sa.cast(sa.bindparam(name, type_=_Array()), array))
