"""Deliver: drain one connection, batch by batch, for about a second.

    acquire ─► claim ─► send ─► record + claim the next ─► ... ─► record + release
    └ one transaction ┘  HTTP    └─ one transaction ─┘             └ one ┘

Where events come one by one and faster than requests are made, the drain gathers them for a moment: a request
costs about as much with one event as with ten. The first after a pause never waits.

No transaction is open across HTTP. One drain per connection holds the lease, whatever the queue does; a
drain that dies leaves rows in `sending`, which the next one makes wait again. Whoever publishes while a
drain has the lease wakes nobody, so after it gave the lease back the drain looks once more.
"""

import logging
from random import Random
from time import sleep

from sqlalchemy.exc import SQLAlchemyError

from app.clock import monotonic, now_ms
from app.database import db, transaction
from app.federation import calls
from app.federation.clocks import skew_ms
from app.federation.identity import signer, signer_for
from app.federation.leases import give_back, new_owner
from app.federation.outside import client
from app.federation.peers import adopt_key, message_key
from app.outbox import lease, replay
from app.outbox.acknowledge import NotAnAck, read_ack_batch
from app.outbox.claim import Batch, Claim, claim, has_due, is_due
from app.outbox.record import Reply, record_acked, record_failed
from app.outbox.target import Target, pinned_keys, read_target
from app.protocol.errors import read_problem
from app.protocol.keys import KeyRecord
from app.queue import wake_drain
from app.transport.errors import TransportError

log = logging.getLogger(__name__)

#: Where batches go, below the peer's baseUrl.
PATH = "/api/v1/federation/incoming/events"

#: A drain yields after about this time, so that every connection gets its turn.
RUN_S = 1.0

#: Least time from one small batch to the next while events keep coming, s. It bounds what one event waits.
GATHER_S = 0.025

#: A batch is small below this part of what the peer takes.
SMALL_PART = 4

#: Error code of an answer that proves nothing.
NOT_AN_ACK = "ack_invalid"


def drain(connection_id: int) -> int:
    """Send the due deliveries of a connection for about a second. How many were sent and acknowledged.

    Safe to run twice, also at the same time: the second finds the lease taken and does nothing. Wakes itself
    again if there is more. Commits.
    """
    run = _Drain(connection_id)
    try:
        return run.run()
    except SQLAlchemyError:
        give_back(run.release, lease.LEASE_MS / 1000)
        raise


