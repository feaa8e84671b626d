"""How the streams of a connection stand, for whoever shows it: `templates/console/stream/_status.html`."""

from typing import Any

from app.models import Direction
from app.reports import reconciliations, replays
from app.reports.connections import connection_row, streams_of
from app.reports.details import EpochDetails, MissingRange

#: What a reason means, for people: in words, and what helps.
REASONS: dict[str, tuple[str, str]] = {
    "missing": ("did not come yet", "it is asked for by itself; a replay asks again now"),
    "lost": ("asked for three times in vain", "ask for a replay, or look at the peer"),
    "expired": ("too old before it could be delivered", "the sender may publish it again"),
    "refused": ("refused by the receiver", "see the dead letters of the sender"),
    "erased": ("deleted at the sender before it came", "nothing: it is kept nowhere"),
    "withdrawn": ("not granted any more, or taken back", "nothing: it is not for the receiver"),
}

#: Reasons whose numbers a replay may still bring.
REPLAYABLE = frozenset({"missing", "lost"})

#: What a difference between both sides means.
DIFFERENCES: dict[str, str] = {
    "missing_there": "they acknowledged it, and have it no more",
    "unacknowledged": "it arrived, although it was given up here",
    "missing_here": "we acknowledged it, and have it no more",
    "not_acknowledged": "it came, and they do not know that",
    "unknown_here": "they have it from us, and we know nothing of it",
    "different": "both sides have different events under this number",
}

#: What was done about it.
REPAIRS: dict[str | None, str] = {
    "sent_again": "sent again",
    "acknowledged": "acknowledged",
    "replay_asked": "asked for",
    None: "a person must look",
}

#: Replays, and comparisons, that are shown with a stream.
_SHOWN = 5
#: Differences of one comparison that are shown.
_DIFFERENCES_SHOWN = 50


def stream_context(workspace_id: int, connection_id: str) -> dict[str, Any]:
    """What the partial needs: both streams, and the latest replays and comparisons. Raises NotFound."""
    row = connection_row(workspace_id, connection_id)
    directions = (Direction.INCOMING, Direction.OUTGOING)
    return {
        "streams": {direction.value: streams_of(row.id, direction) for direction in directions},
        "reasons": REASONS,
        "replayable": REPLAYABLE,
        "missing_count": missing_count,
        "share": share,
        "replays": replays.list_replays(workspace_id, connection_id=connection_id, limit=_SHOWN).data,
        "comparisons": reconciliations.list_reconciliations(workspace_id, connection_id, limit=_SHOWN).data,
        "difference_words": DIFFERENCES,
        "repair_words": REPAIRS,
        "differences_shown": _DIFFERENCES_SHOWN,
        "scope": scope,
    }


def missing_count(ranges: list[MissingRange]) -> int:
    """How many numbers are in the ranges."""
    return sum(gap["toSequence"] - gap["fromSequence"] + 1 for gap in ranges)


def share(epoch: EpochDetails) -> float:
    """The part of a run that is complete without a gap, 0 to 1."""
    return epoch["contiguous"] / epoch["headSequence"] if epoch["headSequence"] else 1.0


def scope(replay: Any) -> str:
    """What a replay was asked for, in words. replay: ReplayDetails, or a dictionary with its names."""
    parts = [
        _between("number ", _number(replay["fromSequence"]), _number(replay["toSequence"])),
        _between("", _short(replay["since"]), _short(replay["until"])),
    ]
    if replay["eventTypes"]:
        parts.append("of " + ", ".join(replay["eventTypes"]))
    return ", ".join(part for part in parts if part) or "all that is kept"


def _between(noun: str, first: str | None, last: str | None) -> str:
    if first is None and last is None:
        return ""
    if last is None:
        return f"from {noun}{first} on"
    if first is None:
        return f"up to {noun}{last}"
    return f"{noun}{first}" if first == last else f"{noun}{first} to {last}"


def _number(sequence: int | None) -> str | None:
    return None if sequence is None else f"{sequence:,}"


def _short(text: str | None) -> str | None:
    return None if text is None else text[:16].replace("T", " ") + " UTC"
