"""Workspaces: parts of the organisation, each with its own connections, events and tokens."""

import contextlib
import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from app import clock
from app.access import audit
from app.database import db, transaction
from app.models import Member, Role, Workspace
from app.protocol.errors import InvalidRequest, NotFound, invalid
from app.protocol.members import is_slug

#: Slug of the first workspace, which requests without `toWorkspace` reach.
DEFAULT_SLUG = "default"


def create(slug: str, name: str | None = None, *, is_default: bool = False) -> Workspace:
    """Make a workspace. Commits. Raises InvalidRequest for a slug that is none or is taken."""
    if not is_slug(slug):
        raise invalid("/slug", "a slug has 1 to 64 characters of a-z, 0-9 and -")
    if name is not None and not 1 <= len(name) <= 200:
        raise invalid("/name", "a workspace's name has 1 to 200 characters")
    with transaction():
        if _find(slug) is not None:
            raise invalid("/slug", f"there is a workspace {slug} already", "taken")
        workspace = Workspace(
            public_id=str(uuid.uuid4()),
            slug=slug,
            name=name or slug,
            is_default=is_default,
            created_at=clock.now_ms(),
        )
        db.session.add(workspace)
        db.session.flush()
        # The default one comes with the instance; nobody makes it.
        if not is_default:
            audit.record(
                "workspace.create",
                "workspace",
                workspace.public_id,
                after={"slug": slug, "name": workspace.name},
                workspace_id=workspace.id,
            )
    return workspace


def create_for(user_id: int, slug: str, name: str | None = None) -> Workspace:
    """Make a workspace whose owner is this user. Commits. Raises InvalidRequest as `create` does."""
    with transaction():
        workspace = create(slug, name)
        db.session.add(Member(user_id=user_id, workspace_id=workspace.id, role=Role.OWNER))
    return workspace


def by_slug(slug: str) -> Workspace:
    """The workspace with this slug. Raises NotFound."""
    workspace = _find(slug)
    if workspace is None:
        raise NotFound(f"there is no workspace {slug}")
    return workspace


def ensure_default() -> Workspace:
    """The default workspace, made if there is none yet. Commits. Several processes may call it at once."""
    found = _default()
    if found is None:
        # Another process may be quicker; its row is then the one that counts.
        with contextlib.suppress(IntegrityError, InvalidRequest):
            return create(DEFAULT_SLUG, is_default=True)
        found = _default()
    if found is None:
        raise NotFound(f"the workspace {DEFAULT_SLUG} is not the default one")
    return found


def list_workspaces() -> Sequence[Workspace]:
    """All workspaces, by slug."""
    return db.session.scalars(sa.select(Workspace).order_by(Workspace.slug)).all()


def _default() -> Workspace | None:
    return db.session.scalar(sa.select(Workspace).where(Workspace.is_default))


def _find(slug: str) -> Workspace | None:
    return db.session.scalar(sa.select(Workspace).where(Workspace.slug == slug))
