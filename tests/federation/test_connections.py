"""Connections, from both sides."""

import pytest

from app import clock
from app.database import db, transaction
from app.errors import ConnectionExists, RemoteInvalid, RemoteUnreachable
from app.federation import asking, connections, identity, lifecycle, trust
from app.models import AuditEntry, Connection, ControlOut, ControlState, Direction, Stream
from app.protocol.errors import Blocked, InvalidRequest, InvalidState, NotFound
from app.protocol.states import ConnectionStatus
from tests.federation.conftest import MakeSide, Pair, Side


def test_preview_tells_what_the_remote_says_and_stores_nothing(pair: Pair) -> None:
    seen = pair.alpha.do(asking.preview, pair.beta.url)

    assert (seen.name, seen.base_url, seen.is_self) == ("Beta", pair.beta.url, False)
    assert abs(seen.clock_skew_ms) < 5_000
    assert pair.alpha.rows(Connection) == []


def test_preview_of_an_instance_shows_the_same_pairing_code_on_both_sides(pair: Pair) -> None:
    of_beta = pair.alpha.do(asking.preview, pair.beta.url)
    of_alpha = pair.beta.do(asking.preview, pair.alpha.url)

    assert of_beta.pairing_code == of_alpha.pairing_code
    assert of_beta.fingerprint != of_alpha.fingerprint


def test_both_sides_are_active_after_accept_and_have_agreed(pair: Pair) -> None:
    pair.connect()

    mine, theirs = pair.alpha.connection(), pair.beta.connection()
    assert mine.status == theirs.status == ConnectionStatus.ACTIVE
    assert mine.wire_connection_id == theirs.wire_connection_id
    assert (mine.direction, theirs.direction) == (Direction.OUTGOING, Direction.INCOMING)
    agreed = ("1.0", '["ed25519", "tree", "reconcile"]')
    assert (mine.version, mine.features) == (theirs.version, theirs.features) == agreed
    assert mine.remote_workspace_slug == theirs.remote_workspace_slug == "default"


def test_each_side_begins_a_stream_and_verifies_when_it_is_first_active(connected: Pair) -> None:
    for side in (connected.alpha, connected.beta):
        [stream] = side.rows(Stream, Stream.direction == Direction.OUTGOING)
        assert stream.head_sequence == 0
        [verification] = side.rows(ControlOut, ControlOut.type == "verification")
        assert verification.state == ControlState.ANSWERED
        assert verification.error_code is None


def test_a_second_request_is_refused_while_one_waits_or_is_open(pair: Pair) -> None:
    pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.beta.url)

    with pytest.raises(ConnectionExists):
        pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.beta.url)
    with pytest.raises(ConnectionExists):
        pair.alpha.do(
            asking.initiate, pair.alpha.workspace_id, pair.beta.url, to_workspace="other", replace=True
        )


def test_an_open_connection_is_replaced_when_the_new_one_is_accepted(connected: Pair) -> None:
    old = connected.alpha.connection().id

    connected.alpha.do(asking.initiate, connected.alpha.workspace_id, connected.beta.url, replace=True)
    connected.settle()
    asked = connected.beta.connection()
    connected.beta.do(connections.accept, asked.id)
    connected.settle()

    assert asked.replaces_id is not None
    statuses = [row.status for row in connected.alpha.rows(Connection)]
    assert statuses == [ConnectionStatus.DISCONNECTED, ConnectionStatus.ACTIVE]
    assert [row.status for row in connected.beta.rows(Connection)] == statuses
    assert connected.alpha.rows(Connection)[0].id == old


def test_after_a_disconnect_a_new_request_makes_a_new_connection(connected: Pair) -> None:
    connected.alpha.do(connections.disconnect, connected.alpha.connection().id)
    connected.settle()

    connected.connect()

    assert connected.alpha.connection().status == ConnectionStatus.ACTIVE
    assert len({row.wire_connection_id for row in connected.beta.rows(Connection)}) == 2


def test_only_the_asked_side_answers_a_request(pair: Pair) -> None:
    mine = pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.beta.url)
    pair.settle()

    with pytest.raises(InvalidState):
        pair.alpha.do(connections.accept, mine.id)
    with pytest.raises(InvalidState):
        pair.alpha.do(connections.reject, mine.id)


