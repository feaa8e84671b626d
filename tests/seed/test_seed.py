"""Made-up history: whole, believable, the same each time, never sent, and removed without a trace."""

from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from app import clock
from app.access import workspaces
from app.database import Model, db, transaction
from app.federation import identity, peers, sending, told
from app.models import (
    Attempt,
    Connection,
    ControlOut,
    Delivery,
    Direction,
    Event,
    KeyTold,
    Peer,
    PeerKey,
    Subscription,
    Workspace,
)
from app.outbox import deliver, dispatch, lease, rescue
from app.protocol.canonical import loads
from app.protocol.messages import parse_ack_batch, parse_event, verify_ack_batch, verify_event
from app.protocol.signing import with_signature
from app.protocol.states import ConnectionStatus, DeliveryState, SubscriptionStatus
from app.protocol.tree import parse_proof
from app.seed import history
from app.seed.purge import purge
from app.seed.stage import SLUG
from tests.cli.conftest import RunFlask, Said

DAY_MS = 86_400_000


@pytest.fixture
def seeded(app: Flask) -> Workspace:
    """The small history."""
    identity.forget()
    identity.ensure_identity(app.extensions["tidings"])
    workspaces.ensure_default()
    list(history.make(history.SMALL))
    found = history.existing()
    assert found is not None
    return found


def of(workspace: Workspace, model: Any) -> Sequence[Any]:
    return db.session.scalars(sa.select(model).where(model.workspace_id == workspace.id)).all()


def rows_of_all_tables() -> dict[str, int]:
    return {
        table.name: db.session.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        for table in Model.metadata.sorted_tables
    }


def test_the_history_has_every_state_in_both_directions(seeded: Workspace) -> None:
    events, deliveries = of(seeded, Event), of(seeded, Delivery)

    assert len(events) == history.SMALL
    assert len({event.event_type for event in events}) == 14
    assert {event.direction for event in events} == set(Direction)
    assert {delivery.state for delivery in deliveries} == set(DeliveryState)
    assert max(event.created_at for event in events) - min(event.created_at for event in events) > 6 * DAY_MS
    assert max(event.created_at for event in events) <= clock.now_ms()
    assert {row.status for row in of(seeded, Connection)} == {
        ConnectionStatus.ACTIVE,
        ConnectionStatus.PENDING,
    }
    waiting = [row for row in of(seeded, Subscription) if row.status is SubscriptionStatus.PENDING]
    assert {row.direction for row in waiting} == set(Direction)


def test_signatures_and_receipts_hold(seeded: Workspace) -> None:
    keys = {
        key.key_id: identity.record_of(key)
        for key in (*db.session.scalars(sa.select(PeerKey)), *identity.list_keys())
    }

    for row in of(seeded, Event):
        wire = with_signature(row.body, row.signature, None if row.proof is None else parse_proof(row.proof))
        verify_event(parse_event(loads(wire)), keys[row.key_id])
    acks = [attempt.ack for attempt in db.session.scalars(sa.select(Attempt)) if attempt.ack]
    assert acks
    for ack in acks:
        parsed = parse_ack_batch(loads(ack.encode()))
        verify_ack_batch(parsed, keys[parsed.key_id])


def test_the_same_history_comes_each_time(seeded: Workspace) -> None:
    def picture() -> list[tuple[Any, ...]]:
        workspace = history.existing()
        assert workspace is not None
        return sorted(
            (row.message_id, row.event_type, row.status, loads(row.body.encode())["payload"].__repr__())
            for row in of(workspace, Event)
        )

    first = picture()
    purge(seeded.id)
    list(history.make(history.SMALL))

    assert picture() == first


def test_nothing_of_it_is_ever_sent(seeded: Workspace) -> None:
    before = sorted((row.id, row.state, row.attempts) for row in of(seeded, Delivery))
    connections = [row.id for row in of(seeded, Connection)]
    with transaction():
        # Everything is due, and messages of ours wait too.
        db.session.execute(sa.update(Delivery).values(next_attempt_at=0))
        db.session.execute(sa.update(Connection).values(retry_at=0, breaker_opened_at=None, failures=0))
        db.session.execute(sa.update(Peer).values(document_read_at=0))
        for number, connection_id in enumerate(connections):
            db.session.add(waiting_message(connection_id, number))

    woken = rescue.sweep() + sending.wake_due()
    for connection_id in connections:
        deliver.drain(connection_id)
        sending.send_controls(connection_id)

    assert woken == 0
    assert dispatch.find_idle(connections) == []
    assert peers.due_for_refresh() == []
    with transaction():
        assert [lease.acquire(connection_id, "somebody") for connection_id in connections] == [False] * 4
    assert sorted((row.id, row.state, row.attempts) for row in of(seeded, Delivery)) == before
    assert set(db.session.scalars(sa.select(ControlOut.attempts))) == {0}


def waiting_message(connection_id: int, number: int) -> ControlOut:
    return ControlOut(
        connection_id=connection_id,
        message_id=f"00000000-0000-4000-8000-{number:012}",
        type="connection.verification",
        control_sequence=1,
        body="{}",
        signature="",
        key_id="k",
        state="waiting",
        next_attempt_at=0,
        created_at=0,
    )


def test_a_reset_removes_exactly_the_seeded_rows(app: Flask) -> None:
    identity.forget()
    identity.ensure_identity(app.extensions["tidings"])
    workspaces.ensure_default()
    before = rows_of_all_tables()
    list(history.make(history.SMALL))
    made = history.existing()
    assert made is not None

    purge(made.id)

    assert rows_of_all_tables() == before


def test_a_change_of_keys_waits_for_no_made_up_peer(seeded: Workspace) -> None:
    from_us = identity.list_keys()[0]
    with transaction():
        told.owe(from_us, None)

    assert db.session.scalar(sa.select(sa.func.count()).select_from(KeyTold)) == 0


def test_the_command_is_safe_to_repeat_and_asks_before_it_removes(app: Flask, flask: RunFlask) -> None:
    identity.ensure_identity(app.extensions["tidings"])
    workspaces.ensure_default()

    first: Said = flask("seed", "-o", "json")
    again: Said = flask("seed", "-o", "json")
    refused: Said = flask("seed", "--reset", given="n\n")
    still = history.existing()
    removed: Said = flask("seed", "--reset", "--yes", "-o", "json")

    assert first.json == again.json
    assert (first.json["workspace"], first.json["events"]) == (SLUG, 200)
    assert first.json["deadLetters"] > 0
    assert refused.code == 1
    assert "Remove the workspace seeded with 200 events" in refused.err
    assert still is not None
    assert removed.json == {"workspace": SLUG, "eventsRemoved": 200}
    assert history.existing() is None
    assert "nothing was removed" in flask("seed", "--reset", "--yes").err


def test_a_workspace_of_that_name_that_people_made_is_left_alone(flask: RunFlask) -> None:
    workspaces.create(SLUG)

    for arguments in (("seed",), ("seed", "--reset", "--yes")):
        said = flask(*arguments)

        assert said.code == 1
        assert "was not made by `flask seed`" in said.err


def test_an_interrupted_history_is_not_taken_for_a_whole_one(app: Flask, flask: RunFlask) -> None:
    identity.ensure_identity(app.extensions["tidings"])
    workspaces.ensure_default()
    next(iter(history.make(history.SMALL)))

    said = flask("seed")

    assert said.code == 1
    assert "flask seed --reset" in said.err


def test_two_sizes_at_once_are_refused(flask: RunFlask) -> None:
    assert flask("seed", "--small", "--large").code == 2
