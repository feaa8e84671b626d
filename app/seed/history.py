"""History: seven days of events in both directions, and what became of each.

Written in pieces of a transaction each, so that a large history keeps nobody from writing for long.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any, NamedTuple

import sqlalchemy as sa

from app import clock
from app.database import db, table_of, transaction
from app.errors import InvalidState
from app.federation import identity
from app.many import insert_many
from app.models import Attempt, AttemptEntry, AuditEntry, Delivery, Direction, Event, EventStatus, Workspace
from app.outbox.rollup import sum_up
from app.protocol.event_types import covering_patterns
from app.protocol.messages import AckEntry, AckError, AckStatus, event_body, sign_ack_batch
from app.protocol.signing import Kind, Signer, body_input, digest
from app.protocol.states import DeliveryState
from app.seed.cast import OURS, THEIRS, Health
from app.seed.stage import (
    DOWN_MS,
    HOUR_MS,
    SLUG,
    SPAN_MS,
    WHOLE,
    Player,
    minted,
    set_the_ailing,
    set_up,
    tell_what_was_done,
)

SMALL, LARGE = 200, 200_000
#: Events of a piece; at most 1,024 share a signature.
_PIECE = 1_000
#: Of 100 events so many are ours.
_OURS_PERCENT = 60
#: Requests that the peer that is down did not answer, one for each batch of waits.
_PROBES = 14

_EVENT, _DELIVERY = table_of(Event), table_of(Delivery)
_ATTEMPT, _ENTRY = table_of(Attempt), table_of(AttemptEntry)

_REFUSAL = ("payload_invalid", "articles must be numbers here")
_BUSY = (503, "overloaded", "answered 503")
_GONE = (None, "connection_refused", "nobody listens there")


class Made(NamedTuple):
    """What there is now."""

    workspace: Workspace
    events: int
    deliveries: int
    dead: int


class _Planned(NamedTuple):
    """An event that is to be: whose it is (None: ours), when, and its type."""

    player: Player | None
    at: int
    event_type: str


class _Sent(NamedTuple):
    """A delivery on its way into the tables."""

    row: dict[str, Any]
    message_id: str
    digest: str


def existing() -> Workspace | None:
    """The seeded workspace. Raises InvalidState if somebody has made one of that name for other uses."""
    workspace = db.session.scalar(sa.select(Workspace).where(Workspace.slug == SLUG))
    if workspace is not None and not workspace.is_seeded:
        raise InvalidState(f"the workspace {SLUG} was not made by `flask seed`, which leaves it alone")
    return workspace


def is_whole(workspace: Workspace) -> bool:
    """Whether its history was written to the end."""
    return (
        db.session.scalar(
            sa.select(AuditEntry.id).where(
                AuditEntry.workspace_id == workspace.id, AuditEntry.action == WHOLE
            )
        )
        is not None
    )


def count(workspace: Workspace) -> Made:
    """What is in the seeded workspace; counts its rows, however many."""
    deliveries = sa.select(sa.func.count()).where(Delivery.workspace_id == workspace.id)
    return Made(
        workspace,
        db.session.scalar(sa.select(sa.func.count()).where(Event.workspace_id == workspace.id)) or 0,
        db.session.scalar(deliveries) or 0,
        db.session.scalar(deliveries.where(Delivery.state == DeliveryState.DEAD)) or 0,
    )


def make(events: int) -> Iterator[int]:
    """Make a history of so many events; yields how many there are so far. Commits in pieces.

    The workspace must not be there.
    """
    rng, end = Random(7), clock.now_ms()  # noqa: S311 - made up, and guards nothing
    with transaction():
        workspace, players = set_up(rng, end)
    writer = _Writer(rng, workspace, players, end, most=max(3, events // 2_000))
    planned, done = _plan(rng, players, events, end), 0
    while piece := list(islice(planned, _PIECE)):
        with transaction():
            writer.write(piece)
        done += len(piece)
        yield done
    with transaction():
        writer.leave_waiting()
        set_the_ailing(players, end)
        tell_what_was_done(workspace, players, end)


def _plan(rng: Random, players: Sequence[Player], events: int, end: int) -> Iterator[_Planned]:
    """The events in order of time, from some minutes after the subscriptions to a moment ago."""
    start, step = end - SPAN_MS + HOUR_MS, (SPAN_MS - HOUR_MS) / events
    ours = tuple(OURS)
    for number in range(events):
        at = int(start + number * step + rng.random() * step * 0.9)
        sending = [
            player for player in players if player.part.health is not Health.DOWN or at < end - DOWN_MS
        ]
        if rng.randrange(100) < _OURS_PERCENT:
            yield _Planned(None, at, rng.choice(ours))
        else:
            player = rng.choice(sending)
            yield _Planned(player, at, rng.choice(player.part.sends))


class _Writer:
    """Writes pieces of the history, in order. Its methods are called inside `transaction()`."""

    def __init__(
        self, rng: Random, workspace: Workspace, players: Sequence[Player], end: int, most: int
    ) -> None:
        self.rng = rng
        self.workspace_id = workspace.id
        self.players = players
        self.end = end
        #: Events of a request at most.
        self.most = min(most, 100)
        self.number = 0

    def write(self, piece: Sequence[_Planned]) -> None:
        """Write events, their deliveries and requests."""
        rows = [self._event(planned) for planned in piece]
        self._sign_ours([row for row in rows if row["direction"] is Direction.OUTGOING])
        ids = dict(insert_many(_EVENT, rows, returning=("message_id", "id")))
        sent = [self._deliver(player, ids, rows) for player in self.players]
        deliveries = [one for some in sent for one in some]
        deliveries.sort(key=lambda one: (one.row["event_id"], one.row["connection_id"]))
        self._store(deliveries)
        for player in self.players:
            for stream in (player.outgoing, player.incoming):
                stream.contiguous = stream.head_sequence

    # Events

    def _event(self, planned: _Planned) -> dict[str, Any]:
        self.number += 1
        player = planned.player
        signer = identity.signer() if player is None else player.signer
        make_payload = (OURS if player is None else THEIRS)[planned.event_type]
        message_id = minted(self.rng)
        body = event_body(
            message_id=message_id,
            instance_id=signer.instance_id,
            event_type=planned.event_type,
            payload=make_payload(self.rng, self.number),
            timestamp=planned.at,
            key_id=signer.key_id,
        )
        row = {
            "workspace_id": self.workspace_id,
            "direction": Direction.OUTGOING if player is None else Direction.INCOMING,
            "connection_id": None,
            "message_id": message_id,
            "event_type": planned.event_type,
            "body": body.decode(),
            "signature": "",
            "proof": None,
            "key_id": signer.key_id,
            "digest": digest(body_input(Kind.EVENT, body)),
            "timestamp": planned.at,
            "stream_id": None,
            "sequence": None,
            "status": EventStatus.UNSUBSCRIBED,
            "created_at": planned.at,
        }
        return row if player is None else row | self._arrival(player, body, planned.at)

    def _arrival(self, player: Player, body: bytes, at: int) -> dict[str, Any]:
        player.incoming.head_sequence = player.incoming.head_sequence + 1
        return {
            "connection_id": player.connection.id,
            "signature": player.signer.sign_body(Kind.EVENT, body),
            "stream_id": player.incoming.id,
            "sequence": player.incoming.head_sequence,
            "status": EventStatus.DELIVERED,
            "created_at": at + self.rng.randint(15, 90),
        }

    def _sign_ours(self, rows: Sequence[dict[str, Any]]) -> None:
        """One signature for all, as for events that are published together."""
        signer: Signer = identity.signer()
        bodies = [row["body"].encode() for row in rows]
        if len(bodies) == 1:
            rows[0]["signature"] = signer.sign_body(Kind.EVENT, bodies[0])
        if len(bodies) > 1:
            for row, signed in zip(rows, signer.sign_together(bodies), strict=True):
                row["signature"] = signed.signature
                row["proof"] = signed.proof.to_json() if signed.proof else None

    # Deliveries

    def _deliver(self, player: Player, ids: dict[str, int], rows: Sequence[dict[str, Any]]) -> list[_Sent]:
        """What goes to one peer: most arrives in batches, some wait for ever."""
        sent = [
            _Sent(self._delivery(player, ids[row["message_id"]], row), row["message_id"], row["digest"])
            for row in rows
            if row["direction"] is Direction.OUTGOING
            and not set(covering_patterns(row["event_type"])).isdisjoint(player.part.gets)
        ]
        arriving = []
        for one in sent:
            if self._waits(player, one.row["created_at"]):
                continue
            if player.part.health is Health.FLAKY and self.rng.random() < 0.06:
                one.row.update(
                    {
                        "state": DeliveryState.WITHDRAWN,
                        "error_code": "discarded",
                        "error_detail": "not needed any more",
                        "ended_at": one.row["created_at"] + HOUR_MS,
                    }
                )
            else:
                arriving.append(one)
        for start in range(0, len(arriving), self.most):
            self._send(player, arriving[start : start + self.most])
        return sent

    def _delivery(self, player: Player, event_id: int, event: dict[str, Any]) -> dict[str, Any]:
        return {
            "workspace_id": self.workspace_id,
            "event_id": event_id,
            "connection_id": player.connection.id,
            "event_type": event["event_type"],
            "state": DeliveryState.PENDING,
            "stream_id": None,
            "sequence": None,
            "attempts": 0,
            "refusals": 0,
            "next_attempt_at": event["created_at"],
            "trigger": "auto",
            "attempt_id": None,
            "error_code": None,
            "error_detail": None,
            "created_at": event["created_at"],
            "delivered_at": None,
            "ended_at": None,
        }

    def _waits(self, player: Player, at: int) -> bool:
        since = {Health.FLAKY: 3 * HOUR_MS, Health.DOWN: DOWN_MS}.get(player.part.health)
        return since is not None and at >= self.end - since

    def _send(self, player: Player, batch: Sequence[_Sent]) -> None:
        """A request that the peer answered, after one that it did not at times."""
        at = max(one.row["created_at"] for one in batch) + self.rng.randint(20, 120)
        for one in batch:
            player.outgoing.head_sequence = player.outgoing.head_sequence + 1
            one.row.update({"stream_id": player.outgoing.id, "sequence": player.outgoing.head_sequence})
        is_flaky = player.part.health is Health.FLAKY
        failed = None
        if is_flaky and self.rng.random() < 0.2:
            failed = self._request(player, len(batch), at, failure=_BUSY)
            at += self.rng.randint(4_000, 9_000)
        refused = [one for one in batch if is_flaky and self.rng.random() < 0.1]
        answered = self._request(player, len(batch), at, batch=batch, refused=refused)
        for one in batch:
            one.row.update(
                {
                    "attempts": 2 if failed else 1,
                    "attempt_id": answered,
                    "state": DeliveryState.DELIVERED,
                    "delivered_at": min(at + 60, self.end),
                    "next_attempt_at": at,
                }
            )
            one.row["_entries"] = [(failed, 1, _BUSY[1], _BUSY[2])] if failed else []
        for one in refused:
            one.row.update(
                {
                    "state": DeliveryState.DEAD,
                    "delivered_at": None,
                    "ended_at": min(at + 60, self.end),
                    "error_code": _REFUSAL[0],
                    "error_detail": _REFUSAL[1],
                }
            )
            one.row["_entries"].append((answered, one.row["attempts"], *_REFUSAL))

    def _request(
        self,
        player: Player,
        size: int,
        at: int,
        *,
        batch: Sequence[_Sent] = (),
        refused: Sequence[_Sent] = (),
        failure: tuple[int | None, str, str] | None = None,
    ) -> int:
        """An attempt: with the peer's signed ack, or with how it failed. Its row number."""
        took = self.rng.randint(18, 95)
        batch_id = minted(self.rng)
        status, code, detail = failure or (200, None, None)
        ack = None if failure else self._ack(player, batch_id, batch, refused, at + took)
        [(number,)] = insert_many(
            _ATTEMPT,
            [
                {
                    "connection_id": player.connection.id,
                    "batch_id": batch_id,
                    "size": size,
                    "started_at": at,
                    "duration_ms": took,
                    "status_code": status,
                    "error_code": code,
                    "error_detail": detail,
                    "response_body": None,
                    "ack": ack,
                }
            ],
            returning=("id",),
        )
        return int(number)

    def _ack(
        self, player: Player, batch_id: str, batch: Sequence[_Sent], refused: Sequence[_Sent], at: int
    ) -> str:
        """What the peer would have signed."""
        no = {one.message_id for one in refused}
        error = AckError(_REFUSAL[0], _REFUSAL[1], retryable=False)
        return sign_ack_batch(
            player.signer,
            message_id=minted(self.rng),
            batch_id=batch_id,
            connection_id=player.connection.wire_connection_id,
            timestamp=at,
            stream_epoch=player.outgoing.epoch,
            contiguous=player.outgoing.head_sequence,
            acks=[
                AckEntry(
                    one.row["sequence"],
                    one.message_id,
                    AckStatus.REJECTED if one.message_id in no else AckStatus.STORED,
                    one.digest,
                    error if one.message_id in no else None,
                )
                for one in batch
            ],
        ).decode()

    def _store(self, deliveries: Sequence[_Sent]) -> None:
        if not deliveries:
            return
        entries = {
            (one.row["event_id"], one.row["connection_id"]): one.row.pop("_entries", []) for one in deliveries
        }
        stored = insert_many(
            _DELIVERY,
            [one.row for one in deliveries],
            returning=("event_id", "connection_id", "id"),
        )
        numbers = {(event_id, connection_id): id_ for event_id, connection_id, id_ in stored}
        self._store_entries((numbers[key], *entry) for key, some in entries.items() for entry in some)
        for player in self.players:
            for one in deliveries:
                key = (one.row["event_id"], one.row["connection_id"])
                is_waiting = one.row["state"] is DeliveryState.PENDING and key[1] == player.connection.id
                if is_waiting and len(player.tried) < self.most:
                    player.tried.append((key[0], numbers[key]))
        sum_up([one.row["event_id"] for one in deliveries])

    def _store_entries(self, entries: Iterator[tuple[int, int, int, str, str]]) -> None:
        rows = [
            {
                "delivery_id": delivery_id,
                "attempt_id": attempt_id,
                "number": number,
                "trigger": "auto",
                "error_code": code,
                "error_detail": detail,
            }
            for delivery_id, attempt_id, number, code, detail in entries
        ]
        if rows:
            insert_many(_ENTRY, rows)

    def leave_waiting(self) -> None:
        """The first of those that wait were tried, again and again; one of them is on its way now."""
        for player in self.players:
            if not player.tried:
                continue
            is_down = player.part.health is Health.DOWN
            tries, since, failure = (_PROBES, DOWN_MS, _GONE) if is_down else (2, HOUR_MS, _BUSY)
            ids = [delivery_id for _, delivery_id in player.tried]
            attempts = [
                self._request(
                    player, len(ids), int(self.end - since * (tries - n) / (tries + 1)), failure=failure
                )
                for n in range(tries)
            ]
            self._store_entries(
                (delivery_id, attempt_id, number, failure[1], failure[2])
                for number, attempt_id in enumerate(attempts, 1)
                for delivery_id in ids
            )
            self._mark_tried(player, ids, attempts, failure)
            if not is_down:
                db.session.execute(
                    sa.update(_DELIVERY).where(_DELIVERY.c.id == ids[0]).values(state=DeliveryState.SENDING)
                )

    def _mark_tried(
        self,
        player: Player,
        ids: Sequence[int],
        attempts: Sequence[int],
        failure: tuple[int | None, str, str],
    ) -> None:
        for delivery_id in ids:
            player.outgoing.head_sequence += 1
            db.session.execute(
                sa.update(_DELIVERY)
                .where(_DELIVERY.c.id == delivery_id)
                .values(
                    attempts=len(attempts),
                    attempt_id=attempts[-1],
                    stream_id=player.outgoing.id,
                    sequence=player.outgoing.head_sequence,
                    error_code=failure[1],
                    error_detail=failure[2],
                    next_attempt_at=self.end + 20 * 60_000,
                )
            )
