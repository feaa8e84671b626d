"""Whole instances in processes of their own, on each engine."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.instance import Instance

#: make_instance(name, SETTING=...): an instance that is not started yet.
MakeInstance = Callable[..., Instance]


@pytest.fixture
def make_instance(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeInstance]:
    """make_instance(name, SETTING=...): one with its own folder, port and database; stopped at the end."""
    made: list[Instance] = []
    with contextlib.ExitStack() as databases:

        def make(name: str = "alpha", **environ: str) -> Instance:
            folder = tmp_path / name
            folder.mkdir()
            if engine == "postgresql":
                server = request.getfixturevalue("postgresql")
                database = server.create()
                databases.callback(server.drop, database)
                environ = {"DATABASE_URL": server.url(database), **environ}
            made.append(Instance(name, folder, **environ))
            return made[-1]

        yield make
        for instance in made:
            instance.stop()


@pytest.fixture
def instance(make_instance: MakeInstance) -> Instance:
    """One instance that is up."""
    return make_instance().start()


@pytest.fixture
def pair(make_instance: MakeInstance) -> tuple[Instance, Instance]:
    """Two instances that are up and may call each other."""
    alpha, beta = make_instance("alpha"), make_instance("beta")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Instance.start, (alpha, beta)))
    return alpha, beta
