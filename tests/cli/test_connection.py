"""`flask connection`, `subscription` and `doctor`, as far as no other instance is needed for it."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.cli.answered import tell_answer
from app.cli.output import Exit, Failure
from app.database import db, transaction
from app.federation import controls
from app.models import Connection, ControlOut, ControlState, Direction
from app.protocol.control import ControlType, Reason
from app.protocol.states import ConnectionStatus, SubscriptionStatus
from tests.cli.conftest import RunFlask
from tests.exchange import RemotePeer, Scene, connect, subscribe


@pytest.fixture
def run(flask: RunFlask, scene: Scene) -> RunFlask:
    """Run `flask ARGS` in the scene's workspace."""
    return lambda *args: flask(*args, "--workspace", scene.workspace.slug)


@pytest.fixture
def connected(scene: Scene) -> str:
    """Id of the scene's connection."""
    return scene.connection.public_id


def test_connections_are_listed_and_shown(run: RunFlask, scene: Scene, connected: str) -> None:
    listed = run("connection", "list", "-o", "json").json
    shown = run("connection", "show", connected, "-o", "json").json

    assert listed == {"data": [shown], "nextCursor": None, "hasMore": False}
    assert (shown["id"], shown["remoteUrl"], shown["status"]) == (connected, scene.peer.base_url, "active")
    assert connected in run("connection", "list").out
    assert run("connection", "list", "--status", "pending", "-o", "json").json["data"] == []


@pytest.mark.parametrize("name", [lambda c, p: c[:9], lambda c, p: p.base_url, lambda c, p: p.base_url + "/"])
def test_a_connection_is_named_by_the_beginning_of_its_id_or_its_url(
    run: RunFlask, scene: Scene, connected: str, name: Callable[[str, RemotePeer], str]
) -> None:
    shown = run("connection", "show", name(connected, scene.peer), "-o", "json").json

    assert shown["id"] == connected


def test_of_several_connections_with_one_instance_the_open_one_is_meant(
    run: RunFlask, scene: Scene, connected: str
) -> None:
    connect(scene.workspace, scene.peer, status=ConnectionStatus.DISCONNECTED)

    assert run("connection", "show", scene.peer.base_url, "-o", "json").json["id"] == connected


def test_a_url_that_fits_several_connections_is_not_enough(run: RunFlask, scene: Scene) -> None:
    connect(scene.workspace, scene.peer)

    said = run("connection", "show", scene.peer.base_url)

    assert said.code == 2
    assert "Several connections" in said.err


def test_another_workspaces_connection_is_not_found(flask: RunFlask, made: Any, connected: str) -> None:
    assert flask("connection", "show", connected).code == 3
    assert flask("connection", "show", "http://127.0.0.1:9").code == 3


def test_a_request_that_was_not_checked_is_shown_to_nobody(run: RunFlask, scene: Scene) -> None:
    connect(
        scene.workspace,
        RemotePeer(base_url="http://127.0.0.1:10"),
        direction=Direction.INCOMING,
        status=ConnectionStatus.PENDING,
        checked_at=None,
    )

    assert run("connection", "show", "http://127.0.0.1:10").code == 3
    assert len(run("connection", "list", "-o", "json").json["data"]) == 1


def test_a_pause_is_seen_at_the_connection_and_by_the_doctor(
    run: RunFlask, flask: RunFlask, connected: str
) -> None:
    run("connection", "pause", connected, "--direction", "incoming")

    shown, doctor = run("connection", "show", connected), flask("doctor")

    assert "pausedHere" in shown.out
    assert "incoming; `flask connection unpause` goes on" in shown.out
    assert f"ok    paused: 1 connections, such as {connected}" in doctor.out


@pytest.mark.parametrize(
    ("args", "outgoing", "incoming"),
    [
        ([], True, True),
        (["--direction", "outgoing"], True, False),
        (["--direction", "incoming"], False, True),
    ],
)
def test_a_pause_stops_what_it_names_until_it_ends(
    run: RunFlask, scene: Scene, connected: str, args: list[str], outgoing: bool, incoming: bool
) -> None:
    run("connection", "pause", connected, *args)
    paused = scene.reload()
    before = (paused.paused_outgoing, paused.paused_incoming)
    run("connection", "unpause", connected)
    after = scene.reload()

    assert before == (outgoing, incoming)
    assert (after.paused_outgoing, after.paused_incoming) == (False, False)


def test_a_comparison_of_the_pairing_code_is_noted(run: RunFlask, scene: Scene, connected: str) -> None:
    shown = run("connection", "mark-verified", connected, "--reason", "by telephone", "-o", "json").json

    assert shown["verifiedAt"] is not None
    assert "by telephone" in str(scene.reload().verified_how)


def test_retrying_now_ends_a_hold(run: RunFlask, scene: Scene, connected: str) -> None:
    with transaction():
        db.session.execute(sa.update(Connection).values(hold_code="blocked", failures=3))

    said = run("connection", "retry-now", connected, "-o", "json")

    after = scene.reload()
    assert said.code == 0
    assert (after.hold_code, after.failures) == (None, 0)


