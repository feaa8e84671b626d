"""Attacks on our own doors: tokens, pages, terminals, logs, and what a refusal gives away."""

import contextlib
import io
import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from app import log
from app.access import tokens
from app.access.tokens import PREFIX, Scope
from app.database import db
from app.federation import identity
from app.models import SigningKey, Token
from tests.conformance.foreign_peer import (
    CONNECTION,
    EVENT,
    EVENT_ACK,
    EVENTS,
    SUBSCRIPTION,
    Answer,
    ForeignPeer,
    exchange,
    problem,
)
from tests.conformance.wire import FEDERATION, Message, Transport, new_id, now_ms
from tests.security.conftest import SECRET_KEY, SEEN, Bond, MakeVictim, Victim, bind, refusal

MakePeer = Callable[..., ForeignPeer]


@contextlib.contextmanager
def statements(victim: Victim) -> Iterator[list[tuple[str, str]]]:
    """The SQL that runs meanwhile, and its parameters as text."""
    seen: list[tuple[str, str]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        seen.append((statement, repr(parameters)))

    with victim.app.app_context():
        engine = db.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def call(
    victim: Victim, method: str, path: str, secret: str | None, body: Any = None, *headers: tuple[str, str]
) -> Answer:
    """One call of the API."""
    sent = [("Content-Type", "application/json"), *headers]
    if secret is not None:
        sent.append(("Authorization", f"Bearer {secret}"))
    raw = None if body is None else json.dumps(body).encode()
    return exchange(victim.base_url, method, FEDERATION + path, sent, raw)


def shape(answer: Answer) -> tuple[Any, ...]:
    """All of a refusal that does not differ from one request to the next."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}
    body = {name: value for name, value in answer.value.items() if name != "requestId"}
    return answer.status, headers, body


@pytest.fixture(scope="module")
def secret(victim: Victim) -> str:
    """A token of the default workspace."""
    return victim.do(tokens.create, victim.workspace_id(), "test", (Scope.ADMIN,))[1]


# --- tokens ---


def guesses(secret: str) -> list[str]:
    """Tokens that are not the secret, from far off to nearly it."""
    last = "A" if secret[-1] != "A" else "B"
    return [
        PREFIX + secrets.token_urlsafe(32),
        secret[:12] + secrets.token_urlsafe(32)[: len(secret) - 12],
        secret[:-1] + last,
        secret[:-1],
        secret + "A",
        secret.swapcase(),
        PREFIX + "%",
        PREFIX + "' OR '1'='1",
        PREFIX,
    ]


def test_a_guessed_token_opens_nothing_and_is_told_nothing(victim: Victim, secret: str) -> None:
    with victim.unchanged():
        answers = [call(victim, "GET", "/connections", guess) for guess in guesses(secret)]

    assert {one.status for one in answers} == {401}
    assert len({json.dumps(shape(one)) for one in answers}) == 1


def test_a_token_is_compared_by_its_hash_alone(victim: Victim, secret: str) -> None:
    runs = []
    for guess in guesses(secret)[:3]:
        with statements(victim) as seen:
            call(victim, "GET", "/connections", guess)
        runs.append(seen)

    assert [[text for text, _ in run] for run in runs] == [[text for text, _ in runs[0]]] * 3
    assert secret[:11] not in repr(runs)
    [row] = victim.rows(Token, Token.name == "test")
    assert secret not in repr(vars(row))
    assert len(secret) >= len(PREFIX) + 43


def test_a_revoked_token_opens_nothing(victim: Victim) -> None:
    token, revoked = victim.do(tokens.create, victim.workspace_id(), "revoked", (Scope.ADMIN,))
    before = call(victim, "GET", "/connections", revoked)
    victim.do(tokens.revoke, victim.workspace_id(), token.public_id)

    after = call(victim, "POST", "/events/publish", revoked, {"eventType": "task.created", "payload": {}})

    assert (before.status, after.status) == (200, 401)


@pytest.mark.parametrize("scope", [Scope.EVENTS_READ, Scope.DELIVERIES_WRITE])
def test_a_token_does_no_more_than_its_scopes_say(victim: Victim, scope: Scope) -> None:
    _, small = victim.do(tokens.create, victim.workspace_id(), "small", (scope,))

    with victim.unchanged("token.last_used_at"):
        answer = call(victim, "POST", "/events/publish", small, {"eventType": "task.created", "payload": {}})

    assert refusal(answer) == (403, "access_denied")


@pytest.mark.parametrize(
    "header", [("Cookie", "token={}"), ("X-Api-Key", "{}"), ("Proxy-Authorization", "Bearer {}")]
)
def test_a_browser_sends_no_token_by_itself(victim: Victim, secret: str, header: tuple[str, str]) -> None:
    name, value = header

    with victim.unchanged():
        answer = call(
            victim,
            "POST",
            "/events/publish",
            None,
            {"eventType": "task.created", "payload": {}},
            (name, value.format(secret)),
            ("Origin", "https://evil.example"),
        )

    assert answer.status == 401
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert "set-cookie" not in answer.headers


# --- pages and terminals ---

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


@pytest.mark.parametrize(
    "event_type",
    [
        HOSTILE,
        "task.{{7*7}}",
        "task.\x1b[2J",
        "task..created",
        "TASK.created",
        "task.créé",
        "a." * 8 + "a",
        "'",
    ],
)
def test_a_hostile_event_type_is_refused(bond: Bond, secret: str, event_type: str) -> None:
    with bond.victim.unchanged(SEEN, "token.last_used_at"):
        from_peer = bond.peer.send_event(bond.link.remote, bond.peer.event(event_type), bond.link)
        body = {"eventType": event_type, "payload": {}}
        from_ours = call(bond.victim, "POST", "/events/publish", secret, body)

    for answer in (from_peer, from_ours):
        assert refusal(answer) == (400, "invalid_request")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_hostile_strings_are_text_on_the_pages(make_victim: MakeVictim) -> None:
    victim = make_victim(INSTANCE_NAME=HOSTILE)

    for path in ("/", "/api/docs", f"/{HOSTILE}", f"/api/docs?q={HOSTILE}"):
        answer = exchange(victim.base_url, "GET", path.replace(" ", "%20"), [], None)
        is_html = answer.headers["content-type"].startswith("text/html")
        text = answer.body.decode()
        assert answer.headers["content-security-policy"].startswith("default-src '")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not is_html or "<script>alert" not in text
        assert not is_html or "<img src=x" not in text


def test_hostile_strings_of_a_peer_are_data_in_the_api(bond: Bond, secret: str) -> None:
    payload = {"text": HOSTILE, "\u2028": "\u202e"}
    sent = bond.peer.send_event(bond.link.remote, bond.peer.event("task.created", payload, subject=HOSTILE))

    listed = call(bond.victim, "GET", "/events/messages?direction=incoming&limit=1", secret)

    assert sent.status == 200
    assert listed.value["data"][0]["payload"] == payload
    assert listed.headers["content-type"] == "application/json"
    assert listed.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_peers_words_do_not_move_the_cursor_of_a_terminal(
    make_victim: MakeVictim, stranger: ForeignPeer, output: str
) -> None:
    victim = make_victim()
    stranger.document_changes = {"name": "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202e name"}
    link = stranger.request_connection(victim.base_url, note="\x1b[31m\r\nnote")
    victim.settle()
    connection = victim.connection(link)
    run = victim.app.test_cli_runner().invoke

    listed = run(args=["connection", "list", "-o", output])
    shown = run(args=["connection", "show", connection.public_id, "-o", output])
    failed = run(args=["connection", "preview", "http://127.0.0.1:1/\x1b[2J", "-o", output])

    assert (listed.exit_code, shown.exit_code) == (0, 0)
    assert "owned" in listed.output + shown.output
    for result in (listed, shown, failed):
        assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.output) == []


# --- logs ---


@contextlib.contextmanager
def logs() -> Iterator[io.StringIO]:
    """What the instance's own logging writes at the level DEBUG."""
    root, stream = logging.getLogger(), io.StringIO()
    kept = root.level, {name: logging.getLogger(name).level for name in log.TALKATIVE}
    log.configure(stream, as_json=True, level=logging.DEBUG)
    try:
        yield stream
    finally:
        for handler in [one for one in root.handlers if getattr(one, "stream", None) is stream]:
            root.removeHandler(handler)
        root.setLevel(kept[0])
        for name, level in kept[1].items():
            logging.getLogger(name).setLevel(level)


def private_key(victim: Victim) -> str:
    """The instance's private key, in clear."""
    [row] = victim.rows(SigningKey)
    return victim.do(identity.unsealed, row)


def test_no_secret_and_no_payload_is_in_the_logs(make_victim: MakeVictim, make_peer: MakePeer) -> None:
    marker = f"payload-{new_id()}"
    with logs() as stream:
        victim = make_victim()
        peer = make_peer()
        bond = bind(victim, peer)
        _, token = victim.do(tokens.create, victim.workspace_id(), "test", (Scope.ADMIN,))
        event = {"eventType": "task.created", "payload": {"secret": marker}}
        published = call(victim, "POST", "/events/publish", token, event, ("Idempotency-Key", new_id()))
        peer.answer_with(EVENTS, problem("internal_error"))
        victim.drain(bond.connection_id)
        peer.publish(bond.link, peer.event("task.created", {"secret": marker}))
        peer.send_event(bond.link.remote, {**peer.event("task.created", {"secret": marker}), "extra": 1})
        unsigned = peer.event("task.created", {"secret": marker})
        peer.send_event(bond.link.remote, unsigned, None, Transport(signature_input="tidings=()"))
        call(victim, "POST", "/events/publish", token, {"eventType": marker, "payload": {"secret": marker}})
        call(victim, "GET", "/connections", token + "x")
        call(victim, "GET", "/connections", token)
        _break_the_database(victim, token, event)
    text, [key] = stream.getvalue(), victim.rows(SigningKey)

    assert published.status == 202
    assert '"peer.refused"' in text
    assert "http.answered" in text
    assert "database.unavailable" in text
    lines = private_key(victim).splitlines()[1:-1]
    for hidden in (marker, token, token[len(PREFIX) :], SECRET_KEY, "PRIVATE KEY", *lines):
        assert hidden not in text
    assert key.private_key_sealed not in text


def _break_the_database(victim: Victim, token: str, event: Message) -> None:
    """Publish where the statement that stores the event fails."""
    with victim.app.app_context(), db.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE event RENAME TO event_gone"))
    assert call(victim, "POST", "/events/publish", token, event).status in (500, 503)


def test_a_line_of_a_stranger_is_one_line_of_the_log(victim: Victim, stranger: ForeignPeer) -> None:
    with logs() as stream:
        exchange(victim.base_url, "POST", "/x%0d%0afake%20line", [("X-Request-Id", "a b{}")], b"")
        stranger.send_event(
            stranger.pin(victim.base_url),
            stranger.event("task.created"),
            None,
            Transport(signature_input='tidings=("\\n{\\"event\\":\\"fake\\"}")'),
        )
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]

    assert {"http.answered", "peer.refused"} <= {entry["event"] for entry in entries}
    assert "fake" not in {entry["event"] for entry in entries}


