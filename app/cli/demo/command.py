"""`flask demo`: starts the two instances, tells the story, stays until it is stopped, leaves nothing."""

import contextlib
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from flask.cli import with_appcontext

from app.cli.demo.instances import DemoInstance, Folder, StoryBroken, claim_ports
from app.cli.demo.story import WORKSPACE, tell_story
from app.cli.output import Command, Failure
from app.config import is_loopback, settings

#: Ports of alpha and beta where they are free.
PORTS = (8101, 8102)

NAMES = ("alpha", "beta")

#: What ends the demo. All of them end it in the same, clean way.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stopped(BaseException):
    """Somebody asked the demo to end."""


@click.command(cls=Command)
@click.option("--once", is_flag=True, help="Tell the story, check it, clean up, and end with 0 or 1.")
@with_appcontext
def demo(once: bool) -> None:
    """Run two real instances on this machine and tell what happens between them.

    They listen on 127.0.0.1 (ports 8101 and 8102, others where these are taken), keep everything in
    DATA_DIR/demo, and stay until Ctrl-C, which removes them again.
    """
    if not is_loopback(settings().base_url):
        raise Failure(
            f"The demo calls private addresses, so it does not run beside {settings().base_url}. "
            "Unset BASE_URL, or run it on another machine."
        )
    with _until_stopped():
        try:
            _run(once)
        except _Stopped:
            if once:
                raise Failure("The demo was stopped before its end. Run it again.") from None
            click.echo("\nStopped; nothing is left.", err=True)
        except StoryBroken as broken:
            raise Failure(f"The demo went wrong: {broken}. The logs: {_failed_logs()}/*.log") from broken


def _run(once: bool) -> None:
    folder = Folder(settings().data_dir / "demo" / uuid.uuid4().hex[:8])
    ports = claim_ports(PORTS)
    alpha, beta = (DemoInstance(name, folder, port) for name, port in zip(NAMES, ports, strict=True))
    pair = (alpha, beta)
    try:
        _start(pair)
        tell_story(alpha, beta, click.echo)
        if once:
            click.echo("\nAll of this was checked. Cleaning up.")
        else:
            _say_what_to_try(alpha, beta)
            signal.pause()
    except StoryBroken:
        _keep_logs(pair)
        raise
    finally:
        _clean_up(pair, folder)


def _start(pair: Iterable[DemoInstance]) -> None:
    click.echo("Two instances on this machine, each with its own database, keys and processes.")
    started = time.monotonic()
    for instance in pair:
        instance.make()
        instance.start()
    for instance in pair:
        instance.flask("workspace", "create", WORKSPACE)
        made = instance.flask("token", "create", "--workspace", WORKSPACE, "--name", "the demo's story")
        instance.token = made["token"]
        instance.wait_ready()
        click.echo(
            f"   {instance.name:<6} {instance.base_url}  instance {instance.made['instanceId']}  "
            f"process group {instance.process_group()}"
        )
    click.echo(f"   both are ready after {time.monotonic() - started:.1f} s")


def _say_what_to_try(alpha: DemoInstance, beta: DemoInstance) -> None:
    click.echo("\nNow it is your turn: the workspace `default` of both is empty.")
    for instance in (alpha, beta):
        click.echo(
            f"   {instance.name:<6} {instance.base_url}   API, described at {instance.base_url}/api/docs"
        )
        click.echo(f"          token of `default`  {instance.made['token']}")
        click.echo(f"          token of `{WORKSPACE}`    {instance.token}")
    api = f"{alpha.base_url}/api/v1/federation"
    event = '{"eventType":"task.created","payload":{"title":"Mine"}}'
    flask = Path(sys.executable).with_name("flask")
    click.echo(
        "\nThree commands to try:\n"
        f"   curl -s -H 'Authorization: Bearer {alpha.token}' -H 'Content-Type: application/json' "
        f"-d '{event}' {api}/events/publish\n"
        f"   {flask} -e {beta.env_file} event show last --workspace {WORKSPACE}\n"
        f"   {flask} -e {alpha.env_file} connection request {beta.base_url}\n"
        "\nA console in the browser is not there yet. Ctrl-C stops both and removes everything."
    )


def _failed_logs() -> Path:
    """Where the logs of a demo that went wrong are kept."""
    return settings().data_dir / "demo-failed"


def _keep_logs(pair: Iterable[DemoInstance]) -> None:
    _failed_logs().mkdir(exist_ok=True)
    for instance in pair:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(instance.log, _failed_logs())


def _clean_up(pair: Iterable[DemoInstance], folder: Folder) -> None:
    """End all processes, then remove the folder. A second Ctrl-C does not cut it short."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    for instance in pair:
        instance.ask_to_stop()
    for instance in pair:
        instance.stop()
    folder.remove()


@contextmanager
def _until_stopped() -> Iterator[None]:
    """Let the ending signals raise _Stopped."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _Stopped

    before = {number: signal.signal(number, stop) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
