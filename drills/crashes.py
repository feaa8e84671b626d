"""Crashes: processes die at any instant, Redis forgets all it knew, the database server is killed."""

from drills.drill import Skipped, Tally, drill
from drills.world import PARTS, Station, World
from tests.engines import OwnPostgreSQL, until


@drill("kill-9", "kill -9 of a random process {times} times under load", times=50, times_short=8)
def kill_processes(world: World) -> Tally:
    """Any part of either instance, the supervisor with all its parts among them."""
    pair = world.pair()
    with world.load(pair, "kill-9") as load:
        for _ in range(world.times):
            load.wait_for(world.breath)
            while not world.rng.choice(pair[:2]).kill(world.rng.choice(PARTS)):
                pass  # It was dead already; another one.
        load.wait_for(world.breath)
    return world.prove(pair, load)


@drill("flushall", "FLUSHALL at both sides {times} times under load", times=5, times_short=2)
def flush_redis(world: World) -> Tally:
    """All wake-ups, nonces, limits and queues are gone."""
    pair = world.pair()
    with world.load(pair, "flushall") as load:
        for _ in range(world.times):
            for station in pair[:2]:
                load.wait_for(world.breath)
                with station.redis() as client:
                    client.flushall()
        load.wait_for(world.breath)
    return world.prove(pair, load)


@drill(
    "postgresql",
    "PostgreSQL of both sides killed and started again {times} times under load",
    times=5,
    engine="postgresql",
)
def kill_postgresql(world: World) -> Tally:
    """All its processes at once; for a moment nothing can be accepted."""
    if not isinstance(world.server, OwnPostgreSQL):
        raise Skipped("TEST_DATABASE_URL names a server that is not ours to kill")
    pair = world.pair()
    with world.load(pair, "postgresql") as load:
        for _ in range(world.times):
            load.wait_for(world.breath)
            world.server.kill9()
            load.wait_for_refusals(2)
            world.server.start()
        load.wait_for(world.breath)
    tally = world.prove(pair, load)
    # A web process notices at its next request that its connections to the database are gone, and answers
    # that one with 503; the next drill shall not meet it.
    for station in pair[:2]:
        until(lambda one=station: _answers_well(one), "good answers of all web processes")
    return tally


def _answers_well(station: Station) -> bool:
    return all(station.api("GET", "/connections").status == 200 for _ in range(10))
