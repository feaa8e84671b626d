"""All modules of the API, so that importing this one declares every call."""

from flask import Blueprint

from app.web.api import api, connections, deliveries, docs, events, instance, publishing, subscriptions

#: Kept together with what they declare.
MODULES = (instance, connections, subscriptions, publishing, events, deliveries)

BLUEPRINTS: tuple[Blueprint, ...] = (api.blueprint, docs.bp)