# --- oracles ---


def named(peer: ForeignPeer, what: str, connection_id: str, instance_id: str) -> tuple[str, Message]:
    """Path and body of a message that names a connection."""
    if what == EVENT:
        return f"{EVENT}?connectionId={connection_id}", peer.event("task.created", instanceId=instance_id)
    if what == EVENTS:
        entry = {"sequence": 1, "event": peer.event("task.created", instanceId=instance_id)}
        ids = {"batchId": new_id(), "connectionId": connection_id, "streamEpoch": new_id()}
        return EVENTS, {**ids, "events": [entry]}
    common = {
        "messageId": new_id(),
        "instanceId": instance_id,
        "connectionId": connection_id,
        "timestamp": now_ms(),
    }
    if what == EVENT_ACK:
        ack = {"correlationId": new_id(), "received": True, "status": "stored", "digest": "A" * 43 + "="}
        return EVENT_ACK, peer.key.sign("ack", common | ack)
    kind = "heartbeat" if what == CONNECTION else "subscription.cancel"
    payload = (
        {"streamEpoch": new_id(), "headSequence": 1, "oldestSequence": 1}
        if what == CONNECTION
        else {"subscriptionId": new_id()}
    )
    return what, peer.key.sign(
        "control", common | {"type": kind, "controlSequence": 9_999, "payload": payload}
    )


