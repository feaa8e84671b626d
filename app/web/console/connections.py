"""Connections: request, compare keys, accept, suspend, end."""

from flask import Blueprint

bp = Blueprint("connections", __name__)
