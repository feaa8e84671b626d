"""`flask doctor`: what is right and what is not, each failed check with its fix."""

import click
from flask.cli import with_appcontext

from app.cli.output import Command, Exit, note, output_option, print_json
from app.reports import health


@click.command(cls=Command)
@output_option
@click.pass_context
@with_appcontext
def doctor(context: click.Context, output: str) -> None:
    """Look at everything that can be looked at from here. Ends with 1 if a check failed."""
    checks = health.doctor()
    failed = [check for check in checks if not check["ok"]]
    if output == "json":
        print_json({"ok": not failed, "checks": checks})
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check['ok'] else 'FAIL'}  {check['name']}: {check['detail']}")
            if not check["ok"]:
                click.echo(f"      {check['fix']}")
    if failed:
        note(f"{len(failed)} of {len(checks)} checks failed; the line below each says what to do.")
        context.exit(Exit.FAILED)
