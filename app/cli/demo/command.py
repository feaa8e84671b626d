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
from typing import Any

import click
from flask.cli import with_appcontext

from app.cli.demo.instances import DemoInstance, Folder, StoryBroken, claim_ports, wait_for
from app.cli.demo.story import WORKSPACE, tell_story
from app.cli.demo.wishes import Wishes, wish
from app.cli.output import Failure, errors_in_one_line
from app.config import is_loopback, settings

#: Ports of alpha and beta where they are free.
PORTS = (8101, 8102)

NAMES = ("alpha", "beta")

#: What ends the demo. All of them end it in the same, clean way.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stopped(BaseException):
    """Somebody asked the demo to end."""


class _Demo(click.Group):
    """Commands that need no instance of their own, and whose errors are one line."""

    def invoke(self, ctx: click.Context) -> Any:
        with errors_in_one_line():
            return super().invoke(ctx)


@click.group(cls=_Demo, invoke_without_command=True)
@click.option("--once", is_flag=True, help="Tell the story, check it, clean up, and end with 0 or 1.")
@click.pass_context
@with_appcontext
def demo(context: click.Context, once: bool) -> None:
    """Run two real instances on this machine and tell what happens between them.

    They listen on 127.0.0.1 (ports 8101 and 8102, others where these are taken), keep everything in
    DATA_DIR/demo, and stay until Ctrl-C, which removes them again.
    """
    if context.invoked_subcommand is None:
        _demo(once)


@demo.command(name="break")
@click.argument("name", type=click.Choice(NAMES))
def break_(name: str) -> None:
    """Stop the instance NAME of the demo that runs, as if its machine were off."""
    _wish("break", name)
    click.echo(f"{name} is stopped. What is sent to it waits; `flask demo heal {name}` starts it again.")


@demo.command()
@click.argument("name", type=click.Choice(NAMES))
def heal(name: str) -> None:
    """Start the instance NAME again."""
    _wish("heal", name)
    click.echo(f"{name} is up again.")


def _wish(verb: str, name: str) -> None:
    try:
        wish(_demos(), verb, name)
        wait_for(f"{name} to {verb}", lambda: (_state(name) == verb) or None)
    except StoryBroken as broken:
        raise Failure(f"{str(broken)[0].upper()}{str(broken)[1:]}.") from None


def _demos() -> Path:
    """Where demos of this instance keep their folders."""
    return settings().data_dir / "demo"


def _state(name: str) -> str:
    """The last wish that was done for the instance."""
    try:
        [done] = [path.read_text() for path in _demos().glob(f"*/{name}.state")]
    except ValueError:
        return ""
    return done


def _demo(once: bool) -> None:
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
    folder = Folder(_demos() / uuid.uuid4().hex[:8])
    ports = claim_ports(PORTS)
    alpha, beta = (DemoInstance(name, folder, port) for name, port in zip(NAMES, ports, strict=True))
    pair = (alpha, beta)
    try:
        _start(pair)
        tell_story(alpha, beta, click.echo)
        if once:
            click.echo("\nAll of this was checked. Cleaning up.")
        else:
            wishes = Wishes(folder.path)
            _say_what_to_try(alpha, beta)
            for verb, name in wishes.wait():
                _do(verb, next(one for one in pair if one.name == name), folder)
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


def _do(verb: str, instance: DemoInstance, folder: Folder) -> None:
    """Do what another shell wants, and say there that it is done."""
    if verb == "break":
        instance.stop()
    elif not instance.is_up():
        instance.start()
        instance.wait_ready()
    click.echo(f"   {instance.name:<6} {'stopped' if verb == 'break' else 'is up again'}")
    done = folder.path / f"{instance.name}.part"
    done.write_text(verb)
    done.replace(folder.path / f"{instance.name}.state")


def _say_what_to_try(alpha: DemoInstance, beta: DemoInstance) -> None:
    click.echo("\nNow it is your turn: the workspace `default` of both is empty. Open both, side by side:")
    for instance in (alpha, beta):
        link = instance.flask("user", "link", instance.made["adminEmail"], "--minutes", "600")
        click.echo(f"   {instance.name:<6} {link['url']}   (signs you in once, as {link['email']})")
        click.echo(f"          password            {instance.made['adminPassword']}")
        click.echo(f"          API                 {instance.base_url}/api/docs")
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
        f"   {flask} -e {alpha.env_file} event verify last --workspace {WORKSPACE}\n"
        "\nAnd when both are connected, in another window:\n"
        f"   {flask} demo break beta   publish something at alpha and see it wait\n"
        f"   {flask} demo heal beta    and see it arrive\n"
        "\nCtrl-C stops both and removes everything."
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
