"""The supervisor: real instances, real signals, nothing left behind."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app import embedded, supervisor
from tests.e2e.instance import Instance
from tests.engines import until

pytestmark = pytest.mark.e2e


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """One instance on SQLite that is not up yet; the supervisor is the same on both engines."""
    made = Instance("alpha", tmp_path)
    yield made
    made.stop()


def lives(pid: int) -> bool:
    """Whether the process runs; one that ended and waits to be taken leave of does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def web_processes(instance: Instance) -> set[int]:
    """The processes of the web server, its arbiter included."""
    arbiter = instance.pid("web")
    children = Path(f"/proc/{arbiter}/task/{arbiter}/children").read_text().split()
    return {arbiter, *map(int, children)}


def valkey_of(instance: Instance) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(embedded.socket_path(Path(instance.environ["DATA_DIR"]))))


def test_an_instance_starts_from_nothing_and_ends_with_nothing_left(instance: Instance) -> None:
    instance.start(init=False)
    pids = instance.pids() | web_processes(instance)

    assert instance.api("GET", "/healthz").status == 200
    assert instance.stop() == 0
    assert [pid for pid in pids if lives(pid)] == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(instance.base_url.rpartition(":")[2]))) != 0


def test_ctrl_c_ends_it_as_a_signal_does(instance: Instance) -> None:
    instance.start(init=False)

    assert instance.stop(signal.SIGINT) == 0
    assert "Traceback" not in instance.log()


def test_killing_the_supervisor_leaves_no_orphans(instance: Instance) -> None:
    instance.start(init=False)
    pids = instance.pids() | web_processes(instance)

    instance.kill9("up")

    until(lambda: not any(map(lives, pids)), "the end of all processes", 10)


@pytest.mark.parametrize("part", ["valkey", "worker 1", "worker failing", "scheduler", "web"])
def test_a_part_that_is_killed_is_there_again(instance: Instance, part: str) -> None:
    instance.start(init=False)

    killed = instance.kill9(part)

    instance.wait_for(lambda one: one.pid(part) != killed and lives(one.pid(part)), f"the new {part}", 10)
    instance.wait_for(lambda one: one.api("GET", "/healthz").status == 200, "an answer", 10)


def test_workers_are_known_again_after_redis_was_wiped_and_killed(instance: Instance) -> None:
    instance.start(init=False)
    workers = {f"{socket.gethostname()}:{instance.pid(f'worker {name}')}" for name in ("1", "2", "failing")}

    def known() -> bool:
        with valkey_of(instance) as client:
            return {name.decode() for name in client.zrange("tidings:workers", 0, -1)} >= workers

    until(known, "the workers")
    with valkey_of(instance) as client:
        client.flushall()
    until(known, "the workers after FLUSHALL")
    with valkey_of(instance) as client:
        client.flushall()
    instance.kill9("valkey")

    until(known, "the workers after kill -9")


def test_a_second_one_on_the_same_data_says_so_in_one_line(instance: Instance) -> None:
    instance.start(init=False)

    second = instance.run("up")

    assert second.returncode == 1
    [line] = second.stderr.splitlines()
    assert "already up" in line
    assert second.stdout == ""


def test_a_port_that_is_taken_is_one_line(instance: Instance) -> None:
    with socket.create_server(("127.0.0.1", int(instance.base_url.rpartition(":")[2]))):
        refused = instance.run("up")

    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert line.startswith(f"Error: BIND is '{instance.environ['BIND']}'")


def test_a_database_that_is_away_stops_the_start(instance: Instance) -> None:
    instance.environ["DATABASE_URL"] = "postgresql://u:hunter2@127.0.0.1:1/x"

    refused = instance.run("up")

    assert refused.returncode == 1
    assert "DATABASE_URL names a database that cannot be used" in refused.stderr
    assert "hunter2" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_deep_data_folder_does_not_stop_the_embedded_server(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    instance = Instance("alpha", deep)
    try:
        instance.start(init=False)
        with valkey_of(instance) as client:
            assert client.ping()
        folder = embedded.socket_path(Path(instance.environ["DATA_DIR"])).parent
    finally:
        instance.stop()

    assert not folder.exists()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps")
def test_an_instance_at_rest_needs_little_memory(instance: Instance) -> None:
    instance.start(init=False)
    pids = instance.pids() | web_processes(instance)

    def share_kb(pid: int) -> int:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))

    total_kb = sum(share_kb(pid) for pid in pids if lives(pid))

    assert total_kb < 350 * 1024


def test_restarts_come_later_each_time_up_to_a_bound() -> None:
    delays = [supervisor.restart_delay_s(failures) for failures in range(10)]

    assert delays[:4] == [0.1, 0.1, 0.2, 0.4]
    assert max(delays) == delays[-1] == 5.0
