"""HTTP in: each module reads a request, makes one call in one transaction, and answers."""

from flask import Flask

from app.web import console, errors, json, limits, ops, request_id, security, sessions
from app.web.api import routes
from app.web.peer import control, incoming, wellknown

#: Blueprints of the app, in the order in which they are registered.
BLUEPRINTS = (*routes.BLUEPRINTS, control.bp, incoming.bp, wellknown.bp, ops.bp)


def register(app: Flask) -> None:
    """Give the app its JSON, its headers and its pages."""
    app.json = json.OrjsonProvider(app)
    app.session_interface = sessions.Sessions()
    request_id.register(app)
    errors.register(app)
    limits.register(app)
    security.register(app)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    console.register(app)
