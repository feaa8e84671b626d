"""Tidings: events between organisations, signed, stored and acknowledged.

`create_app` joins the parts. It reads no environment: wsgi.py does, once. It is loaded when somebody asks for
it, so that who imports one module of ours waits for what that one needs, and for nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.factory import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """`create_app`, from where it is written."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("app.factory"), name)
