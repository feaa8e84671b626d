"""What a process can ask of its system: end with the parent, keep little memory, tell who still lives."""

import ctypes
import ctypes.util
import os
import signal
import sys

#: <sys/prctl.h> and <malloc.h>
_PR_SET_PDEATHSIG = 1
_M_ARENA_MAX = -8
#: Memory pools of all threads of one process; the default of eight a core costs tens of megabytes.
_ARENAS = 2

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the system send us `number` when our parent ends, even if it was killed. Linux only; else nothing.

    parent: its pid, as it knew it before the fork. If it has ended already, so do we.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def is_alive(pid: int) -> bool:
    """Whether a process of this host runs, be it ours or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def use_few_arenas() -> None:
    """Let this process and those it forks share few memory pools among their threads (glibc only)."""
    if _LIBC is not None and hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_ARENA_MAX, _ARENAS)
