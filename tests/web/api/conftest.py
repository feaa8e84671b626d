"""What tests of the API stand on: a workspace with an active connection, and a caller with a token."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.access import tokens
from app.access.tokens import Scope
from app.clock import now_ms
from app.database import transaction
from tests.exchange import Scene, make_scene

PREFIX = "/api/v1/federation"


@dataclass
class Caller:
    """Calls the API with a token."""

    client: FlaskClient
    secret: str

    def get(self, path: str, **query: Any) -> TestResponse:
        """GET below the API's prefix."""
        return self.client.get(PREFIX + path, query_string=query, headers=self.headers())

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> TestResponse:
        """POST JSON below the API's prefix; bytes are sent as they are."""
        given = {"data": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        more = {"Content-Type": "application/json"} if isinstance(body, bytes) else {}
        return self.client.post(PREFIX + path, headers=self.headers() | more | (headers or {}), **given)

    def headers(self) -> dict[str, str]:
        """What every call carries."""
        return {"Authorization": f"Bearer {self.secret}"}

    def all(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """All rows of a list, page by page."""
        rows: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.get(path, **query, **cursor).json
            rows += page["data"]
            if not page["hasMore"]:
                return rows
            cursor = {"cursor": page["nextCursor"]}


@pytest.fixture
def scene(app: Flask) -> Scene:
    """A workspace with an active connection to a peer."""
    made = make_scene()
    with transaction():
        made.connection.checked_at = now_ms()
    return made


#: caller_for(workspace_id, *scopes)
CallerFor = Callable[..., Caller]


@pytest.fixture
def caller_for(client: FlaskClient) -> CallerFor:
    """caller_for(workspace_id, *scopes): a caller with a new token, `admin` if no scope is named."""

    def make(workspace_id: int, *scopes: str) -> Caller:
        _, secret = tokens.create(workspace_id, "test", scopes or (Scope.ADMIN,))
        return Caller(client, secret)

    return make


@pytest.fixture
def caller(scene: Scene, caller_for: CallerFor) -> Caller:
    """A caller of the scene's workspace who may do everything."""
    return caller_for(scene.workspace.id)
