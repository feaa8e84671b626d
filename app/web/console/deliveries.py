"""Deliveries: what is on its way to whom, and send again."""

from flask import Blueprint

bp = Blueprint("deliveries", __name__)
