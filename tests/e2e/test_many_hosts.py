"""An instance on several hosts: they die in turn and are replaced in turn, and nothing is lost or refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drills.load import Load
from drills.proof import Book, Subscriber, compare, wait_until_final
from drills.wire import Wire
from tests import engines
from tests.e2e.hosts import Cluster
from tests.e2e.instance import Instance, connect, subscribe

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240), pytest.mark.parametrize("engine", ["postgresql"])]

EVENT_TYPE = "task.created"


@pytest.fixture
def cluster(
    make_instance: Callable[..., Instance],
    postgresql: engines.PostgreSQL,
    valkey: engines.Valkey,
    tmp_path: Path,
) -> Iterator[Cluster]:
    """An instance on two hosts that are up."""
    balancer, database = Wire(), postgresql.create()
    folder = tmp_path / "cluster"
    folder.mkdir()
    made = Cluster(
        folder, balancer, hosts=2, DATABASE_URL=postgresql.url(database), REDIS_URL=valkey.fresh_url()
    )
    try:
        yield made.start()
    finally:
        made.stop()
        balancer.close()
        postgresql.drop(database)


@pytest.fixture
def subscriber(cluster: Cluster, make_instance: Callable[..., Instance]) -> tuple[Instance, Subscriber]:
    """An ordinary instance that is connected and subscribed to the one on two hosts."""
    beta = make_instance("beta").start()
    here, _ = connect(beta, cluster)
    subscribe(beta, cluster, EVENT_TYPE, here)
    return beta, Subscriber(Book(beta.environ["DATABASE_URL"]), here)


def test_hosts_that_are_killed_in_turn_lose_nothing(
    cluster: Cluster, subscriber: tuple[Instance, Subscriber], engine: str
) -> None:
    with Load(cluster.base_url, cluster.token, EVENT_TYPE) as load:
        for host in cluster.hosts:
            load.wait_for(60)
            host.kill9()
            load.wait_for(60)
            host.start()

    assert_complete(cluster, subscriber[1], load)


def test_nothing_is_refused_while_web_and_worker_processes_are_replaced(
    cluster: Cluster, subscriber: tuple[Instance, Subscriber], engine: str
) -> None:
    with Load(cluster.base_url, cluster.token, EVENT_TYPE, pause_s=0.02, size=5) as load:
        for part in ("web", "worker"):
            for host in cluster.hosts:
                load.wait_for(40)
                host.replace(part)
        load.wait_for(40)

    assert load.repeated == 0
    assert_complete(cluster, subscriber[1], load)
    assert all("Traceback" not in host.log() for host in cluster.hosts)


def assert_complete(cluster: Cluster, subscriber: Subscriber, load: Load) -> None:
    """Everything that was accepted is at the subscriber, once and in order, and nothing waits."""
    own = Book(cluster.environ["DATABASE_URL"])
    assert wait_until_final((own, subscriber.book), 120) == 0
    tally = compare(EVENT_TYPE, load.accepted, own.outgoing(EVENT_TYPE), [subscriber])
    assert tally.is_clean, tally
    assert tally.accepted == len(load.accepted) > 0