PATHS = [EVENT, EVENTS, EVENT_ACK, CONNECTION, SUBSCRIPTION]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("claims_the_peers_name", [False, True])
def test_a_refused_stranger_does_not_learn_which_connections_exist(
    bond: Bond, stranger: ForeignPeer, path: str, claims_the_peers_name: bool
) -> None:
    name = bond.peer.instance_id if claims_the_peers_name else stranger.instance_id
    claim = Transport(instance_id=name, key_id=bond.peer.key.key_id)
    found = []

    with bond.victim.unchanged():
        for connection_id in (bond.link.connection_id, new_id()):
            target, body = named(stranger, path, connection_id, name)
            with statements(bond.victim) as seen:
                answer = stranger.post(bond.base_url, target, body, claim)
            found.append((shape(answer), seen))

    (existing, work), (unknown, other_work) = found
    assert existing == unknown
    assert existing[0] == 401
    assert work == other_work


@pytest.mark.parametrize("path", PATHS)
def test_a_connected_peer_does_not_learn_which_connections_others_have(
    bond: Bond, other_bond: Bond, path: str
) -> None:
    found = []

    with bond.victim.unchanged():
        for connection_id in (other_bond.link.connection_id, new_id()):
            target, body = named(bond.peer, path, connection_id, bond.peer.instance_id)
            with statements(bond.victim) as seen:
                answer = bond.peer.post(bond.base_url, target, body)
            found.append((shape(answer), [text for text, _ in seen]))

    (others, work), (unknown, other_work) = found
    assert others == unknown
    assert others[0] == 403
    assert work == other_work


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_instance_and_a_forged_signature_are_answered_alike(
    bond: Bond, stranger: ForeignPeer, path: str
) -> None:
    with bond.victim.unchanged():
        unknown = stranger.post(bond.base_url, *named(stranger, path, new_id(), stranger.instance_id))
        target, body = named(stranger, path, bond.link.connection_id, bond.peer.instance_id)
        claim = Transport(instance_id=bond.peer.instance_id, key_id=bond.peer.key.key_id)
        forged = stranger.post(bond.base_url, target, body, claim)

    assert shape(unknown) == shape(forged)
    assert refusal(forged) == (401, "authentication_failed")


