"""Clocks: a side that was away for a day, and clocks that are far apart."""

from drills.drill import Tally, drill
from drills.world import Pair, World, stopped
from tests.engines import until

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS


@drill("day-away", "receiver down for a simulated day, while events are published")
def away_for_a_day(world: World) -> Tally:
    """The clock of both is moved on by a day while beta is down; alpha's schedule has grown long by then."""
    pair = world.pair()
    try:
        with world.load(pair, "day-away") as load:
            load.wait_for(world.breath)
            with stopped(pair.beta):
                failed = pair.alpha.book.failed_attempts()
                load.wait_for(world.breath)
                _wait_for_failure(pair, failed)
                pair.alpha.restart(CLOCK_OFFSET_MS=str(_DAY_MS))
                load.wait_for(world.breath)
                pair.beta.environ["CLOCK_OFFSET_MS"] = str(_DAY_MS)
            load.wait_for(world.breath)
        return world.prove(pair, load)
    finally:
        # The others live in the present, where what this one left would come from the future.
        world.forget_pair()


@drill("10-minutes-apart", "receiver's clock 10 minutes behind, then (long form) ahead, then right")
def ten_minutes_apart(world: World) -> Tally:
    """Requests are refused as stale or early, until somebody sets the clock."""
    return _apart(world, "10-minutes-apart", 10 * _MINUTE_MS)


@drill("day-apart", "receiver's clock a day behind, then a day ahead, then right", in_short=False)
def a_day_apart(world: World) -> Tally:
    """The same, and leases and limits at the receiver were given by a clock of another day."""
    return _apart(world, "day-apart", _DAY_MS)


@drill("sender-behind", "sender's clock a day behind, then right", in_short=False)
def sender_behind(world: World) -> Tally:
    """What was published meanwhile is a day old when it arrives."""
    pair = world.pair()
    with world.load(pair, "sender-behind") as load:
        load.wait_for(world.breath)
        failed = pair.alpha.book.failed_attempts()
        pair.alpha.restart(CLOCK_OFFSET_MS=str(-_DAY_MS))
        load.wait_for(world.breath)
        _wait_for_failure(pair, failed)
        load.wait_for(world.breath)
        pair.alpha.restart(CLOCK_OFFSET_MS="0")
        load.wait_for(world.breath)
    return world.prove(pair, load)


@drill("sender-set-back", "sender's clock set back in a burst, by an hour and by a day", in_short=False)
def sender_set_back(world: World) -> Tally:
    """What was published before waits behind nothing that is published after."""
    pair = world.pair()
    with world.load(pair, "sender-set-back") as load:
        for back_ms in (_HOUR_MS, _DAY_MS):
            load.wait_for(world.breath)
            failed = pair.alpha.book.failed_attempts()
            pair.alpha.restart(CLOCK_OFFSET_MS=str(-back_ms))
            load.wait_for(world.breath)
            _wait_for_failure(pair, failed)
            pair.alpha.restart(CLOCK_OFFSET_MS="0")
            load.wait_for(world.breath)
    return world.prove(pair, load)


def _apart(world: World, name: str, by_ms: int) -> Tally:
    pair = world.pair()
    with world.load(pair, name) as load:
        load.wait_for(world.breath)
        for offset_ms in (-by_ms,) if world.short else (-by_ms, by_ms):
            failed = pair.alpha.book.failed_attempts()
            pair.beta.restart(CLOCK_OFFSET_MS=str(offset_ms))
            load.wait_for(world.breath)
            _wait_for_failure(pair, failed)
        pair.beta.restart(CLOCK_OFFSET_MS="0")
        load.wait_for(world.breath)
    return world.prove(pair, load)


def _wait_for_failure(pair: Pair, before: int) -> None:
    """Wait until alpha has failed at more requests than before."""
    until(lambda: pair.alpha.book.failed_attempts() > before, "a request that failed")
