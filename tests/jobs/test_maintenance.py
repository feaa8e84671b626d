"""The sweep: whatever is due is found without Redis, and one failing step stops no other."""

import logging

import pytest
import sqlalchemy as sa
from flask import Flask

from app import clock
from app.database import db, transaction
from app.jobs import maintenance
from app.models import ControlReceived
from tests.exchange import make_scene


@pytest.fixture
def connection_id(app: Flask) -> int:
    """An active connection."""
    return make_scene().connection.id


def keep_answer(connection_id: int, age_ms: int) -> None:
    """An answer of that age."""
    with transaction():
        db.session.add(
            ControlReceived(
                connection_id=connection_id,
                message_id=f"age {age_ms}",
                type="verification",
                digest="",
                control_sequence=1,
                status_code=200,
                answer="{}",
                received_at=clock.now_ms() - age_ms,
            )
        )


def test_answers_are_kept_for_eight_days(connection_id: int) -> None:
    for days in (7, 9):
        keep_answer(connection_id, days * 86_400_000)

    maintenance.sweep()

    assert [row.message_id for row in db.session.scalars(sa.select(ControlReceived))] == [
        f"age {7 * 86_400_000}"
    ]


def test_a_step_that_fails_is_logged_and_keeps_no_other_from_being_done(
    connection_id: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError("broken row")

    monkeypatch.setattr(maintenance, "STEPS", (fail, lambda: done.append("next")))

    with caplog.at_level(logging.ERROR):
        maintenance.sweep()

    assert done == ["next"]
    assert [record.message for record in caplog.records] == ["sweep.step_failed"]
