"""All modules of the API, so that importing this one declares every call."""

from flask import Blueprint

from app.web.api import api, connections, docs, events, instance, publishing, subscriptions

#: Kept together with what they declare.
MODULES = (instance, connections, subscriptions, publishing, events)

BLUEPRINTS: tuple[Blueprint, ...] = (api.blueprint, docs.bp)
