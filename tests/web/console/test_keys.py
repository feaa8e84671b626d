"""Keys: the steps of a rotation with two real instances, who has the next key, and revoking apart."""

from collections.abc import Iterator

import pytest

from app.database import db
from app.federation import rotation
from app.models import AuditEntry, SigningKey
from app.protocol.keys import KeyStatus
from tests.exchange import RemotePeer, connect, make_scene
from tests.federation.conftest import Pair, connected, make_side, no_wait, pair
from tests.web.console.conftest import Console

__all__ = ["connected", "make_side", "no_wait", "pair"]

HOME = "/admin/keys"


@pytest.fixture
def alpha(connected: Pair) -> Iterator[Console]:
    """An administrator at alpha, which beta knows."""
    with connected.alpha.app.app_context():
        console = Console(connected.alpha.app, connected.alpha.app.test_client())
        console.sign_in("admin")
        yield console


def _keys() -> dict[KeyStatus, SigningKey]:
    db.session.rollback()
    return {key.status: key for key in db.session.query(SigningKey).populate_existing()}


def test_the_page_says_what_signs_and_who_has_it(alpha: Console) -> None:
    page = alpha.page(HOME)

    [row] = page.rows("#keys")
    assert (row[1], row[2], row[6]) == ("active", "RSA", "1 of 1")
    assert page.texts(".steps .is-now strong") == ["Publish the next key"]


def test_a_rotation_goes_step_by_step_and_names_who_is_late(connected: Pair, alpha: Console) -> None:
    announced = alpha.follow(alpha.post(f"{HOME}/announce"))
    late = announced.texts(".steps .is-now strong"), announced.rows("#have")[0][:2]
    connected.settle()
    key_id = _keys()[KeyStatus.NEXT].key_id
    ready = alpha.page(HOME)
    done = alpha.follow(alpha.post(f"{HOME}/{key_id}/activate"))

    assert late == (["Wait until peers have it"], ["Beta", "not yet"])
    assert ready.texts(".steps .is-now strong") == [f"Activate {key_id}"]
    assert ready.rows("#have")[0][:2] == ["Beta", "yes"]
    assert f"{key_id} signs from now on" in done.text
    assert _keys()[KeyStatus.ACTIVE].key_id == key_id
    assert [row[1] for row in done.rows("#keys")] == ["active", "retired"]


def test_a_second_post_finds_the_key_made(alpha: Console) -> None:
    alpha.post(f"{HOME}/announce")
    alpha.post(f"{HOME}/announce")

    assert len(alpha.page(HOME).rows("#keys")) == 2


def test_an_activation_without_all_peers_names_them_first(alpha: Console) -> None:
    key = rotation.announce()

    page = alpha.page(f"{HOME}/{key.key_id}/activate")

    assert "Beta did not confirm it yet" in page.text
    assert [row[0] for row in page.rows("#effects")] == ["0", "1", "1"]


def test_who_is_late_is_told_again(connected: Pair, alpha: Console) -> None:
    rotation.announce()

    said = alpha.follow(alpha.post(f"{HOME}/tell"))

    assert "1 peer told again now" in said.text


def test_what_cannot_be_activated_says_why(alpha: Console) -> None:
    key = rotation.announce()
    rotation.revoke(key.key_id)

    page = alpha.post_page(f"{HOME}/{key.key_id}/activate")

    assert page.status == 422
    assert "only a next key can be activated" in page.text


def test_revoking_wants_the_key_s_id_typed(alpha: Console) -> None:
    key = rotation.announce()

    page = alpha.page(f"{HOME}/{key.key_id}/revoke")
    wrong = alpha.post_page(f"{HOME}/{key.key_id}/revoke", typed="k-other")
    before = set(_keys())
    alpha.post(f"{HOME}/{key.key_id}/revoke", {**page.fields(), "typed": key.key_id})

    assert (wrong.status, before) == (422, {KeyStatus.ACTIVE, KeyStatus.NEXT})
    assert set(_keys()) == {KeyStatus.ACTIVE, KeyStatus.REVOKED}
    assert db.session.query(AuditEntry.action).order_by(AuditEntry.id.desc()).first() == ("key.revoke",)


def test_a_public_key_can_be_saved_and_a_private_one_is_nowhere(alpha: Console) -> None:
    key = _keys()[KeyStatus.ACTIVE]

    answer = alpha.get(f"{HOME}/{key.key_id}.pem")

    assert answer.text == key.public_key_pem
    assert key.private_key_sealed not in alpha.get(HOME).text
    assert alpha.get(f"{HOME}/k-none.pem").status_code == 404


def test_a_kind_that_is_none_changes_nothing(alpha: Console) -> None:
    said = alpha.follow(alpha.post(f"{HOME}/announce", algorithm="md5"))

    assert "no such kind" in said.text
    assert set(_keys()) == {KeyStatus.ACTIVE}


def test_a_viewer_sees_the_steps_and_may_take_none(alpha: Console) -> None:
    key_id = _keys()[KeyStatus.ACTIVE].key_id
    alpha.sign_in("viewer")

    page = alpha.page(HOME)

    assert page.is_disabled("Publish the next key")
    assert page.is_disabled("Revoke")
    assert alpha.post(f"{HOME}/announce").status_code == 403
    assert alpha.get(f"{HOME}/{key_id}/revoke").status_code == 403


def test_peers_of_other_workspaces_are_counted_and_not_named(alpha: Console) -> None:
    elsewhere = make_scene(RemotePeer())
    connect(elsewhere.workspace, RemotePeer())
    rotation.announce()

    page = alpha.page(HOME)

    assert [row[0] for row in page.rows("#have")] == ["Beta"]
    assert "2 connections of workspaces that you are not in are not named" in page.text
