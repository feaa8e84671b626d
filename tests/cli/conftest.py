"""Commands run in this process, on each engine."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from flask import Flask

from app.federation import identity
from tests.exchange import Scene, make_scene


class Said(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as one JSON document."""
        assert self.code == 0, self
        return json.loads(self.out)


#: flask("event", "list", given="..."): runs a command.
RunFlask = Callable[..., Said]


@pytest.fixture
def flask(app: Flask) -> RunFlask:
    """Run `flask ARGS` on `app`; given: its stdin."""
    identity.forget()

    def run(*args: str, given: str = "") -> Said:
        result = app.test_cli_runner().invoke(args=list(args), input=given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def made(flask: RunFlask) -> Any:
    """What `flask init` made."""
    return flask("init", "-o", "json").json


@pytest.fixture
def scene(app: Flask) -> Scene:
    """A workspace with an active connection to a peer."""
    return make_scene()
