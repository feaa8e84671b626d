"""The same instance on PostgreSQL: the fixture `subject` of the tests in this folder."""

import os
from collections.abc import Iterator

import pytest

from tests.conformance import launch
from tests.conformance.subject import Subject
from tests.engines import PostgreSQL


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Subject]:
    """The instance under test, with a database in PostgreSQL."""
    if "TIDINGS_URL" in os.environ:
        pytest.skip("a running instance was named")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = server.create()
    url = server.url(name).replace("postgresql://", "postgresql+psycopg://", 1)
    with launch.instance(tmp_path_factory.mktemp("on-postgresql"), DATABASE_URL=url) as started:
        yield started
    server.drop(name)