class _Drain:
    """One run: what it holds, how much it takes at a time, and the keys it has looked up."""

    def __init__(self, connection_id: int) -> None:
        self.connection_id = connection_id
        self.owner = new_owner()
        self.most: int | None = None
        self.more = False
        self.released = False
        self.gathers = False
        #: Whether the last batch was a live one, so that a replay has the next turn.
        self.was_live = False
        self.acknowledged = 0
        self.until = monotonic() + RUN_S
        self._keys: dict[str, KeyRecord | None] = {}
        self._rng = Random()  # noqa: S311 - chance for the spread of back-offs

    def run(self) -> int:
        work = self._begin()
        while work is not None or self.gathers:
            if work is None:
                # Nothing live is due, and the replay keeps to its rate.
                sleep(GATHER_S)
                work = self._resume()
                continue
            target, batch = work
            started = monotonic()
            reply = self._send(target, batch)
            work = self._record(target, batch, reply)
            if self.gathers:
                sleep(max(0.0, started + GATHER_S - monotonic()))
                work = self._resume()
        if self.more or (self.released and has_due(self.connection_id, now_ms())):
            wake_drain(self.connection_id, failing=False)
        return self.acknowledged

    def release(self) -> None:
        """Give the lease back. Commits."""
        with transaction():
            lease.release(self.connection_id, self.owner)

    def _begin(self) -> tuple[Target, Batch] | None:
        with transaction():
            if not lease.acquire(self.connection_id, self.owner):
                return None
            return self._next()

    def _next(self) -> tuple[Target, Batch] | None:
        """The next batch, or None with the lease given back. Inside a transaction that has the row."""
        now = now_ms()
        target = read_target(self.connection_id)
        if target is not None and target.may_send and target.retry_at <= now:
            found = self._claim(target, now)
            if found.batch is not None:
                # Read where a transaction is open anyway; a run is short enough to keep them.
                self._keys = self._keys or dict(pinned_keys(target.peer_id))
                self._signer = (
                    signer_for(self.connection_id)
                    if target.has_unknown_key
                    else signer(in_use=target.key_in_use)
                )
                return target, found.batch
            paced = _may_replay(target) and replay.is_due(self.connection_id, now + replay.PACE_MS)
            self.gathers = paced and monotonic() < self.until
            if self.gathers:
                return None
            self.more = found.more or paced
            # Whoever published meanwhile saw the lease and woke nobody.
            # (What waits for the peer to learn of a key is due all the while; the sweep looks after that.)
            self.released = not target.has_unknown_key
        lease.release(self.connection_id, self.owner)
        return None

    def _claim(self, target: Target, now: int) -> Claim:
        """The next batch, live or of a replay: they take turns while there are both."""
        most = self.most or target.max_batch_events
        may_replay = _may_replay(target)
        if may_replay and self.was_live and (batch := replay.next_batch(target, now, most)):
            self.was_live = False
            return Claim(batch)
        found = claim(target, now, most)
        self.was_live = found.batch is not None
        if found.batch is None and may_replay and (batch := replay.next_batch(target, now, most)):
            return Claim(batch)
        return found

    def _send(self, target: Target, batch: Batch) -> Reply:
        started_at, started = now_ms(), monotonic()
        try:
            answer = calls.post(client(), self.connection_id, self._signer, target.base_url, PATH, batch.body)
        except TransportError as error:
            took = round((monotonic() - started) * 1000)
            return Reply(started_at, took, error.status, error_code=error.code, error_detail=error.detail)
        reply = Reply(
            started_at,
            answer.duration_ms,
            answer.status,
            answer.body,
            answer.headers.get("retry-after"),
            clock_skew_ms=skew_ms(answer),
        )
        if answer.status == 200:
            reply = self._verified(reply, target, batch)
            return (
                reply
                if reply.ack is None
                else reply._replace(clock_skew_ms=skew_ms(answer, reply.ack.timestamp))
            )
        problem = read_problem(answer.status, answer.body, answer.headers.get("content-type"))
        if problem is None:
            return reply._replace(
                error_code="http_error", error_detail=f"status {answer.status} without a problem document"
            )
        return reply._replace(
            problem=problem,
            error_code=problem.code,
            error_detail=problem.detail,
            clock_skew_ms=skew_ms(answer, problem.extras.get("serverTime")),
        )

    def _verified(self, reply: Reply, target: Target, batch: Batch) -> Reply:
        try:
            ack = read_ack_batch(reply.body, batch, target, lambda key_id: self._key(target, key_id))
        except NotAnAck as error:
            log.warning("ack.invalid", extra={"connection_id": target.connection_id, "detail": str(error)})
            return reply._replace(error_code=NOT_AN_ACK, error_detail=str(error))
        return reply._replace(ack=ack)

    def _key(self, target: Target, key_id: str) -> KeyRecord | None:
        """The peer's key of that name; one that we missed is looked for in its document (§2)."""
        if key_id not in self._keys:
            adopt_key(target.instance_id, key_id)
            self._keys[key_id] = message_key([target.peer_id], key_id)
            db.session.rollback()
        return self._keys[key_id]

    def _record(self, target: Target, batch: Batch, reply: Reply) -> tuple[Target, Batch] | None:
        now = now_ms()
        with transaction():
            is_held = lease.renew(self.connection_id, self.owner)
            if reply.ack is not None:
                self.acknowledged += sum(entry.received for entry in reply.ack.acks)
                after = record_acked(target, batch, reply, now)
            elif is_held:
                after = record_failed(target, batch, reply, now, self._rng)
            if not is_held:
                # Another drain has the connection; what is left of the batch is its business.
                return None
            if after.go_on and monotonic() < self.until:
                self.most = self._most_after(target, batch, after.most)
                self.gathers = self._is_trickle(target, batch, now)
                return None if self.gathers else self._next()
            self.more = after.go_on
            lease.release(self.connection_id, self.owner)
            return None

    def _is_trickle(self, target: Target, batch: Batch, now: int) -> bool:
        """Whether few went, with no limit on how many, and the next wait already."""
        if self.most is not None or SMALL_PART * len(batch.entries) >= target.max_batch_events:
            return False
        return is_due(self.connection_id, now)

    def _resume(self) -> tuple[Target, Batch] | None:
        """The next batch after a moment of gathering, the lease being ours still."""
        self.gathers = False
        with transaction():
            return self._next() if lease.renew(self.connection_id, self.owner) else None

    def _most_after(self, target: Target, batch: Batch, most: int | None) -> int | None:
        """How many the next batch takes: as told, or twice as many as went well, up to the peer's limit."""
        if most is not None:
            return most
        if self.most is None or 2 * len(batch.entries) >= target.max_batch_events:
            return None
        return 2 * self.most


def _may_replay(target: Target) -> bool:
    """Whether a replay may have its turn: a probe has one live event, and what a new key signed waits."""
    return target.has_replay and not target.has_unknown_key and not target.is_probe
