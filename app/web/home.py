"""The page at `/`: what this is, and where its doors are."""

from flask import Blueprint, render_template

from app.config import settings

bp = Blueprint("home", __name__)


@bp.get("/")
def home() -> str:
    """A plain page without data of anybody."""
    config = settings()
    return render_template("home.html", name=config.instance_name, base_url=config.base_url)
