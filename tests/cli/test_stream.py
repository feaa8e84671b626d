"""`flask stream`: up to where a connection is complete, and having events sent again."""

from typing import Any

import pytest
import sqlalchemy as sa

from app.cli.output import Exit
from app.database import db, transaction
from app.federation import controls, lifecycle
from app.inbox import stream as streams
from app.models import ControlOut, Replay
from tests.cli.conftest import RunFlask
from tests.exchange import Scene

EPOCH = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def run(flask: RunFlask, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> RunFlask:
    """Run `flask ARGS` in the scene's workspace; nobody answers at the other side."""
    monkeypatch.setattr(controls, "WAIT_S", 0.0)
    return lambda *args: flask(*args, "--workspace", scene.workspace.slug)


@pytest.fixture
def holed(scene: Scene) -> Scene:
    """1 to 4 and 8 came, 6 is lost, 7 was erased, 5 is missing, and 10 was told."""
    with transaction():
        lifecycle.lock(scene.connection.id)
        stream = streams.open_stream(scene.connection.id, EPOCH)
        streams.came(stream, [1, 2, 3, 4, 8])
        streams.account(stream, 6, 6, streams.LOST)
        streams.account(stream, 7, 7, "erased")
        streams.note_head(stream, 10)
    return scene


def test_status_says_up_to_where_it_is_complete_and_what_is_missing_because(
    run: RunFlask, holed: Scene
) -> None:
    said = run("stream", "status", holed.connection.public_id)

    assert said.code == Exit.OK
    assert f"incoming: complete up to sequence 4 of 10 (epoch {EPOCH})" in said.out
    lines = [line.split() for line in said.out.splitlines()]
    assert [line[:3] for line in lines if line and line[0].isdigit()] == [
        ["5", "5", "missing"],
        ["6", "6", "lost"],
        ["7", "7", "erased"],
        ["9", "10", "missing"],
    ]
    assert "asked for three times in vain" in said.out
    assert "outgoing: nothing yet" in said.out


def test_status_as_json_is_what_the_api_answers(run: RunFlask, holed: Scene) -> None:
    shown: dict[str, Any] = run("stream", "status", holed.connection.public_id, "-o", "json").json

    assert shown["incoming"]["contiguous"] == 4
    assert shown["incoming"]["missing"][0] == {"fromSequence": 5, "toSequence": 5, "reason": "missing"}
    assert shown["outgoing"] == {
        "streamEpoch": None, "contiguous": 0, "headSequence": 0, "missing": [], "earlier": [],
        "wentBackAt": None,
    }  # fmt: skip


def test_replay_asks_and_says_that_nobody_has_answered_yet(run: RunFlask, scene: Scene) -> None:
    said = run(
        "stream", "replay", scene.connection.public_id, "--from", "3", "--since", "2026-01-01",
        "--type", "task.*", "-o", "json",
    )  # fmt: skip

    assert (said.json["status"], said.json["requestedBy"]) == ("requested", "command line")
    assert said.json["since"] == "2026-01-01T00:00:00.000Z"
    assert "has not answered yet" in said.err
    [body] = db.session.scalars(sa.select(ControlOut.body))
    assert '"fromSequence":3' in body
    assert '"since":1767225600000' in body


@pytest.mark.parametrize(
    "wrong", [("--from", "5", "--to", "4"), ("--type", "*"), ("--from", "0"), ("--since", "yesterday")]
)
def test_what_cannot_be_asked_is_a_usage_error(run: RunFlask, scene: Scene, wrong: tuple[str, ...]) -> None:
    said = run("stream", "replay", scene.connection.public_id, *wrong)

    assert said.code == Exit.USAGE
    assert db.session.scalar(sa.select(sa.func.count()).select_from(Replay)) == 0


def test_an_unknown_connection_is_not_found(run: RunFlask) -> None:
    assert run("stream", "status", "0f").code == Exit.NOT_FOUND
