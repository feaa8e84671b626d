"""Receive: store what came in once, count it, and acknowledge it.

    verify    each event by a pinned key of its sender; nothing else gets in here (VerifiedEvent)
    time      not from the future, not older than 8 days
    dedupe    one INSERT ... ON CONFLICT DO NOTHING RETURNING tells what is new; only the rest is looked up
    state     of the connection; what repeats a stored event is a duplicate in every state
    wanted    covered by a subscription of ours
    count     the numbers that are accounted for
    ack       one signature, after the commit

Two requests of one connection take turns: the connection's row is locked from the state to the commit.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import sqlalchemy as sa

from app import metrics
from app.clock import now_ms
from app.database import db, lock_workspace_inbox, table_of, transaction
from app.federation.identity import MAX_EVENT_BYTES, signer_for
from app.federation.lifecycle import lock, refusal_of_events
from app.federation.receiving import heard_from
from app.federation.subscriptions import accepted_patterns
from app.inbox import acks, traces
from app.inbox.replays import asked_for, note_arrivals
from app.inbox.stream import MAX_AHEAD, came, fill_ranges, note_head, open_stream, stream_of_epoch
from app.inbox.traces import Trace
from app.many import insert_many
from app.models import Connection, Direction, Event, EventAlias, EventStatus, Replay, Stream
from app.protocol.errors import (
    InvalidIssuer,
    KeyUntrusted,
    MessageIdConflict,
    NotSubscribed,
    Problem,
    RateLimited,
    SequenceConflict,
    TooLarge,
)
from app.protocol.event_types import covering_patterns
from app.protocol.keys import KeyRecord
from app.protocol.messages import (
    AckStatus,
    EventAck,
    EventBatch,
    EventMessage,
    VerifiedEvent,
    check_event_time,
    is_same_event,
    verify_event,
)

log = logging.getLogger(__name__)

#: What becomes of an entry: a status, or why it is refused.
Verdict = AckStatus | Problem

_EVENT = table_of(Event)
_ALIAS = table_of(EventAlias)


class Arrival(NamedTuple):
    """An event as it came: its number (None outside the stream), and the replay it says it belongs to."""

    event: VerifiedEvent
    sequence: int | None = None
    replay_id: str | None = None


def verify_entries(
    batch: EventBatch, instance_id: str, find_key: Callable[[str], KeyRecord | None]
) -> list[Arrival | Problem]:
    """Check the signature of every event of a batch by a key of its sender.

    An entry whose key is unknown or may not have signed it is `key_untrusted`, which the sender repeats.
    """
    keys: dict[str, KeyRecord | None] = {}
    checked: list[Arrival | Problem] = []
    for entry in batch.entries:
        if entry.event is None:
            assert entry.problem is not None  # noqa: S101 - one of the two is there
            checked.append(entry.problem)
            continue
        try:
            event = _verify(entry.event, instance_id, keys, find_key)
        except Problem as problem:
            checked.append(problem)
        else:
            checked.append(Arrival(event, entry.sequence, entry.replay_id))
    return checked


def _verify(
    event: EventMessage,
    instance_id: str,
    keys: dict[str, KeyRecord | None],
    find_key: Callable[[str], KeyRecord | None],
) -> VerifiedEvent:
    if event.instance_id != instance_id:
        raise InvalidIssuer("the event names another instance than the one that sent it")
    if event.key_id not in keys:
        keys[event.key_id] = find_key(event.key_id)
    return verify_event(event, keys[event.key_id], barred=KeyUntrusted)


def handle_incoming_event(connection: Connection, event: VerifiedEvent) -> EventAck:
    """Store one event that came outside the stream, and acknowledge it.

    connection: the one that it came over, of the instance that signed it. Returns the signed ack, `stored` or
    `duplicate`, made after the commit. Commits.

    Raises InvalidRequest at /timestamp (more than 300 s ahead), EventExpired (older than 8 days),
    MessageIdConflict, NotSubscribed, TooLarge, or what the connection's state refuses.
    """
    with transaction():
        locked = lock(connection.id)
        now = now_ms()
        [verdict] = _Reception(locked, None, now).take([Arrival(event)])
        ours = signer_for(connection.id)
    if isinstance(verdict, Problem):
        raise verdict
    is_stored = verdict is AckStatus.STORED
    metrics.count_received(is_stored, not is_stored, 0)
    return acks.sign_ack(ours, connection.wire_connection_id, event, verdict, now)


def receive_batch(connection: Connection, batch: EventBatch, checked: Sequence[Arrival | Problem]) -> bytes:
    """Store what is new of a batch, count its numbers, and acknowledge each entry.

    checked: what `verify_entries` made of it. Returns the signed EventAckBatch in its wire form, made after
    the commit. Commits.

    Raises a Problem for the whole request: what the connection's state refuses (unless every entry repeats
    a stored event), and RateLimited for a number too far ahead, which is noted all the same, or an epoch too
    soon.
    """
    # Read first: a transaction begins by forgetting what was read, and would read the row for its id alone.
    connection_id = connection.id
    with transaction():
        locked = lock(connection_id)
        now = now_ms()
        outcome = _receive(locked, batch, checked, now)
        ours = signer_for(connection_id)
    if isinstance(outcome, Problem):
        raise outcome
    verdicts, contiguous = outcome
    stored = sum(verdict is AckStatus.STORED for verdict in verdicts)
    refused = sum(isinstance(verdict, Problem) for verdict in verdicts)
    metrics.count_received(stored, len(verdicts) - stored - refused, refused)
    log.info(
        "events.received",
        extra={
            "connection_id": connection_id,
            "batch_id": batch.batch_id,
            "size": len(verdicts),
            "stored": stored,
            "refused": refused,
            "contiguous": contiguous,
        },
    )
    return acks.sign_batch(ours, batch, verdicts, contiguous, now)


def _receive(
    connection: Connection, batch: EventBatch, checked: Sequence[Arrival | Problem], now: int
) -> tuple[list[Verdict], int] | Problem:
    """The verdicts and `contiguous`; or a Problem of the whole request, to be raised after the commit."""
    refusal = refusal_of_events(connection, now)
    asked = asked_for(connection.id, {entry.replay_id for entry in batch.entries if entry.replay_id})
    if refusal is not None:
        heard_from(connection)
        stream = stream_of_epoch(connection.id, batch.stream_epoch)
        verdicts = _Reception(connection, stream, now, asked).repeat(checked)
        if any(verdict is not AckStatus.DUPLICATE for verdict in verdicts):
            return refusal
        return verdicts, stream.contiguous if stream else 0
    stream = open_stream(connection.id, batch.stream_epoch)
    last = batch.entries[-1].sequence
    if last > stream.contiguous + MAX_AHEAD and not _is_expected(batch, stream, asked):
        note_head(stream, last)
        return RateLimited("a sequence is too far ahead of what came", retry_after_s=30)
    verdicts = _Reception(connection, stream, now, asked).take(checked)
    numbers = [(entry.sequence, verdict) for entry, verdict in zip(batch.entries, verdicts, strict=True)]
    came(stream, [number for number, verdict in numbers if isinstance(verdict, AckStatus)])
    # What we refused for good the sender does not send again.
    refused = [n for n, verdict in numbers if isinstance(verdict, Problem) and not verdict.retryable]
    fill_ranges(stream, [(number, number) for number in refused])
    note_head(stream, last)
    if asked:
        note_arrivals(asked, zip((entry.replay_id for entry in batch.entries), verdicts, strict=True))
    return verdicts, stream.contiguous


def _is_expected(batch: EventBatch, stream: Stream, asked: Mapping[str, Replay]) -> bool:
    """Whether all of it is of replays that we asked for, within what we know of the stream."""
    return batch.entries[-1].sequence <= stream.head_sequence and all(
        entry.replay_id in asked for entry in batch.entries
    )


#: In the place of an event's id: it went by age.
_GONE = 0


class _Stored(NamedTuple):
    """A stored event, as far as a repeat is compared with it."""

    id: int
    body: str
    stream_id: int | None
    sequence: int | None


class _Reception:
    """One request's events on their way into the database, the connection being locked."""

    def __init__(
        self,
        connection: Connection,
        stream: Stream | None,
        now: int,
        asked: Mapping[str, Replay] = MappingProxyType({}),
    ) -> None:
        self.connection = connection
        self.stream = stream
        self.now = now
        #: The replays that we asked for, of those that the entries name.
        self.asked = asked
        self.stored: dict[str, _Stored] = {}
        #: Number of the stream -> id of the event that has it.
        self.occupied: dict[int, int] = {}
        #: What is left of those that came so long ago that their text went, by messageId.
        self.traces: dict[str, Trace] = {}

    def take(self, checked: Sequence[Arrival | Problem]) -> list[Verdict]:
        """A verdict for each; what is new, wanted and in time is stored."""
        timely = [self._in_time(item) for item in checked]
        arrivals = [item for item in timely if isinstance(item, Arrival)]
        refusal = refusal_of_events(self.connection, self.now)
        wanted = [] if refusal else self._wanted(arrivals)
        self._read_traces(arrivals)
        new = self._insert(self._free(wanted))
        rest = [item for item in arrivals if (item.event.message_id, item.sequence) not in new]
        self._look_up(rest)
        is_wanted = {id(item) for item in wanted}
        heard_from(self.connection)
        return [
            item
            if isinstance(item, Problem)
            else AckStatus.STORED
            # A number or id that comes twice in one request is new once.
            if (item.event.message_id, item.sequence) in new
            else self._repeated(item) or refusal or self._unwanted(item, id(item) in is_wanted)
            for item in timely
        ]

    def repeat(self, checked: Sequence[Arrival | Problem]) -> list[Verdict]:
        """A verdict for each without storing any: DUPLICATE, or why not. For a connection that takes none."""
        timely = [self._in_time(item) for item in checked]
        arrivals = [item for item in timely if isinstance(item, Arrival)]
        self._read_traces(arrivals)
        self._look_up(arrivals)
        return [
            item if isinstance(item, Problem) else self._repeated(item) or NotSubscribed() for item in timely
        ]

    def _in_time(self, item: Arrival | Problem) -> Arrival | Problem:
        if isinstance(item, Problem):
            return item
        event = item.event
        if event.wire_size > MAX_EVENT_BYTES:
            return TooLarge(f"an event has at most {MAX_EVENT_BYTES} bytes here")
        try:
            check_event_time(event, self.now)
        except Problem as problem:
            if item.replay_id not in self.asked:
                return problem
            try:
                check_event_time(event, self.now, was_asked_for=True)
            except Problem as still:
                return still
        return item

    def _wanted(self, arrivals: Iterable[Arrival]) -> list[Arrival]:
        patterns = frozenset(accepted_patterns(self.connection.id, self.now))
        return [
            item for item in arrivals if not patterns.isdisjoint(covering_patterns(item.event.event_type))
        ]

    def _free(self, wanted: list[Arrival]) -> list[Arrival]:
        """Those whose id and number are not of one that went by age, and whose number no alias has.

        The event table itself refuses its own ids and numbers on inserting.
        """
        if self.traces:
            wanted = [
                item
                for item in wanted
                if item.event.message_id not in self.traces and item.sequence not in self.occupied
            ]
        stream = self.stream
        if stream is None or not wanted:
            return wanted
        numbers = [
            item.sequence for item in wanted if item.sequence and item.sequence <= stream.head_sequence
        ]
        if not numbers:
            return wanted
        self.occupied |= self._aliases(numbers)
        return [item for item in wanted if item.sequence not in self.occupied]

    def _read_traces(self, arrivals: Sequence[Arrival]) -> None:
        """Look whether what is old, or comes under a number that was spoken of, came before and went by age.

        Nothing else can have left a trace, so that live events cost no look.
        """
        old = [
            item.event.message_id for item in arrivals if item.event.timestamp < self.now - traces.MIN_AGE_MS
        ]
        head = self.stream.head_sequence if self.stream is not None else 0
        numbers = [item.sequence for item in arrivals if item.sequence and item.sequence <= head]
        found = traces.of_messages(self.connection.id, old) if old else []
        if self.stream is not None and numbers:
            found += traces.of_numbers(self.stream.id, numbers)
        for trace in found:
            self.traces[trace.message_id] = trace
            if trace.sequence is not None and self.stream is not None and trace.stream_id == self.stream.id:
                self.occupied[trace.sequence] = _GONE

    def _insert(self, wanted: Sequence[Arrival]) -> set[tuple[str, int | None]]:
        """Store what is new; (messageId, sequence) of each."""
        if not wanted:
            return set()
        lock_workspace_inbox(self.connection.workspace_id)
        common = {
            "workspace_id": self.connection.workspace_id,
            "direction": Direction.INCOMING,
            "connection_id": self.connection.id,
            "stream_id": self.stream.id if self.stream else None,
            "status": EventStatus.DELIVERED,
            "created_at": self.now,
        }
        rows = [
            {
                **common,
                "message_id": item.event.message_id,
                "event_type": item.event.event_type,
                "body": item.event.body.decode(),
                "signature": item.event.signature,
                "proof": None if item.event.proof is None else item.event.proof.to_json(),
                "key_id": item.event.key_id,
                "digest": item.event.digest,
                "timestamp": item.event.timestamp,
                "sequence": item.sequence,
            }
            for item in wanted
        ]
        # New by either unique constraint; the rest is left out without an error.
        stored = insert_many(_EVENT, rows, skip=True, returning=("message_id", "sequence"))
        return {(message_id, sequence) for message_id, sequence in stored}

    def _look_up(self, rest: Sequence[Arrival]) -> None:
        """Read what has the ids and numbers of those that were not new."""
        if not rest:
            return
        found = db.session.connection().execute(
            sa.select(
                _EVENT.c.message_id, _EVENT.c.id, _EVENT.c.body, _EVENT.c.stream_id, _EVENT.c.sequence
            ).where(
                _EVENT.c.connection_id == self.connection.id,
                _EVENT.c.message_id.in_([item.event.message_id for item in rest]),
            )
        )
        self.stored = {row.message_id: _Stored(*row[1:]) for row in found}
        numbers = [item.sequence for item in rest if item.sequence is not None]
        if self.stream is None or not numbers:
            return
        own = db.session.connection().execute(
            sa.select(_EVENT.c.sequence, _EVENT.c.id).where(
                _EVENT.c.stream_id == self.stream.id, _EVENT.c.sequence.in_(numbers)
            )
        )
        self.occupied |= {sequence: event_id for sequence, event_id in own if sequence is not None}
        self.occupied |= self._aliases(numbers)

    def _aliases(self, numbers: Sequence[int]) -> dict[int, int]:
        assert self.stream is not None  # noqa: S101 - only a stream has numbers
        found = db.session.connection().execute(
            sa.select(_ALIAS.c.sequence, _ALIAS.c.event_id).where(
                _ALIAS.c.stream_id == self.stream.id, _ALIAS.c.sequence.in_(numbers)
            )
        )
        return {sequence: event_id for sequence, event_id in found}

    def _repeated(self, item: Arrival) -> Verdict | None:
        """The verdict if the id or the number was used before, else None."""
        trace = self.traces.get(item.event.message_id)
        if trace is not None:
            return self._repeated_after_age(item, trace)
        stored = self.stored.get(item.event.message_id)
        holder = None if item.sequence is None else self.occupied.get(item.sequence)
        if stored is None:
            return None if holder is None else SequenceConflict("the number belongs to another event")
        if not is_same_event(item.event.body, stored.body.encode()):
            return MessageIdConflict()
        if holder is not None and holder != stored.id:
            return SequenceConflict("the number belongs to another event")
        if holder is None and item.sequence is not None and self.stream is not None:
            self._add_alias(item.sequence, stored.id)
        return AckStatus.DUPLICATE

    def _repeated_after_age(self, item: Arrival, trace: Trace) -> Verdict:
        """The verdict on what came before and went by age."""
        if not trace.is_of(item.event):
            return MessageIdConflict()
        is_own = self.stream is not None and (trace.stream_id, trace.sequence) == (
            self.stream.id,
            item.sequence,
        )
        if item.sequence in self.occupied and not is_own:
            return SequenceConflict("the number belongs to another event")
        return AckStatus.DUPLICATE

    def _add_alias(self, sequence: int, event_id: int) -> None:
        """A stored event came under a further number: it fills that one too (§6)."""
        assert self.stream is not None  # noqa: S101 - the caller saw it
        self.occupied[sequence] = event_id
        db.session.connection().execute(
            sa.insert(_ALIAS).values(stream_id=self.stream.id, sequence=sequence, event_id=event_id)
        )

    def _unwanted(self, item: Arrival, is_wanted: bool) -> Verdict:
        if is_wanted:
            # Not stored, and nothing in the way: the same id or number came twice in this request.
            return SequenceConflict("the number comes twice")
        return NotSubscribed(f"no subscription here covers {item.event.event_type}")
