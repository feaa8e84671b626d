"""Who may call: tokens, scopes, workspaces."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.access import tokens, workspaces
from app.web.api.routes import api
from tests.exchange import Scene
from tests.web.api.conftest import PREFIX, Caller, CallerFor


@pytest.mark.parametrize("header", [None, "Bearer tdg_nobody", "Basic dTpw", "Bearer", "tdg_x"])
def test_a_call_without_a_good_token_is_401(scene: Scene, client: FlaskClient, header: str | None) -> None:
    answer = client.get(f"{PREFIX}/connections", headers={"Authorization": header} if header else {})

    assert answer.status_code == 401
    assert answer.mimetype == "application/problem+json"
    assert answer.json["code"] == "authentication_failed"
    assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="tidings"')
    # Of a token that was not sent, nothing is said.
    sent = header is not None and header.startswith("Bearer")
    assert ("invalid_token" in answer.headers["WWW-Authenticate"]) == sent


def test_a_revoked_token_is_401(scene: Scene, client: FlaskClient) -> None:
    token, secret = tokens.create(scene.workspace.id, "gone")
    tokens.revoke(scene.workspace.id, token.public_id)

    answer = Caller(client, secret).get("/connections")

    assert answer.status_code == 401


def test_a_missing_scope_is_403_and_named(scene: Scene, caller_for: CallerFor) -> None:
    reader = caller_for(scene.workspace.id, "events:read")

    answer = reader.post("/events/publish", {"eventType": "task.created", "payload": {}})

    assert answer.status_code == 403
    assert answer.json["code"] == "access_denied"
    assert "events:publish" in answer.json["detail"]
    assert 'scope="events:publish"' in answer.headers["WWW-Authenticate"]


def test_the_scope_is_checked_before_the_body(scene: Scene, caller_for: CallerFor) -> None:
    reader = caller_for(scene.workspace.id, "events:read")

    answer = reader.post("/events/publish", b"{")

    assert answer.status_code == 403


def test_each_call_but_the_document_wants_a_token(app: Flask, client: FlaskClient) -> None:
    guarded = [operation for operation in api.operations if operation.name != "show_instance"]

    statuses = {
        client.open(operation.rule.replace("<", "").replace(">", ""), method=operation.method).status_code
        for operation in guarded
    }

    assert len(guarded) >= 30
    assert statuses == {401}


@pytest.mark.parametrize(
    "path",
    [
        "/connections/{connection}",
        "/connections/{connection}/stream",
        "/events/messages/{message}",
    ],
)
def test_another_workspace_sees_404(scene: Scene, caller: Caller, caller_for: CallerFor, path: str) -> None:
    message = caller.post("/events/publish", {"eventType": "task.created", "payload": {}}).json["messageId"]
    path = path.format(connection=scene.connection.public_id, message=message)
    stranger = caller_for(workspaces.create("other").id)

    theirs, ours = stranger.get(path), caller.get(path)

    assert (theirs.status_code, ours.status_code) == (404, 200)
    assert theirs.json["code"] == "not_found"


def test_another_workspace_lists_nothing(scene: Scene, caller: Caller, caller_for: CallerFor) -> None:
    caller.post("/events/publish", {"eventType": "task.created", "payload": {}})
    stranger = caller_for(workspaces.create("other").id)

    lists = ["/connections", "/events/subscriptions", "/events/messages", "/deliveries"]

    assert [stranger.get(path).json["data"] for path in lists] == [[], [], [], []]
