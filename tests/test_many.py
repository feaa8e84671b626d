"""Many rows and ids as one parameter, on both engines."""

from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from app.database import db, is_sqlite, table_of, transaction
from app.many import insert_many, one_of
from app.models import IdempotencyKey, Workspace
from tests.exchange import make_scene

TABLE = table_of(IdempotencyKey)


@pytest.fixture
def workspace(app: Flask) -> Workspace:
    """A workspace that the rows belong to."""
    return make_scene().workspace


def row(workspace: Workspace, key: str, **other: Any) -> dict[str, Any]:
    """A row of a table with text, numbers and a unique constraint."""
    made = {"workspace_id": workspace.id, "key": key, "fingerprint": "f" * 64, "status_code": 202}
    return {**made, "answer": "{}", "created_at": 1_767_225_600_000, **other}


def stored() -> list[tuple[str, str]]:
    db.session.rollback()
    return [
        tuple(found) for found in db.session.execute(sa.select(TABLE.c.key, TABLE.c.answer).order_by("id"))
    ]


def test_rows_are_inserted_in_their_order_whatever_is_in_them(workspace: Workspace) -> None:
    texts = ["", "{}", "null", '"\\\n\u2028', "grüße 😀", "%s :x $1", "x" * 70_000]

    with transaction():
        insert_many(TABLE, [row(workspace, f"k{n}", answer=text) for n, text in enumerate(texts)])

    assert stored() == [(f"k{n}", text) for n, text in enumerate(texts)]


def test_what_a_constraint_refuses_is_left_out_and_the_rest_is_named(workspace: Workspace) -> None:
    with transaction():
        insert_many(TABLE, [row(workspace, "b")])

    with transaction():
        new = insert_many(
            TABLE, [row(workspace, key) for key in "abca"], skip=True, returning=("key", "created_at")
        )

    assert [tuple(one) for one in new] == [("a", 1_767_225_600_000), ("c", 1_767_225_600_000)]
    assert sorted(key for key, _ in stored()) == ["a", "b", "c"]


def test_without_leave_a_refused_row_is_an_error_and_nothing_is_stored(workspace: Workspace) -> None:
    with pytest.raises(sa.exc.IntegrityError), transaction():
        insert_many(TABLE, [row(workspace, "a"), row(workspace, "a")])

    assert stored() == []


@pytest.mark.parametrize("number", [0, 1, 3, 1_000])
def test_a_list_of_ids_is_one_parameter(workspace: Workspace, number: int) -> None:
    with transaction():
        insert_many(TABLE, [row(workspace, f"k{n}") for n in range(5)])
    ids = [found for (found,) in db.session.execute(sa.select(TABLE.c.id))]

    found = db.session.execute(
        sa.select(TABLE.c.id).where(one_of(TABLE.c.id, "ids", is_sqlite())),
        {"ids": [*ids, *range(10_000, 11_000)][:number]},
    ).scalars()

    assert sorted(found) == sorted(ids[:number])


def test_a_list_of_texts_may_hold_anything(workspace: Workspace) -> None:
    odd = ["a,b", "{}", "NULL", 'q"uote', "back\\slash", "new\nline", "ü", ""]
    with transaction():
        insert_many(TABLE, [row(workspace, key or "empty") for key in odd])

    found = db.session.execute(
        sa.select(TABLE.c.key).where(one_of(TABLE.c.key, "keys", is_sqlite())), {"keys": odd}
    ).scalars()

    assert sorted(found) == sorted(key for key in odd if key)
