"""Do drills: `python -m drills [--engine sqlite|postgresql] [--seed N] [--short] [NAME …]`."""

import argparse
import signal
import sys
import time
import traceback

from drills import backups, clocks, crashes, crowds, faults, keys, upgrades
from drills.drill import DRILLS, Drill, Skipped, Tally
from drills.world import World

#: Modules whose drills there are, in the order in which they are done.
_MODULES = (crashes, faults, clocks, keys, backups, crowds, upgrades)

#: Width of what a drill does.
_WHAT = 80


def in_order() -> list[Drill]:
    """All drills, in the order of their modules."""
    names = [module.__name__ for module in _MODULES]
    return sorted(DRILLS.values(), key=lambda drill: names.index(drill.run.__module__))


def run(world: World, drill: Drill) -> bool:
    """Do one drill and print its line; False if something was lost, or the drill itself failed."""
    world.times = drill.times_short if world.short else drill.times
    what = drill.what.format(times=world.times)
    started = time.monotonic()
    try:
        tally = drill.run(world)
    except Skipped as skipped:
        _say(world, drill, what, f"skipped: {skipped}", started)
        return True
    except Exception:
        traceback.print_exc()
        world.forget_pair()
        _say(world, drill, what, f"FAILED; again with --engine {world.engine} --seed {world.seed}", started)
        return False
    if not tally.is_clean:
        world.forget_pair()
    _say(world, drill, what, _found(tally), started)
    return tally.is_clean


def _found(tally: Tally) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in tally._asdict().items()) + (
        "" if tally.is_clean else "  NOT CLEAN"
    )


def _say(world: World, drill: Drill, what: str, found: str, started: float) -> None:
    seconds = time.monotonic() - started
    print(f"{world.engine:<10} {drill.name:<18} {what:<{_WHAT}} {found:<77} {seconds:6.1f} s", flush=True)


def main() -> int:
    """Do the drills that were named, or all; 1 if anything was lost, doubled, out of order or left open."""
    parser = argparse.ArgumentParser(prog="drills", description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--seed", type=int, help="chance of this run; by default another one each time")
    parser.add_argument(
        "--short", action="store_true", help="smaller numbers, and without the longest drills"
    )
    parser.add_argument("--list", action="store_true", help="show the names and do nothing")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the drills to do, all if none is given")
    options = parser.parse_args()
    unknown = set(options.names) - set(DRILLS)
    if unknown:
        parser.error(f"no such drill: {', '.join(sorted(unknown))}; there are {', '.join(DRILLS)}")
    chosen = [
        drill
        for drill in in_order()
        if drill.name in options.names or (not options.names and (drill.in_short or not options.short))
    ]
    if options.list:
        print("\n".join(f"{drill.name:<18} {drill.what.format(times=drill.times)}" for drill in chosen))
        return 0
    # Whoever ends this ends the instances with it.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    seed = time.time_ns() % 1_000_000 if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    clean = True
    for engine in options.engine or ("sqlite", "postgresql"):
        with World(engine, seed, short=options.short) as world:
            for drill in chosen:
                if drill.engine in (None, engine):
                    clean &= run(world, drill)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