def test_a_rejection_ends_it_on_both_sides_with_its_reason(pair: Pair) -> None:
    pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.beta.url)
    pair.settle()

    pair.beta.do(connections.reject, pair.beta.connection().id, "not now")
    pair.settle()

    for side in (pair.alpha, pair.beta):
        assert (side.connection().status, side.connection().reason) == ("rejected", "not now")


def test_a_request_can_be_taken_back_before_it_is_answered(pair: Pair) -> None:
    mine = pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.beta.url)
    pair.settle()

    pair.alpha.do(connections.disconnect, mine.id)
    pair.settle()

    assert pair.beta.connection().status == ConnectionStatus.DISCONNECTED


def test_both_may_suspend_and_each_takes_back_its_own(connected: Pair) -> None:
    alpha, beta = connected.alpha, connected.beta
    mine, theirs = alpha.connection().id, beta.connection().id

    seen = []
    for side, act, connection_id in (
        (alpha, connections.suspend, mine),
        (beta, connections.suspend, theirs),
        (alpha, connections.resume, mine),
        (beta, connections.resume, theirs),
    ):
        side.do(act, connection_id)
        connected.settle()
        a, b = alpha.connection(), beta.connection()
        seen.append((a.status.value, a.suspended_by_me, a.suspended_by_peer))
        assert (b.status, b.suspended_by_me, b.suspended_by_peer) == (
            a.status,
            a.suspended_by_peer,
            a.suspended_by_me,
        )

    assert seen == [
        ("suspended", True, False),
        ("suspended", True, True),
        ("suspended", False, True),
        ("active", False, False),
    ]


def test_only_who_suspended_may_resume(connected: Pair) -> None:
    connected.alpha.do(connections.suspend, connected.alpha.connection().id)
    connected.settle()

    with pytest.raises(InvalidState, match="by the other side"):
        connected.beta.do(connections.resume, connected.beta.connection().id)
    with pytest.raises(InvalidState):
        connected.alpha.do(connections.suspend, connected.alpha.connection().id)


def test_what_comes_in_is_taken_until_the_peer_knows_of_the_suspension(connected: Pair) -> None:
    connection_id = connected.alpha.connection().id

    suspended = connected.alpha.do(connections.suspend, connection_id)

    now_ms = clock.now_ms()
    assert not lifecycle.is_sending(suspended)
    assert lifecycle.refusal_of_events(suspended, now_ms) is None
    assert lifecycle.refusal_of_events(suspended, now_ms + lifecycle.GRACE_MS + 1) is not None
    connected.settle()
    assert lifecycle.refusal_of_events(connected.alpha.connection(), now_ms) is not None


def test_what_comes_in_is_taken_from_the_accept_on(pair: Pair) -> None:
    pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.beta.url)
    pair.settle()

    accepted = pair.beta.do(connections.accept, pair.beta.connection().id)

    assert accepted.status == ConnectionStatus.PENDING
    assert lifecycle.refusal_of_events(accepted, clock.now_ms()) is None


def test_a_resume_that_was_overtaken_by_a_suspension_changes_nothing(connected: Pair) -> None:
    connection_id = connected.alpha.connection().id
    connected.alpha.do(connections.suspend, connection_id)
    connected.settle()

    connected.alpha.do(connections.resume, connection_id)
    connected.alpha.do(connections.suspend, connection_id)
    connected.settle()

    assert connected.alpha.connection().suspended_by_me
    assert connected.beta.connection().suspended_by_peer
    assert connected.beta.connection().status == ConnectionStatus.SUSPENDED


def test_a_disconnect_ends_it_on_both_sides_whatever_the_state(connected: Pair) -> None:
    connected.beta.do(connections.suspend, connected.beta.connection().id)
    connected.settle()

    connected.alpha.do(connections.disconnect, connected.alpha.connection().id, "moving on")
    connected.settle()

    for side in (connected.alpha, connected.beta):
        assert (side.connection().status, side.connection().reason) == ("disconnected", "moving on")
    with pytest.raises(InvalidState):
        connected.alpha.do(connections.disconnect, connected.alpha.connection().id)


