"""What a drill is: a function with a name that does something to a world and proves what became of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from drills.world import World


class Tally(NamedTuple):
    """What a comparison of the databases found. All but `accepted` must be 0."""

    #: Events that the API accepted, once for each subscriber that had to get them.
    accepted: int = 0
    #: Accepted and not stored at a subscriber, or with another content.
    lost: int = 0
    #: Stored more than once at a subscriber, or without having been accepted for it.
    doubled: int = 0
    #: Stored after one that was published later.
    out_of_order: int = 0
    #: Rows that still wait for something, at either side.
    not_final: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled, out of order or left waiting."""
        return not any(self[1:])

    def plus(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(*map(sum, zip(self, other, strict=True)))


class Skipped(Exception):
    """The drill cannot be done here; its text says why in a few words."""


class Drill(NamedTuple):
    """A drill: its name on the command line, what it does in a few words, and how."""

    name: str
    #: May hold {times}: how often, which the short form makes smaller.
    what: str
    run: Callable[["World"], Tally]
    times: int
    times_short: int
    #: Whether the short form has it.
    in_short: bool
    #: The only engine that it makes sense on, None for all.
    engine: str | None


#: All drills by name, in the order of their modules.
DRILLS: dict[str, Drill] = {}


def drill(
    name: str,
    what: str,
    *,
    times: int = 1,
    times_short: int = 1,
    in_short: bool = True,
    engine: str | None = None,
) -> Callable[[Callable[["World"], Tally]], Callable[["World"], Tally]]:
    """Make a function a drill."""

    def enter(run: Callable[["World"], Tally]) -> Callable[["World"], Tally]:
        DRILLS[name] = Drill(name, what, run, times, times_short, in_short, engine)
        return run

    return enter
