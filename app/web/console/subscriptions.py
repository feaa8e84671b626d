"""Subscriptions, in both directions: make, approve, end."""

from flask import Blueprint

bp = Blueprint("subscriptions", __name__)