def test_verify_measures_the_round_trip(connected: Pair) -> None:
    result = connected.alpha.do(connections.verify, connected.alpha.connection().id)

    assert (result.status, result.matched) == ("active", True)
    assert 0 <= result.round_trip_ms < 15_000


def test_verify_says_when_the_other_side_is_away(connected: Pair) -> None:
    connected.beta.server.shutdown()
    connected.beta.server.server_close()

    with pytest.raises(RemoteUnreachable):
        connected.alpha.do(connections.verify, connected.alpha.connection().id)
    assert connected.alpha.connection().status == ConnectionStatus.ACTIVE


def test_an_instance_does_not_connect_to_itself(pair: Pair) -> None:
    with pytest.raises(InvalidRequest, match="itself"):
        pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.alpha.url)


def test_a_blocked_instance_is_not_asked(make_side: MakeSide) -> None:
    beta = make_side()
    alpha = make_side(FEDERATION_BLOCKED=beta.url)

    with pytest.raises(Blocked):
        alpha.do(asking.initiate, alpha.workspace_id, beta.url)


@pytest.mark.parametrize("url", ["ftp://x.example", "http://x.example/path", "http://[", ""])
def test_a_url_that_is_no_origin_is_refused_by_its_pointer(pair: Pair, url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        pair.alpha.do(asking.preview, url)

    assert refused.value.errors[0].pointer == "/remoteUrl"


def test_a_server_that_is_no_instance_is_invalid_and_one_that_is_away_unreachable(pair: Pair) -> None:
    pair.beta.server.app = lambda _environ, start: (start("200 OK", []), [b"{}"])[1]
    with pytest.raises(RemoteInvalid):
        pair.alpha.do(asking.preview, pair.beta.url)

    pair.beta.server.shutdown()
    pair.beta.server.server_close()
    with pytest.raises(RemoteUnreachable):
        pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.beta.url)


def test_policy_accepts_the_origins_that_it_names(make_side: MakeSide) -> None:
    alpha = make_side()
    beta = make_side(FEDERATION_AUTO_ACCEPT=alpha.url)
    pair = Pair(alpha, beta)

    alpha.do(asking.initiate, alpha.workspace_id, beta.url)
    pair.settle()

    assert alpha.connection().status == beta.connection().status == ConnectionStatus.ACTIVE


def test_a_request_to_an_unknown_workspace_is_dropped_without_a_word(pair: Pair) -> None:
    pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.beta.url, to_workspace="nowhere")
    pair.settle()

    assert pair.beta.rows(Connection) == []
    assert pair.alpha.connection().status == ConnectionStatus.REQUESTED
    [request] = pair.alpha.rows(ControlOut)
    assert (request.state, request.answer_status) == (ControlState.ANSWERED, "pending")


def test_an_unanswered_request_expires_on_both_sides_without_a_message(pair: Pair) -> None:
    pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.beta.url)
    pair.settle()
    sent = len(pair.alpha.rows(ControlOut))

    with clock.frozen_at(clock.now_ms() + 14 * 86_400_000 + 1):
        assert pair.alpha.do(connections.expire_due) == 1
        assert pair.beta.do(connections.expire_due) == 1

    assert pair.alpha.connection().status == pair.beta.connection().status == ConnectionStatus.EXPIRED
    assert len(pair.alpha.rows(ControlOut)) == sent


@pytest.mark.parametrize("first", ["alpha", "beta"])
def test_requests_that_cross_become_one_connection(pair: Pair, first: str) -> None:
    sides = (pair.alpha, pair.beta) if first == "alpha" else (pair.beta, pair.alpha)
    for side, other in (sides, sides[::-1]):
        side.do(asking.initiate, side.workspace_id, other.url)

    pair.settle()

    for side in sides:
        statuses = sorted(row.status.value for row in side.rows(Connection))
        assert statuses.count("active") == 1
        assert set(statuses) <= {"active", "expired", "rejected"}
    [kept] = pair.alpha.rows(Connection, Connection.status == ConnectionStatus.ACTIVE)
    [other_kept] = pair.beta.rows(Connection, Connection.status == ConnectionStatus.ACTIVE)
    assert kept.wire_connection_id == other_kept.wire_connection_id


