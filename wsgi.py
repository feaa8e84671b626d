"""Where the environment is read: `flask` and gunicorn find the app here.

A setting that cannot be right ends the process with one line and exit code 2.
"""

import logging
import os
import sys

from dotenv import dotenv_values
from flask import Flask

from app import cli, create_app, log
from app.config import ROOT, Config, SettingInvalid


def environment() -> dict[str, str]:
    """The process's environment over the `.env` file beside this one (unless FLASK_SKIP_DOTENV says no)."""
    skip = os.environ.get("FLASK_SKIP_DOTENV", "").lower() in ("1", "true", "yes")
    kept = {} if skip else dotenv_values(ROOT / ".env")
    return {name: value for name, value in kept.items() if value is not None} | dict(os.environ)


def make_app() -> Flask:
    """The app as the environment wants it."""
    command = cli.command_of(sys.argv)
    if cli.is_brief(command):
        log.configure(as_json=False, level=logging.WARNING)
    else:
        log.configure()
    environ = environment()
    try:
        return create_app(Config.from_env(environ, make=not cli.makes_nothing(command)))
    except SettingInvalid as problem:
        if "--help" in sys.argv:
            # Whoever asks for help is perhaps about to mend the setting.
            return create_app(Config.unchecked())
        sys.stderr.write(f"{problem}\n")
        sys.exit(2)


app = make_app()
