"""Backups: a side comes back with an older database."""

from collections.abc import Callable

from drills.drill import Tally, drill
from drills.load import Load
from drills.proof import compare
from drills.world import Pair, Station, World


@drill("restore-receiver", "receiver restored from a backup that is older than its last events")
def restore_receiver(world: World) -> Tally:
    """It says that it has less than before, and asks for what it lost."""
    pair = world.pair()
    with world.load(pair, "restore-receiver") as load:
        load.wait_for(world.breath)
        restore = _back_up(world, pair, pair.beta)
        load.wait_for(world.breath)
    world.wait_until_final(pair)
    restore()
    had = pair.beta.get(f"/connections/{pair.at_beta}/stream")["incoming"]["contiguous"]
    with _again(pair, load) as more:
        more.wait_for(world.breath)
    if world.short:
        # An operator who does not want to wait until the hole is asked for, 30 s after it was seen.
        pair.beta.post(f"/connections/{pair.at_beta}/replay", {"fromSequence": had + 1})
    load.accepted += more.accepted
    return world.prove(pair, load, by_number=True)


@drill("restore-sender", "sender restored from a backup that is older than its last events")
def restore_sender(world: World) -> Tally:
    """It gives numbers that were given before, learns of it, and begins a new epoch."""
    pair = world.pair()
    with world.load(pair, "restore-sender") as load:
        load.wait_for(world.breath)
        restore = _back_up(world, pair, pair.alpha)
        load.wait_for(world.breath)
    still_open = world.wait_until_final(pair)
    kept = pair.alpha.book.outgoing(load.event_type)
    restore()
    with _again(pair, load) as more:
        more.wait_for(world.breath)
    still_open += world.wait_until_final(pair)
    kept |= pair.alpha.book.outgoing(load.event_type)
    accepted = load.accepted + more.accepted
    tally = compare(load.event_type, accepted, kept, [pair.subscriber], by_number=True)
    return tally._replace(not_final=still_open)


def _back_up(world: World, pair: Pair, station: Station) -> Callable[[], None]:
    """Make a backup while the instance is down; returns what puts it back."""
    station.stop()
    back = world.back_up(station)
    station.start(init=False)

    def restore() -> None:
        station.stop()
        back()
        station.start(init=False)
        for one, connection_id in ((pair.alpha, pair.at_alpha), (pair.beta, pair.at_beta)):
            one.post(f"/connections/{connection_id}/retry-now")

    return restore


def _again(pair: Pair, load: Load) -> Load:
    """The same load once more: what the first one had accepted is with the first one."""
    return Load(pair.alpha.own_url, pair.alpha.token, load.event_type)
