"""`flask instance`, and what every command looks at first: whether this is the instance that is meant."""

import uuid
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from tests.cli.conftest import RunFlask

OTHER = str(uuid.uuid4())


@pytest.fixture
def misnamed(app: Flask, made: Any) -> str:
    """Id of the instance, whose INSTANCE_ID is set to another one."""
    app.extensions["tidings"] = replace(app.extensions["tidings"], instance_id=OTHER)
    return str(made["instanceId"])


@pytest.mark.parametrize(
    "args",
    [("instance", "show"), ("connection", "list"), ("init",), ("web",), ("worker",), ("schedule",)],
)
def test_another_instance_id_than_that_of_the_database_ends_a_command(
    flask: RunFlask, misnamed: str, args: tuple[str, ...]
) -> None:
    said = flask(*args)

    assert said.code == 1
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith(f"Error: INSTANCE_ID is {OTHER}, but this database belongs to {misnamed}.")


def test_the_doctor_says_that_the_instance_id_is_another_one(flask: RunFlask, misnamed: str) -> None:
    said = flask("doctor")

    assert said.code == 1
    assert f"FAIL  identity: INSTANCE_ID is {OTHER}, but this database belongs to {misnamed}." in said.out
    assert "Give INSTANCE_ID as the database has it" in said.out


def test_the_instance_id_of_the_database_may_be_set(flask: RunFlask, app: Flask, made: Any) -> None:
    app.extensions["tidings"] = replace(app.extensions["tidings"], instance_id=made["instanceId"])

    assert flask("instance", "show", "-o", "json").json["instanceId"] == made["instanceId"]
