"""Who we are: the instance document and our public keys, for everybody (§2)."""

import orjson
from flask import Blueprint, Response

from app.federation import identity
from app.protocol.errors import NotFound

bp = Blueprint("peer_wellknown", __name__)


@bp.get("/.well-known/tidings-instance")
@bp.get("/api/v1/federation/instance")
def instance() -> Response:
    """The signed instance document."""
    return _json(identity.instance_document())


@bp.get("/api/v1/federation/keys/<key_id>")
def key(key_id: str) -> Response:
    """The record of one of our keys, old ones included."""
    record = identity.key_record(key_id)
    if record is None:
        raise NotFound("There is no such key.")
    return _json(record)


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), mimetype="application/json", headers={"Cache-Control": "no-cache"})
