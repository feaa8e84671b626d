"""Leases: names of holders that a sweep on the same host can tell to be dead.

A name is `host:pid:start:token`. Pid and the process's start time say whether the holder still lives, long
before its lease ends; the token tells two holders in one process apart.
"""

import os
import socket
from functools import lru_cache
from pathlib import Path
from secrets import token_hex

from app import processes


def new_owner() -> str:
    """A new name of a holder in this process, at most 128 characters."""
    return f"{_host()}:{os.getpid()}:{_start_of(os.getpid())}:{token_hex(4)}"


def is_dead(owner: str) -> bool:
    """Whether the holder was a process of this host that has ended. False for other hosts: nobody knows."""
    host, pid, start, *_ = [*owner.rsplit(":", 3), "", "", ""]
    if host != _host() or not pid.isdigit():
        return False
    return _start_of(int(pid)) != start


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
