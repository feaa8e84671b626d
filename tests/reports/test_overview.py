"""What needs a person: each kind of trouble shows, the worst first, and numbers end at a cap."""

import uuid

import pytest

from app import queue
from app.clock import now_ms
from app.database import db, transaction
from app.federation import rotation
from app.models import Connection, Direction
from app.protocol.states import ConnectionStatus, DeliveryState, SubscriptionStatus
from app.reports import overview
from app.reports.overview import Kind
from tests.exchange import RemotePeer, Scene, connect, make_scene, subscribe
from tests.reports.rows import add_delivery, add_event


@pytest.fixture
def scene(app: object) -> Scene:
    """A workspace with one connection that is as it should be, and a worker at work."""
    queue.beat()
    made = make_scene()
    _set(made.connection, verified_at=now_ms())
    return made


def _set(connection: Connection, **columns: object) -> None:
    with transaction():
        row = db.session.get_one(Connection, connection.id)
        for name, value in columns.items():
            setattr(row, name, value)


def _kinds(scene: Scene) -> list[Kind]:
    return [item.kind for item in overview.attention(scene.workspace.id)]


def test_nothing_needs_attention_while_all_is_well(scene: Scene) -> None:
    assert _kinds(scene) == []


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"key_review": True}, Kind.KEY_REVIEW),
        ({"hold_code": "access_denied", "hold_since": 1}, Kind.HELD),
        ({"failures": 5, "breaker_opened_at": 1}, Kind.BREAKER),
        ({"failures": 1}, Kind.FAILING),
        ({"verified_at": None}, Kind.NOT_COMPARED),
    ],
)
def test_trouble_of_a_connection_shows_with_its_connection(
    scene: Scene, columns: dict[str, object], kind: Kind
) -> None:
    _set(scene.connection, **columns)

    [item] = overview.attention(scene.workspace.id)

    assert (item.kind, item.connection_id) == (kind, scene.connection.public_id)


def test_a_clock_that_is_far_off_shows_how_far(scene: Scene) -> None:
    _set(scene.connection, clock_skew_ms=-334_000)

    [item] = overview.attention(scene.workspace.id)

    assert item.kind is Kind.CLOCK_SKEW
    assert "334 s behind ours" in item.what


def test_a_request_shows_before_keys_that_nobody_compared(scene: Scene) -> None:
    _set(scene.connection, verified_at=None)
    connect(
        scene.workspace,
        RemotePeer(),
        status=ConnectionStatus.PENDING,
        direction=Direction.INCOMING,
        remote_workspace_name="Fleet",
    )

    found = overview.attention(scene.workspace.id)

    assert [item.kind for item in found] == [Kind.REQUEST, Kind.NOT_COMPARED]
    assert "Fleet" in found[0].why


def test_a_request_that_was_not_checked_is_shown_to_nobody(scene: Scene) -> None:
    connect(scene.workspace, RemotePeer(), status=ConnectionStatus.PENDING, checked_at=None)

    assert _kinds(scene) == []


def test_more_of_one_kind_than_fit_are_one_line(scene: Scene) -> None:
    for _ in range(5):
        connect(scene.workspace, RemotePeer(), failures=2, verified_at=now_ms())

    found = overview.attention(scene.workspace.id)

    assert [item.kind for item in found] == [Kind.FAILING] * 4
    assert found[-1].what == "2 more connections"


def test_dead_letters_name_what_most_of_them_died_of(scene: Scene) -> None:
    for code in ("payload_invalid", "payload_invalid", "too_large"):
        event = add_event(scene.workspace.id)
        add_delivery(event, scene.connection, state=DeliveryState.DEAD, error_code=code)

    [item] = overview.attention(scene.workspace.id)

    assert (item.kind, item.what) == (Kind.DEAD_LETTERS, "3 dead letters")
    assert item.why == "2 of them: Peer, payload invalid"


def test_a_count_ends_one_beyond_its_cap(scene: Scene) -> None:
    for _ in range(4):
        add_delivery(add_event(scene.workspace.id), scene.connection, state=DeliveryState.PENDING)

    assert overview.count_up_to(scene.workspace.id, (DeliveryState.PENDING,), 2) == 3


def test_subscriptions_to_approve_name_peer_and_pattern(scene: Scene) -> None:
    subscribe(scene.connection, "stock.**", status=SubscriptionStatus.PENDING, granted_event_type=None)

    [item] = overview.attention(scene.workspace.id)

    assert (item.kind, item.what) == (Kind.APPROVAL, "1 subscription waits for your approval")
    assert "Peer stock.**" in item.why


def test_an_instance_without_a_worker_says_so_first(scene: Scene) -> None:
    queue.farewell()
    _set(scene.connection, failures=1)

    assert _kinds(scene) == [Kind.NO_WORKER, Kind.FAILING]


def test_a_rotation_under_way_says_how_many_peers_have_the_key(scene: Scene) -> None:
    rotation.announce()

    [item] = overview.attention(scene.workspace.id)

    assert item.kind is Kind.ROTATION
    assert item.why.startswith("0 of 1 peers")


def test_another_workspace_s_trouble_is_not_shown(scene: Scene) -> None:
    other = make_scene()
    _set(other.connection, key_review=True)

    assert _kinds(scene) == []


def test_the_checklist_goes_on_with_what_happened(scene: Scene) -> None:
    before = {step.name: step.is_done for step in overview.checklist(scene.workspace.id)}
    subscribe(scene.connection, "task.*")
    add_delivery(add_event(scene.workspace.id), scene.connection, state=DeliveryState.DELIVERED)

    after = {step.name: step.is_done for step in overview.checklist(scene.workspace.id)}

    assert [name for name in after if after[name] and not before[name]] == ["subscription", "event"]


def test_the_checklist_names_the_peer_whose_key_is_left(scene: Scene) -> None:
    _set(scene.connection, verified_at=None)

    last = overview.checklist(scene.workspace.id)[-1]

    assert (last.is_done, last.left) == (False, "Peer is left; takes one phone call")


def test_an_instance_that_is_new_says_so_by_its_checklist(app: object) -> None:
    scene = make_scene(RemotePeer(instance_id=str(uuid.uuid4())))
    _set(scene.connection, activated_at=None, status=ConnectionStatus.REQUESTED)

    assert [step.name for step in overview.checklist(scene.workspace.id) if step.is_done] == []
