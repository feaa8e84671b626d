"""Leases: names of holders that a sweep on the same host can tell to be dead.

A name is `host:pid:start:token`. Pid and the process's start time say whether the holder still lives, long
before its lease ends; the token tells two holders in one process apart.
"""

import logging
import os
import socket
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from time import sleep

from sqlalchemy.exc import SQLAlchemyError

from app import processes
from app.clock import monotonic
from app.database import db

log = logging.getLogger(__name__)

#: How often a database that is away is asked again, in seconds.
_AGAIN_S = 0.25


def new_owner() -> str:
    """A new name of a holder in this process, at most 128 characters."""
    return f"{_host()}:{os.getpid()}:{_start_of(os.getpid())}:{token_hex(4)}"


def is_dead(owner: str) -> bool:
    """Whether the holder was a process of this host that has ended. False for other hosts: nobody knows."""
    host, pid, start, *_ = [*owner.rsplit(":", 3), "", "", ""]
    if host != _host() or not pid.isdigit():
        return False
    return _start_of(int(pid)) != start


def give_back(release: Callable[[], object], within_s: float) -> None:
    """Release a lease after the database failed its holder, as soon as it works again; at most so long.

    The holder lives on, so no sweep may free its lease: without this nobody could go on until the lease ends.
    Whoever waits here has nothing else to do, since all that it could do needs the database.
    """
    give_up_at = monotonic() + within_s
    while True:
        try:
            db.session.rollback()
            release()
            return
        except SQLAlchemyError:
            if monotonic() >= give_up_at:
                log.warning("lease.kept", exc_info=True)
                return
            sleep(_AGAIN_S)


@lru_cache(maxsize=1)
def _host() -> str:
    return socket.gethostname()[:60]


def _start_of(pid: int) -> str:
    """When the process started, in the kernel's own count; empty if it does not run.

    Where there is no /proc the count is always 0, and only the pid tells.
    """
    if not Path("/proc/self/stat").exists():
        return "0" if processes.is_alive(pid) else ""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after_name[0] in ("Z", "X") else after_name[19]
