"""`flask event verify` and `flask event export`: evidence that real openssl checks."""

import re
import shutil
import subprocess
from pathlib import Path

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask

from app import clock
from app.config import settings
from app.database import db, transaction
from app.federation import rotation
from app.federation.peers import message_key
from app.inbox.receive import handle_incoming_event
from app.models import Delivery, Direction, Event, PeerKey, SigningKey
from app.outbox import deliver
from app.outbox.publish import NewEvent, publish_event, publish_events
from app.protocol.keys import Algorithm, KeyStatus, generate, seal
from app.protocol.messages import parse_event, verify_event
from tests.cli.conftest import RunFlask
from tests.exchange import Scene, connect, make_scene, subscribe

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not on PATH")


@pytest.fixture
def event(flask: RunFlask, scene: Scene) -> RunFlask:
    """Run `flask event ARGS` in the scene's workspace."""
    return lambda *args: flask("event", *args, "--workspace", scene.workspace.slug)


@pytest.fixture
def delivered(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> str:
    """The messageId of an event of ours that the peer acknowledged."""
    return deliver_one(scene, monkeypatch)


def deliver_one(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(deliver, "client", lambda: scene.peer)
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {"grüße": "€"})
    assert deliver.drain(scene.connection.id) == 1
    return published.message_id


@pytest.fixture
def received(scene: Scene) -> str:
    """The messageId of an event that the peer sent us."""
    subscribe(scene.connection, direction=Direction.INCOMING)
    message = parse_event(scene.peer.event(payload={"n": 1}))
    key = message_key([scene.connection.peer_id], message.key_id)
    db.session.rollback()
    handle_incoming_event(scene.connection, verify_event(message, key))
    return message.message_id


def results(event: RunFlask, message_id: str) -> tuple[bool, dict[str, str]]:
    said = event("verify", message_id, "-o", "json")
    document = orjson.loads(said.out)
    assert (said.code == 0) is document["valid"]
    return document["valid"], {found["check"]: found["result"] for found in document["findings"]}


def blocks(folder: Path) -> list[list[str]]:
    """The lines of each block of commands in the README."""
    found = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return [block.splitlines() for block in found]


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False)


def test_a_delivered_event_and_its_receipt_hold(event: RunFlask, scene: Scene, delivered: str) -> None:
    valid, found = results(event, delivered)

    receipt = f"receipt {scene.connection.public_id}"
    assert valid is True
    assert found == dict.fromkeys(
        ["signature", "key", "digest", f"{receipt} signature", f"{receipt} key", receipt], "holds"
    )


def test_the_verdict_is_in_words(event: RunFlask, delivered: str) -> None:
    said = event("verify", delivered)

    assert said.code == 0
    assert "Made by the key k-" in said.out
    assert "It says stored at" in said.out
    assert "its digest is that of this event" in said.out


def test_an_event_that_came_holds_and_its_receipt_is_with_its_sender(event: RunFlask, received: str) -> None:
    valid, found = results(event, received)

    assert valid is True
    assert found == {"signature": "holds", "key": "holds", "digest": "holds", "receipt": "missing"}


def test_an_event_that_nobody_acknowledged_says_so(event: RunFlask, scene: Scene) -> None:
    published = publish_event(scene.workspace.id, "task.created", {})

    valid, found = results(event, published.message_id)

    assert (valid, found["receipt"]) == (True, "missing")


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"body": sa.func.replace(Event.body, "task.created", "task.deleted")}, {"signature", "digest"}),
        ({"signature": "AAAA"}, {"signature"}),
        ({"key_id": "k-nobody"}, {"signature", "key"}),
        ({"digest": "A" * 43 + "="}, {"digest"}),
    ],
)
def test_what_was_altered_in_the_database_fails(
    event: RunFlask, scene: Scene, received: str, change: dict[str, object], failing: set[str]
) -> None:
    with transaction():
        db.session.execute(sa.update(Event).values(**change))

    valid, found = results(event, received)

    assert valid is False
    assert {check for check, result in found.items() if result == "fails"} == failing


@pytest.mark.parametrize(
    ("status", "not_after_s", "holds"),
    [("active", None, True), ("retired", 60, True), ("retired", -60, False), ("revoked", None, False)],
)
def test_the_key_must_have_been_valid_at_the_time_of_the_event(
    event: RunFlask, received: str, status: str, not_after_s: int | None, holds: bool
) -> None:
    now = clock.now_ms()
    with transaction():
        db.session.execute(
            sa.update(PeerKey).values(
                status=KeyStatus(status),
                not_after=None if not_after_s is None else now + not_after_s * 1000,
                revoked_at=now if status == "revoked" else None,
            )
        )

    valid, found = results(event, received)

    assert (valid, found["key"], found["signature"]) == (holds, "holds" if holds else "fails", "holds")


def test_an_event_that_nobody_knows_is_not_found(event: RunFlask, tmp_path: Path) -> None:
    said = [event("verify", "nothing"), event("export", "nothing", "--to", str(tmp_path / "x"))]

    assert [one.code for one in said] == [3, 3]
    assert not (tmp_path / "x").exists()