@pytest.mark.parametrize("args", [["accept"], ["reject"], ["resume"], ["trust"], ["trust", "--refuse"]])
def test_a_move_that_is_not_possible_fails_and_changes_nothing(
    run: RunFlask, scene: Scene, connected: str, args: list[str]
) -> None:
    said = run("connection", *args, connected)

    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "flask connection show" in said.err
    assert scene.reload().status is ConnectionStatus.ACTIVE


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("nonsense", 2, "--help"),
        ("http://127.0.0.1:9/path", 2, "--help"),
        ("http://10.0.0.1", 1, "FEDERATION_ALLOWED_NETWORKS"),
    ],
)
@pytest.mark.parametrize("command", ["preview", "request"])
def test_who_cannot_be_asked_is_told_with_the_reason(
    flask: RunFlask, made: Any, command: str, url: str, code: int, words: str
) -> None:
    said = flask("connection", command, url)

    assert said.code == code
    assert words in said.err


def queue(scene: Scene, state: ControlState, **columns: Any) -> None:
    """A message of ours to the peer, and what became of it."""
    with transaction():
        row = controls.queue_control(scene.connection, ControlType.CONNECTION_SUSPEND, Reason(None))
        db.session.execute(
            sa.update(ControlOut).where(ControlOut.id == row.id).values(state=state, **columns)
        )


@pytest.mark.parametrize("state", [ControlState.REFUSED, ControlState.HELD])
def test_a_refusal_of_the_other_side_has_a_code_of_its_own(scene: Scene, state: ControlState) -> None:
    queue(scene, state, status_code=403, error_code="blocked", error_detail="not you")

    with pytest.raises(Failure) as caught:
        tell_answer(scene.connection.id, ControlType.CONNECTION_SUSPEND)

    assert caught.value.exit_code == Exit.REFUSED
    assert "blocked: not you" in caught.value.message


@pytest.mark.parametrize(
    ("state", "columns", "words"),
    [
        (ControlState.WAITING, {}, "has not answered yet."),
        (ControlState.WAITING, {"error_code": "timeout", "error_detail": "15 s"}, "(timeout: 15 s)"),
        (ControlState.ANSWERED, {}, ""),
    ],
)
def test_what_is_not_answered_yet_is_said(
    scene: Scene, capsys: pytest.CaptureFixture[str], state: ControlState, columns: dict[str, Any], words: str
) -> None:
    queue(scene, state, **columns)

    tell_answer(scene.connection.id, ControlType.CONNECTION_SUSPEND)

    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert bool(said.err) is bool(words)


# Subscriptions


def test_subscriptions_of_both_directions_are_listed(run: RunFlask, scene: Scene) -> None:
    ours = subscribe(scene.connection, "order.*", Direction.INCOMING)
    theirs = subscribe(scene.connection, "task.*")

    every = run("subscription", "list", "-o", "json").json["data"]
    outgoing = run("subscription", "list", "--direction", "outgoing", "-o", "json").json["data"]

    assert [row["id"] for row in every] == [theirs.public_id, ours.public_id]
    assert [row["eventType"] for row in outgoing] == ["task.*"]


def test_only_what_the_other_side_asked_for_can_be_decided(run: RunFlask, scene: Scene) -> None:
    subscribe(scene.connection, "task.*")

    approved = run("subscription", "approve", "task.*")

    assert approved.code == 1
    assert "flask subscription list" in approved.err


def test_only_our_own_subscription_can_be_cancelled(run: RunFlask, scene: Scene) -> None:
    theirs = subscribe(scene.connection, "task.*")

    said = run("subscription", "cancel", theirs.public_id)

    assert said.code == 2
    assert "flask subscription revoke" in said.err


def test_a_pattern_names_the_live_subscription(run: RunFlask, scene: Scene) -> None:
    subscribe(scene.connection, "task.*", Direction.INCOMING, status=SubscriptionStatus.CANCELLED)
    live = subscribe(scene.connection, "task.*", Direction.INCOMING)

    cancelled = run("subscription", "cancel", "task.*", "-o", "json").json

    assert (cancelled["id"], cancelled["status"], cancelled["isActive"]) == (
        live.public_id,
        "cancelled",
        False,
    )


def test_a_pattern_of_several_subscriptions_is_not_enough(run: RunFlask, scene: Scene) -> None:
    subscribe(scene.connection, "task.*", Direction.INCOMING)
    subscribe(scene.connection, "task.*")

    said = run("subscription", "cancel", "task.*")

    assert said.code == 2
    assert "Several subscriptions" in said.err


def test_subscribing_twice_is_refused_here(run: RunFlask, scene: Scene, connected: str) -> None:
    subscribe(scene.connection, "task.*", Direction.INCOMING)

    said = run("subscription", "create", connected, "task.*")

    assert said.code == 1
    assert "flask subscription list" in said.err


@pytest.mark.parametrize(
    ("args", "code"),
    [(["*"], 2), (["Task.*"], 2), (["task.*", "--metadata", "[]"], 2), (["task.*", "--metadata", "{"], 2)],
)
def test_a_subscription_without_sense_is_a_usage_error(
    run: RunFlask, connected: str, args: list[str], code: int
) -> None:
    assert run("subscription", "create", connected, *args).code == code


# Doctor


def test_the_doctor_names_each_failed_check_with_its_fix(flask: RunFlask, made: Any) -> None:
    said = flask("doctor")
    as_json = flask("doctor", "-o", "json")

    assert said.code == as_json.code == 1
    assert "ok    database: " in said.out
    assert "FAIL  worker: " in said.out
    assert "flask up" in said.out
    assert "checks failed" in said.err
    assert '"ok": false' in as_json.out
