"""What callers of the API change is noted with their token."""

import sqlalchemy as sa

from app.database import db
from app.models import AuditEntry
from tests.exchange import Scene
from tests.web.api.conftest import Caller


def test_a_change_by_the_api_is_noted_with_the_token(caller: Caller, scene: Scene) -> None:
    body = {"connectionId": scene.connection.public_id, "eventType": "audited.event"}
    answer = caller.post("/events/subscribe", body)

    entry = db.session.scalars(sa.select(AuditEntry).where(AuditEntry.actor_kind == "token")).one()
    assert answer.status_code == 201
    assert entry.action == "subscription.create"
    assert entry.actor_name == caller.secret[:12]
    assert entry.request_id == answer.headers["X-Request-Id"]