def test_a_connection_request_is_answered_alike_whatever_exists(bond: Bond, stranger: ForeignPeer) -> None:
    remote = stranger.pin(bond.base_url)
    shapes = []

    for members in ({}, {"toWorkspace": "default"}, {"toWorkspace": "nowhere"}):
        for connection_id in (bond.link.connection_id, None):
            link, message = stranger.connection_request(remote, connection_id, **members)
            answer = stranger.send_control(link, message)
            shapes.append(
                (answer.status, answer.value["status"], sorted(answer.value), sorted(answer.headers))
            )

    assert shapes[0][:2] == (202, "pending")
    assert shapes == [shapes[0]] * 6


def test_a_fault_of_ours_tells_nothing_of_it(
    make_victim: MakeVictim, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = make_victim()
    _, token = victim.do(tokens.create, victim.workspace_id(), "test", (Scope.ADMIN,))
    victim.app.testing = False

    def fault(*_args: Any, **_named: Any) -> None:
        raise RuntimeError("the words of a fault")

    monkeypatch.setattr("app.web.api.connections.list_connections", fault)
    answer = call(victim, "GET", "/connections", token)

    assert refusal(answer) == (500, "internal_error")
    assert b"fault" not in answer.body.replace(b"The fault was logged", b"")
    assert b"Traceback" not in answer.body
