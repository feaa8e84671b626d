"""What other shells want of a demo that runs: `flask demo break beta`, `flask demo heal beta`.

They say it through a named pipe in the demo's folder, one line each, and the demo does it, for the instances
are its children and must end with it. A pipe that nobody reads is of a demo that is gone.
"""

import errno
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.cli.demo.instances import StoryBroken

_PIPE = "wishes"


class Wishes:
    """The demo's end of the pipe."""

    def __init__(self, folder: Path) -> None:
        path = folder / _PIPE
        os.mkfifo(path, 0o600)
        # Open for both, so that it does not end when the first shell that writes has closed it.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""

    def wait(self) -> Iterator[tuple[str, str]]:
        """(verb, name) of each wish, for ever. A signal whose handler raises ends it."""
        while True:
            select.select([self._pipe], [], [])
            *lines, self._rest = (self._rest + os.read(self._pipe, 4096)).split(b"\n")
            for line in lines:
                verb, _, name = line.decode(errors="replace").partition(" ")
                yield verb, name


def wish(demos: Path, verb: str, name: str) -> None:
    """Say it to the demo that runs in one of these folders. Raises StoryBroken if there is not just one."""
    with _living(demos) as pipes:
        if not pipes:
            raise StoryBroken("no demo runs here; start one with `make demo` in another window")
        if len(pipes) > 1:
            raise StoryBroken(f"{len(pipes)} demos run here; end all but one with Ctrl-C")
        os.write(pipes[0], f"{verb} {name}\n".encode())


@contextmanager
def _living(demos: Path) -> Iterator[list[int]]:
    pipes: list[int] = []
    try:
        for path in sorted(demos.glob(f"*/{_PIPE}")):
            try:
                pipes.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                if error.errno not in (errno.ENXIO, errno.ENOENT):
                    raise
        yield pipes
    finally:
        for pipe in pipes:
            os.close(pipe)
