"""Leases: one sender at a time for a connection, kept by the database whatever Redis does.

An owner is `host:pid:start:token`. Host, pid and the process's start time tell a sweep on the same host that
the owner is dead, long before the lease ends; the token tells two leases of one process apart.
"""

import os
import socket
from functools import lru_cache
from pathlib import Path
from secrets import token_hex

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db
from app.models import Connection, Delivery
from app.protocol.states import DeliveryState

#: Longer than the deadline of a request (15 s) and the recording after it together, ms.
LEASE_MS = 30_000

_CONNECTION = Connection.__table__
_DELIVERY = Delivery.__table__


def new_owner() -> str:
    """The name of one lease of this process."""
    return f"{_host()}:{os.getpid()}:{_start_of(os.getpid())}:{token_hex(4)}"


def acquire(connection_id: int, owner: str) -> bool:
    """Take the connection for sending; False if somebody has it. Called inside `transaction()`.

    What the one before left in sending goes back to pending: it died, and its answers are lost.
    """
    now = now_ms()
    taken = db.session.connection().execute(
        sa.update(_CONNECTION)
        .where(
            _CONNECTION.c.id == connection_id,
            sa.or_(_CONNECTION.c.drain_owner.is_(None), _CONNECTION.c.drain_lease_until < now),
        )
        .values(drain_owner=owner, drain_lease_until=now + LEASE_MS)
    )
    if taken.rowcount != 1:
        return False
    reset_sending(connection_id)
    return True


def renew(connection_id: int, owner: str) -> bool:
    """Hold the lease on; False if it was lost. Also locks the connection's row until the commit."""
    held = db.session.connection().execute(
        sa.update(_CONNECTION)
        .where(_CONNECTION.c.id == connection_id, _CONNECTION.c.drain_owner == owner)
        .values(drain_lease_until=now_ms() + LEASE_MS)
    )
    return held.rowcount == 1


def release(connection_id: int, owner: str) -> None:
    """Let the connection go, if it is still ours."""
    db.session.connection().execute(
        sa.update(_CONNECTION)
        .where(_CONNECTION.c.id == connection_id, _CONNECTION.c.drain_owner == owner)
        .values(drain_owner=None, drain_lease_until=0)
    )


def reset_sending(connection_id: int) -> None:
    """Make what nobody sends any more wait again."""
    db.session.connection().execute(
        sa.update(_DELIVERY)
        .where(_DELIVERY.c.connection_id == connection_id, _DELIVERY.c.state == DeliveryState.SENDING)
        .values(state=DeliveryState.PENDING)
    )


def is_dead(owner: str) -> bool:
    """Whether the owner was a process of this host that has ended. False for other hosts: nobody knows."""
    host, pid, start, *_ = [*owner.rsplit(":", 3), "", "", ""]
    if host != _host() or not pid.isdigit():
        return False
    return _start_of(int(pid)) != start


@lru_cache(maxsize=1)
def _host() -> str:
    return socket.gethostname()[:60]


def _start_of(pid: int) -> str:
    """When the process started, in the kernel's own count; empty if there is none.

    Where there is no /proc the count is always 0, and only the pid tells.
    """
    if not Path("/proc/self/stat").exists():
        return "0" if _is_alive(pid) else ""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after_name[0] in ("Z", "X") else after_name[19]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
