"""`flask dead`: see what was given up, send it again, discard it."""

import pytest
import sqlalchemy as sa

from app.database import db
from app.models import Delivery, EventStatus, OperationKind
from app.outbox import operations
from app.outbox.dead_letters import DeliveryFilter
from app.protocol.states import DeliveryState
from tests.cli.conftest import RunFlask
from tests.exchange import Scene
from tests.reports.rows import add_delivery, add_event


@pytest.fixture
def dead(flask: RunFlask, scene: Scene) -> RunFlask:
    """Run `flask dead ARGS` in the scene's workspace, which has three dead letters."""
    for code in ("too_large", "too_large", "payload_invalid"):
        event = add_event(scene.workspace.id, status=EventStatus.DEAD)
        add_delivery(event, scene.connection, state=DeliveryState.DEAD, error_code=code)
    return lambda *args: flask("dead", *args, "--workspace", scene.workspace.slug)


def states() -> list[str]:
    db.session.rollback()
    return [state.value for state in db.session.scalars(sa.select(Delivery.state).order_by(Delivery.id))]


def test_dead_letters_are_counted_and_listed(dead: RunFlask, scene: Scene) -> None:
    counted = dead("list", "-o", "json").json["data"]
    each = dead("list", "--each", "--error", "payload_invalid", "-o", "json").json["data"]

    assert [(group["error"], group["count"]) for group in counted] == [
        ("too_large", 2),
        ("payload_invalid", 1),
    ]
    assert [(row["error"], row["connectionId"]) for row in each] == [
        ("payload_invalid", scene.connection.public_id)
    ]


def test_a_dry_run_changes_nothing(dead: RunFlask) -> None:
    said = dead("retry", "--error", "too_large", "--dry-run", "-o", "json").json

    assert (said["count"], said["dryRun"], states()) == (2, True, ["dead"] * 3)


def test_what_matches_is_sent_again_with_its_progress_on_stderr(dead: RunFlask) -> None:
    said = dead("retry", "--error", "too_large", "-o", "json")

    assert (said.json["count"], states()) == (2, ["pending", "pending", "dead"])
    assert "retry" in said.err


def test_what_is_discarded_needs_a_reason(dead: RunFlask) -> None:
    without = dead("discard")
    said = dead("discard", "--reason", "old news", "-o", "json")

    assert (without.code, said.json["count"], states()) == (2, 3, ["withdrawn"] * 3)


def test_an_operation_can_be_stopped_and_cancelled(dead: RunFlask, scene: Scene) -> None:
    place = scene.workspace.id
    operation = operations.start(place, OperationKind.RETRY, DeliveryFilter(), at_once=0)

    paused = dead("pause", operation.public_id, "-o", "json").json
    going = dead("resume", operation.public_id, "-o", "json").json
    ended = dead("cancel", operation.public_id, "-o", "json").json
    listed = dead("operations", "-o", "json").json["data"]

    assert [said["status"] for said in (paused, going, ended, *listed)] == [
        "paused",
        "running",
        "cancelled",
        "cancelled",
    ]
    assert dead("pause", operation.public_id).code == 1
    assert dead("cancel", "00000000-0000-4000-8000-000000000000").code == 3


def test_an_unknown_connection_ends_the_command(dead: RunFlask) -> None:
    assert dead("retry", "--connection", "ffffffff").code == 3
