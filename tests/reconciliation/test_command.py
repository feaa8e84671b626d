"""`flask stream reconcile`."""

import json

import pytest
import sqlalchemy as sa

from app.cli import reconcile
from app.models import Delivery, Event, Peer
from app.reports.reconciliations import list_reconciliations


@pytest.fixture
def flask(stream, monkeypatch):
    """Run a command at the publisher; while it waits, both sides work."""
    look = reconcile.get_reconciliation

    def work_and_look(reconciliation_id):
        stream.pair.settle()
        return look(reconciliation_id)

    monkeypatch.setattr(reconcile, "get_reconciliation", work_and_look)

    def run(*args):
        side = stream.publisher
        connection = side.connection().public_id
        return side.app.test_cli_runner().invoke(args=["stream", "reconcile", connection, *args])

    return run


def test_equal_sides_end_well(stream, flask):
    stream.publish(3)

    said = flask("-o", "json")

    [one] = json.loads(said.stdout)["data"]
    assert said.exit_code == 0
    assert (one["direction"], one["status"], one["compared"], one["found"]) == ("outgoing", "done", 3, 0)


def test_what_was_mended_is_told(stream, flask):
    ids = stream.publish(3)
    stream.change(stream.subscriber, sa.delete(Event).where(Event.sequence == 2))

    said = flask()

    assert said.exit_code == 0
    assert "3 of sequence 1 to 3 compared, 1 differ, 1 mended" in said.stdout
    assert ids[1] in said.stdout
    listed = stream.publisher.do(
        list_reconciliations, stream.publisher.workspace_id, stream.publisher.connection().public_id
    )
    assert [one["kind"] for row in listed.data for one in row["differences"]] == ["missing_there"]


def test_what_needs_a_person_is_a_failure(stream, flask):
    stream.publish(3)
    stream.change(stream.publisher, sa.delete(Delivery).where(Delivery.sequence == 2))

    said = flask()

    assert said.exit_code == 1
    assert "1 differences need a person" in said.stderr


def test_a_side_that_cannot_compare_refuses(stream, flask):
    stream.publish(1)
    [peer] = stream.publisher.rows(Peer)
    document = json.loads(peer.document) | {"features": []}
    stream.change(stream.publisher, sa.update(Peer).values(document=json.dumps(document)))

    said = flask()

    assert said.exit_code == 4
    assert "reconcile" in said.stderr


def test_without_events_there_is_nothing_to_compare(stream, flask):
    said = flask()

    assert said.exit_code == 1