def test_a_crossed_rejection_that_comes_first_is_remembered(pair: Pair) -> None:
    small, large = sorted((pair.alpha, pair.beta), key=_instance_id)
    # The smaller one asks, but its request is not sent yet; the larger one's arrives and is rejected first.
    small.do(asking.initiate, small.workspace_id, large.url)
    large.do(asking.initiate, large.workspace_id, small.url)
    large.work()
    [own] = small.rows(Connection, Connection.direction == Direction.OUTGOING)
    [request] = small.rows(ControlOut, ControlOut.connection_id == own.id)
    with small.app.app_context(), transaction():
        held = db.session.get_one(ControlOut, request.id)
        held.next_attempt_at += 3_600_000
    small.work()
    small.work()
    [rejected] = large.rows(Connection, Connection.direction == Direction.OUTGOING)
    assert (rejected.status, rejected.reason) == ("rejected", "crossed")

    with small.app.app_context(), transaction():
        db.session.get_one(ControlOut, request.id).next_attempt_at = 0
    pair.settle()

    [kept] = large.rows(Connection, Connection.direction == Direction.INCOMING)
    assert kept.status == ConnectionStatus.ACTIVE


def test_a_connection_of_another_workspace_is_not_found(connected: Pair) -> None:
    public_id = connected.alpha.connection().public_id

    with pytest.raises(NotFound):
        connected.alpha.do(lifecycle.get_connection, connected.alpha.workspace_id + 1, public_id)
    with pytest.raises(NotFound):
        connected.alpha.do(lifecycle.get_connection, connected.alpha.workspace_id, "no uuid")


def test_a_pause_holds_one_direction_and_is_told_to_nobody(connected: Pair) -> None:
    connection_id = connected.alpha.connection().id
    sent = len(connected.alpha.rows(ControlOut))

    paused = connected.alpha.do(connections.pause, connection_id, Direction.OUTGOING)
    assert (paused.paused_outgoing, paused.paused_incoming) == (True, False)
    assert not lifecycle.is_sending(paused)
    assert lifecycle.refusal_of_events(paused, clock.now_ms()) is None

    going = connected.alpha.do(connections.unpause, connection_id)
    assert lifecycle.is_sending(going)
    assert len(connected.alpha.rows(ControlOut)) == sent


def test_what_a_person_compared_is_noted(connected: Pair) -> None:
    marked = connected.alpha.do(trust.mark_verified, connected.alpha.connection().id, "ada", "by phone")

    assert marked.verified_at is not None
    assert marked.verified_how == '{"by": "ada", "reason": "by phone"}'


def _instance_id(side: Side) -> str:
    return side.do(identity.local_instance).instance_id


@pytest.mark.parametrize("said", [None, "the move is done"])
def test_a_resume_ends_the_reason_of_the_suspension_on_both_sides(connected: Pair, said: str | None) -> None:
    connection_id = connected.alpha.connection().id
    connected.alpha.do(connections.suspend, connection_id, "we move")
    connected.settle()
    before = connected.beta.connection().reason

    connected.alpha.do(connections.resume, connection_id, said)
    connected.settle()

    assert before == "we move"
    assert connected.alpha.connection().reason == said
    assert connected.beta.connection().reason == said


def test_what_is_done_to_a_connection_stands_in_the_audit_log(connected: Pair) -> None:
    number, beta = connected.alpha.connection().id, connected.beta

    connected.alpha.do(connections.suspend, number, "stock-taking")
    connected.alpha.do(connections.pause, number, Direction.INCOMING)
    connected.alpha.do(connections.pause, number, Direction.INCOMING)

    assert [entry.action for entry in connected.alpha.rows(AuditEntry)] == [
        "connection.request",
        "connection.suspend",
        "connection.pause",
    ]
    assert [entry.action for entry in beta.rows(AuditEntry)] == ["connection.accept"]
    assert connected.alpha.rows(AuditEntry)[1].after == '{"reason":"stock-taking"}'
