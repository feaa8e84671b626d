"""Whether BASE_URL leads to this instance, and what is said when it does not."""

from collections.abc import Callable

import orjson
import pytest
from flask import Flask

from app.config import settings
from app.federation import identity, self_check
from tests.conftest import MakeApp
from tests.transport.conftest import serve
from tests.transport.hostile import HostileServer, Visit, always, answer

__all__ = ["serve"]

Serve = Callable[..., HostileServer]


def instance_at(make_app: MakeApp, server: HostileServer) -> Flask:
    """An instance whose BASE_URL is the server's."""
    app = make_app(BASE_URL=f"http://127.0.0.1:{server.port}")
    with app.app_context():
        identity.forget()
        identity.ensure_identity(settings())
    return app


def test_ones_own_document_is_known_again(make_app: MakeApp, serve: Serve) -> None:
    body: list[bytes] = []
    app = instance_at(make_app, serve(lambda visit: _say(visit, body)))
    with app.app_context():
        body.append(orjson.dumps(identity.instance_document()))

        found = self_check.read_own_document()

    assert found.ok
    assert "leads to this instance" in found.detail


def _say(visit: Visit, body: list[bytes]) -> None:
    visit.read_request()
    visit.send(answer(body[0], headers=("Content-Type: application/json",)))


@pytest.mark.parametrize(
    ("said", "detail", "fix"),
    [
        (answer(status="404 Not Found"), "answers 404", "pass every path on"),
        (
            answer(status="301 Moved", headers=("Location: https://other.example/",)),
            "cannot be reached",
            "Set BASE_URL to where the redirect leads",
        ),
        (answer(b"<html>"), "something else answers there", "Correct BASE_URL"),
    ],
)
def test_anything_else_is_told_with_what_to_do(
    make_app: MakeApp, serve: Serve, said: bytes, detail: str, fix: str
) -> None:
    app = instance_at(make_app, serve(always(said)))

    with app.app_context():
        found = self_check.read_own_document()

    assert not found.ok
    assert detail in found.detail
    assert fix in found.fix


def test_another_instance_at_our_address_is_noticed(make_app: MakeApp, serve: Serve) -> None:
    body: list[bytes] = []
    server = serve(lambda visit: _say(visit, body))
    other, ours = instance_at(make_app, server), instance_at(make_app, server)
    with other.app_context():
        body.append(orjson.dumps(identity.instance_document()))

    with ours.app_context():
        identity.forget()
        found = self_check.read_own_document()

    assert not found.ok
    assert "another instance answers there" in found.detail
