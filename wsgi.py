"""Where the environment is read: `flask` and gunicorn find the app here.

A setting that cannot be right ends the process with one line and exit code 2.
"""

import gc
import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module

from dotenv import dotenv_values
from flask import Flask

from app import cli, log
from app.config import ROOT, Config, SettingInvalid


def environment() -> dict[str, str]:
    """The process's environment over the `.env` file beside this one (unless FLASK_SKIP_DOTENV says no)."""
    skip = os.environ.get("FLASK_SKIP_DOTENV", "").lower() in ("1", "true", "yes")
    kept = {} if skip else dotenv_values(ROOT / ".env")
    return {name: value for name, value in kept.items() if value is not None} | dict(os.environ)


def make_app() -> Flask:
    """The app as the environment wants it, with as much of it as the command needs."""
    is_command = os.environ.get("FLASK_RUN_FROM_CLI") == "true"
    word = cli.word_of(sys.argv[1:]) if is_command else None
    if is_command and word is None:
        # A list of the commands, which runs none.
        app = Flask("app")
        cli.register(app)
        return app
    kind = cli.kind_of(word)
    create: Callable[[Config], Flask]
    if kind is cli.Kind.RUNS:
        log.configure()
        create = import_module("app.factory").create_app
    else:
        log.configure(as_json=False, level=logging.WARNING)
        create = import_module("app.core").create_core
    environ = environment()
    try:
        return create(Config.from_env(environ, make=kind is not cli.Kind.WORKS))
    except SettingInvalid as problem:
        if "--help" in sys.argv:
            # Whoever asks for help is perhaps about to mend the setting.
            return create(Config.unchecked())
        sys.stderr.write(f"{problem}\n")
        sys.exit(2)


# Loading throws little away, and looking for it again and again would cost a tenth of the start.
gc.disable()
app = make_app()
gc.enable()
