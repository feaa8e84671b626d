"""Who we are: the instance document and our public keys, for everybody (§2)."""

from flask import Blueprint, Response

from app.federation import identity
from app.protocol.errors import NotFound
from app.web.json import Answer

bp = Blueprint("peer_wellknown", __name__)

#: A document may be kept, but not used without asking again: a key in it may have been revoked.
_NO_CACHE = {"Cache-Control": "no-cache"}


@bp.get("/.well-known/tidings-instance")
@bp.get("/api/v1/federation/instance")
def instance() -> Response:
    """The signed instance document."""
    return Answer(identity.instance_document(), headers=_NO_CACHE)


@bp.get("/api/v1/federation/keys/<key_id>")
def key(key_id: str) -> Response:
    """The record of one of our keys, old ones included."""
    record = identity.key_record(key_id)
    if record is None:
        raise NotFound("There is no such key.")
    return Answer(record, headers=_NO_CACHE)