def test_a_folder_with_something_in_it_is_left_alone(event: RunFlask, received: str, tmp_path: Path) -> None:
    folder = tmp_path / "proof"
    folder.mkdir()
    (folder / "mine").write_text("mine")

    said = event("export", received, "--to", str(folder))

    assert said.code == 2
    assert "is not empty" in said.err
    assert [file.name for file in folder.iterdir()] == ["mine"]


@needs_openssl
@pytest.mark.parametrize("direction", ["outgoing", "incoming"])
def test_openssl_checks_the_exported_event_and_its_receipt(
    event: RunFlask, request: pytest.FixtureRequest, direction: str, tmp_path: Path
) -> None:
    message_id = request.getfixturevalue("delivered" if direction == "outgoing" else "received")
    folder = tmp_path / "proof"

    said = event("export", message_id, "--to", str(folder), "-o", "json").json

    assert sorted(file.name for file in folder.iterdir()) == said["files"]
    [of_event, of_receipt] = blocks(folder)
    checked = [run(block[0], folder) for block in (of_event, of_receipt)]
    assert [(one.returncode, one.stdout.strip()) for one in checked] == [(0, "Verified OK")] * 2
    key = orjson.loads((folder / "event.key.json").read_bytes())
    assert key["fingerprint"] in run(of_event[1], folder).stdout
    digest = run(of_event[2], folder).stdout.strip()
    receipt = orjson.loads((folder / "receipt-1.json").read_bytes())
    assert digest in [entry["digest"] for entry in receipt.get("acks", [receipt])]
    assert orjson.loads((folder / "event.json").read_bytes())["messageId"] == message_id


@needs_openssl
@pytest.mark.parametrize(("number", "index"), [(2, 0), (2, 1), (5, 2), (5, 4)])
def test_openssl_goes_from_an_event_to_the_root_that_it_shares_a_signature_for(
    event: RunFlask, scene: Scene, number: int, index: int, tmp_path: Path
) -> None:
    published = publish_events(
        scene.workspace.id, [NewEvent("task.created", {"n": n}) for n in range(number)]
    )
    folder = tmp_path / "proof"

    valid, found = results(event, published[index].message_id)
    event("export", published[index].message_id, "--to", str(folder))

    [lines] = blocks(folder)
    ran = [run(line, folder) for line in lines]
    assert (valid, found["signature"]) == (True, "holds")
    assert {one.returncode for one in ran} == {0}
    assert ran[0].stdout.strip() == "Verified OK"
    assert ran[-1].stdout.strip() == "It is in the tree that was signed."
    altered = folder / "event.leaf"
    altered.write_bytes(altered.read_bytes().replace(b"task.created", b"task.deleted"))
    assert [run(line, folder) for line in lines][-1].returncode != 0


@needs_openssl
def test_openssl_refuses_what_was_altered_afterwards(event: RunFlask, received: str, tmp_path: Path) -> None:
    folder = tmp_path / "proof"
    event("export", received, "--to", str(folder))
    signed = folder / "event.signed"

    signed.write_bytes(signed.read_bytes().replace(b"task.created", b"task.deleted"))

    assert run(blocks(folder)[0][0], folder).returncode != 0


@needs_openssl
def test_openssl_checks_what_an_ed25519_key_signed(
    app: Flask, flask: RunFlask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = generate(Algorithm.ED25519)
    with transaction():
        db.session.add(
            SigningKey(
                key_id=made.key_id,
                algorithm=Algorithm.ED25519,
                public_key_pem=made.public_key_pem,
                fingerprint=made.fingerprint,
                private_key_sealed=seal(made.private_key_pem, settings().secret_key),
                status=KeyStatus.ACTIVE,
                not_before=clock.now_ms(),
            )
        )
    scene = make_scene()
    message_id = deliver_one(scene, monkeypatch)
    folder = tmp_path / "proof"

    flask("event", "export", message_id, "--to", str(folder), "--workspace", scene.workspace.slug)

    checked = run(blocks(folder)[0][0], folder)
    assert "pkeyutl" in blocks(folder)[0][0]
    assert (checked.returncode, checked.stdout.strip()) == (0, "Signature Verified Successfully")


@needs_openssl
def test_a_receipt_for_the_former_signature_still_proves_the_event(
    event: RunFlask, scene: Scene, delivered: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [old] = db.session.scalars(sa.select(SigningKey.key_id))
    db.session.rollback()
    other = make_other(scene)
    rotation.revoke(old)
    with transaction():
        db.session.execute(sa.text("DELETE FROM key_told"))
    deliver.drain(other)
    folder = tmp_path / "proof"

    valid, found = results(event, delivered)
    event("export", delivered, "--to", str(folder))

    assert {check: found[check] for check in found if check.startswith("receipt")} == {
        check: "holds" for check in found if check.startswith("receipt")
    }
    assert valid is True
    assert (folder / "former-1.signed").exists()
    assert all(run(block[0], folder).returncode == 0 for block in blocks(folder))


def make_other(scene: Scene) -> int:
    """Another connection that waits for the same event; its row number."""
    connection = connect(scene.workspace, scene.peer)
    subscribe(connection)
    with transaction():
        [first] = db.session.scalars(sa.select(Delivery))
        db.session.add(
            Delivery(
                workspace_id=first.workspace_id,
                event_id=first.event_id,
                connection_id=connection.id,
                event_type=first.event_type,
                state="pending",
                next_attempt_at=0,
                created_at=first.created_at,
            )
        )
    return connection.id
