"""Keys of this instance, and the steps of changing them: announce, wait, activate; and revoke apart."""

from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.federation import rotation as service
from app.models import Role
from app.protocol.errors import Problem
from app.protocol.keys import Algorithm, KeyStatus
from app.reports import our_keys
from app.reports.our_keys import WORDS, Rotation
from app.web.console import gate, words
from app.web.console.connection_pages import pem_file
from app.web.console.forms import confirm_form
from app.web.console.gate import admin_page
from app.web.console.view import confirm, problems, redirect_done, redirect_refused, render

bp = Blueprint("keys", __name__)

HOME = "/admin/keys"

_ALGORITHMS = {"": None, "rsa": Algorithm.RSA, "ed25519": Algorithm.ED25519}


@bp.get(HOME)
@admin_page(Role.VIEWER)
def index() -> ResponseReturnValue:
    """Where a rotation stands, and all keys."""
    slugs = {one.workspace.id: one.workspace.slug for one in gate.memberships()}
    seen = our_keys.rotation(slugs)
    return render(
        "console/keys/index.html",
        title="Keys",
        active="keys",
        keys=our_keys.our_keys(),
        rotation=seen,
        slugs=slugs,
        kinds=WORDS,
    )


@bp.post(f"{HOME}/announce")
@admin_page(Role.ADMIN)
def announce() -> ResponseReturnValue:
    """Make the next key and tell the peers; a second post finds it made."""
    wanted = request.form.get("algorithm", "")
    if wanted not in _ALGORITHMS:
        return redirect_refused(HOME, "There is no such kind of key.")
    try:
        key = service.announce(_ALGORITHMS[wanted])
    except Problem as problem:
        return redirect_refused(HOME, problem)
    return redirect_done(HOME, f"{key.key_id} is announced; the peers are told.")


@bp.post(f"{HOME}/tell")
@admin_page(Role.ADMIN)
def tell() -> ResponseReturnValue:
    """Tell those again that do not have the newest key."""
    number = service.tell_again()
    peers = words.count(number, "peer")
    return redirect_done(HOME, f"{peers} told again now." if number else "All peers have it already.")


@bp.route(f"{HOME}/<key_id>/activate", methods=["GET", "POST"])
@admin_page(Role.ADMIN)
def activate(key_id: str) -> ResponseReturnValue:
    """Sign with the next key from now on; asks first, and names who does not have it yet."""
    key = our_keys.our_key(key_id)
    seen = our_keys.rotation([one.workspace.id for one in gate.memberships()])
    form = confirm_form()
    if form.validate_on_submit():
        with problems(form):
            service.activate(key.key_id)
            return redirect_done(HOME, f"{key.key_id} signs from now on; the one before it is retired.")
    return confirm(
        f"Activate {key.key_id}?",
        form=form,
        button=f"Activate {key.key_id}",
        back=HOME,
        keep="Not yet",
        lead="From then on it signs, and the key in use is retired: it signs nothing more.",
        consequences=_of_activation(seen) if seen else [],
        warning=_without(seen) if seen else "",
        crumbs=[("Keys", HOME)],
        command="flask key rotate --activate",
        active="keys",
        danger=False,
    )


@bp.route(f"{HOME}/<key_id>/revoke", methods=["GET", "POST"])
@admin_page(Role.ADMIN)
def revoke(key_id: str) -> ResponseReturnValue:
    """Let nobody trust a key any more, after its id was typed."""
    key = our_keys.our_key(key_id)
    form = confirm_form(key.key_id)
    if form.validate_on_submit():
        with problems(form):
            service.revoke(key.key_id)
            return redirect_done(HOME, f"{key.key_id} is revoked; the peers are told.")
    in_use = key.status is KeyStatus.ACTIVE
    following: list[tuple[int | str, str, str]] = [
        ("", "what it signed and is on its way", "refused by the peers, and signed again by the key in use"),
        (
            "",
            "events that peers have taken already",
            "stay theirs; they may mark them as signed by a revoked key",
        ),
    ]
    if in_use:
        following.insert(
            0, ("", "the key in use", "is followed by the next key, which is made now if there is none")
        )
    return confirm(
        f"Revoke {key.key_id}?",
        form=form,
        button=f"Revoke {key.key_id} for ever",
        back=HOME,
        keep="Keep it",
        lead="For a private key that somebody else may have. Rotating is the way for all else.",
        consequences=following,
        warning="A peer that hears of the revocation before it knows the next key asks its people whether "
        "they trust it. Nothing can take a revocation back.",
        crumbs=[("Keys", HOME)],
        command=f"flask key revoke {key.key_id}",
        active="keys",
    )


@bp.get(f"{HOME}/<key_id>.pem")
@admin_page(Role.VIEWER)
def public_key(key_id: str) -> ResponseReturnValue:
    """The public half of a key."""
    key = our_keys.our_key(key_id)
    return pem_file(key.key_id, key.public_key_pem)


def _of_activation(seen: Rotation) -> list[tuple[Any, str, str]]:
    have = len(seen.holders) - len(seen.stragglers)
    return [
        (have, "peers that have it", "nothing changes for them"),
        (seen.lacking, "peers that do not have it yet", "what is for them waits until they do"),
        (1, f"key in use ({seen.active.key_id})", "retired; stays published for what it signed"),
    ]


def _without(seen: Rotation) -> str:
    """Who does not have it, and what that means."""
    if not seen.lacking:
        return ""
    names = ", ".join(holder.name for holder in seen.stragglers[:5])
    others = seen.lacking - min(5, len(seen.stragglers))
    named = f"{names}{f' and {others} more' if names and others else ''}" or f"{others} peers"
    return (
        f"{named} did not confirm it yet. It is announced by the key that they know, so they take it over by "
        "themselves when they answer; until then what is for them waits."
    )
