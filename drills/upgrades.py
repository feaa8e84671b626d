"""Upgrades: two versions of the software talk to each other, and each side is upgraded under load."""

import contextlib
import io
import subprocess
import tarfile
from pathlib import Path

from app.config import ROOT
from drills.drill import Skipped, Tally, drill
from drills.world import World


@drill(
    "upgrade",
    "the version before the last change of tables at both, then upgraded one by one",
    in_short=False,
)
def upgrade_one_by_one(world: World) -> Tally:
    """Old to old, new to old, new to new: the tables are changed while the other side goes on."""
    with contextlib.ExitStack() as exits:
        root = world.folder / "before"
        _unpack(_version_before(), root)
        pair = world.make_pair(exits, root=root)
        with world.load(pair, "upgrade") as load:
            load.wait_for(world.breath)
            for station in pair[:2]:
                station.stop()
                station.root = ROOT
                station.start(init=False)
                load.wait_for(world.breath)
        return world.prove(pair, load)


def _version_before() -> str:
    """The commit before the last one that changed the tables."""
    found = _git("log", "--format=%H", "-n", "1", "--", "migrations/versions").decode().strip()
    if not found:
        raise Skipped("there is no history to take an older version from")
    return _git("rev-parse", f"{found}~1").decode().strip()


def _unpack(version: str, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(_git("archive", version))) as archive:
        archive.extractall(folder, filter="data")


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Skipped("there is no history to take an older version from") from error
