"""Tidings: events between organisations, signed, stored and acknowledged.

`create_app` joins the parts. It reads no environment: wsgi.py does, once.
"""

from flask import Flask
from flask_migrate import Migrate

from app import cli, clock, models, queue, web
from app.config import ROOT, Config
from app.database import db, engine_options
from app.jobs.consequences import plug_in

__all__ = ["create_app", "models"]


def create_app(config: Config) -> Flask:
    """A Flask app with these settings. Opens no connection and starts nothing."""
    app = Flask(
        "app",
        template_folder=str(ROOT / "templates"),
        static_folder=str(ROOT / "static"),
        instance_path=str(config.data_dir),
    )
    app.extensions["tidings"] = config
    app.config.update(
        SECRET_KEY=config.secret_key,
        SQLALCHEMY_DATABASE_URI=config.database_url,
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(config.database_url),
        SESSION_COOKIE_SECURE=config.base_url.startswith("https://"),
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
    )
    db.init_app(app)
    Migrate(app, db, directory=str(ROOT / "migrations"), render_as_batch=True, compare_type=True)
    clock.set_offset_ms(config.clock_offset_ms)
    queue.init_app(app, config)
    plug_in()
    web.register(app)
    cli.register(app)
    return app
