"""Pages of connections: two real instances that look at each other, agree, compare keys, stop and end."""

from collections.abc import Iterator

import orjson
import pytest

from app import clock, queue
from app.access import users
from app.clock import now_ms
from app.config import settings
from app.database import db, transaction
from app.federation import asking
from app.federation.identity import ensure_identity
from app.models import AuditEntry, Connection, ControlOut, Direction, Event, Role
from app.protocol.states import ConnectionStatus, DeliveryState, SubscriptionStatus
from tests.exchange import RemotePeer, connect, subscribe
from tests.federation.conftest import MakeSide, Pair, Side, connected, make_side, no_wait, pair
from tests.reports.rows import add_delivery, add_event
from tests.web.console.conftest import Console

__all__ = ["connected", "make_side", "no_wait", "pair"]


def _console(side: Side, role: str = "admin") -> Console:
    """Somebody signed in at one of the instances."""
    console = Console(side.app, side.app.test_client())
    console.sign_in(role)
    return console


@pytest.fixture
def alpha(pair: Pair) -> Iterator[Console]:
    """An administrator at alpha, which beta does not know yet."""
    with pair.alpha.app.app_context():
        yield _console(pair.alpha)
    clock.set_offset_ms(0)


@pytest.fixture
def open_alpha(connected: Pair) -> Iterator[Console]:
    """An administrator at alpha, which is connected to beta."""
    with connected.alpha.app.app_context():
        yield _console(connected.alpha)
    clock.set_offset_ms(0)


@pytest.fixture
def here(console: Console) -> Console:
    """An administrator of an instance without any peer."""
    ensure_identity(settings())
    queue.beat()
    console.sign_in("admin")
    return console


@pytest.fixture
def connection(here: Console, no_wait: None) -> Connection:
    """An active connection of it with a peer that nobody answers for."""
    return connect(here.workspace, RemotePeer())


def _said() -> int:
    """How many control messages there are."""
    return db.session.query(ControlOut).count()


def _last_act() -> str:
    """The newest action in the audit log."""
    db.session.rollback()
    return db.session.query(AuditEntry).order_by(AuditEntry.id.desc()).limit(1).one().action


def _path(connection: Connection, tab: str = "") -> str:
    return f"connections/{connection.public_id}" + (f"/{tab}" if tab else "")


def _now(connection: Connection) -> Connection:
    db.session.rollback()
    return db.session.get_one(Connection, connection.id, populate_existing=True)


# The list


def test_an_empty_list_explains_and_takes_an_address(here: Console) -> None:
    page = here.page("connections")

    assert "No connections yet" in page.text
    assert page.one('form[action="/w/default/connections/new"] input[name=address]')


def test_those_that_need_somebody_stand_first_and_tabs_count_them(here: Console) -> None:
    for columns in (
        {},
        {"failures": 2},
        {"status": ConnectionStatus.SUSPENDED, "suspended_by_me": True},
        {"status": ConnectionStatus.DISCONNECTED},
        {"status": ConnectionStatus.PENDING},
        {"status": ConnectionStatus.REQUESTED},
    ):
        connect(here.workspace, RemotePeer(), **columns)

    page = here.page("connections")

    assert [row[1] for row in page.rows("#connections")] == [
        "wants to connect",
        "failing",
        "active",
        "suspended",
        "requested",
        "disconnected",
    ]
    assert page.texts(".tabs a") == [
        "All 6", "Requests in 1", "Requests out 1", "Active 1", "Failing 1", "Suspended 1", "Closed 1",
    ]  # fmt: skip
    assert "2 in a row failed" in page.text


def test_a_tab_shows_its_own_and_says_when_there_are_none(here: Console) -> None:
    connect(here.workspace, RemotePeer())

    assert len(here.page("connections", show="active").rows("#connections")) == 1
    assert "None here" in here.page("connections", show="failing").text


def test_long_lists_go_on_by_keyset(here: Console) -> None:
    for _ in range(27):
        connect(here.workspace, RemotePeer())

    first = here.page("connections")
    second = here.page(first.link("Older connections"))

    assert (len(first.rows("#connections")), len(second.rows("#connections"))) == (25, 2)


def test_who_may_not_act_sees_the_role_that_is_needed(here: Console) -> None:
    connect(here.workspace, RemotePeer())
    here.sign_in("viewer")

    page = here.page("connections")

    assert page.is_disabled("Request a connection")
    assert page.is_disabled("Suspend")
    assert here.get("connections/new").status_code == 403


# Asking for one


def test_a_look_tells_who_is_there_before_anything_is_sent(pair: Pair, alpha: Console) -> None:
    page = alpha.post_page("connections/new", address=pair.beta.url)

    assert page.status == 200
    assert "Beta" in page.text
    assert "signs the document" in page.text
    assert "within 300 s" in page.text
    assert len(page.one(".pairing").get_text().split()) == 6
    assert [len(print_.select("span")) for print_ in page.all(".print")] == [16, 16]
    assert pair.alpha.rows(Connection) == []


@pytest.mark.parametrize(
    ("address", "stage", "passed"),
    [
        ("ftp://somewhere", "Address", 0),
        ("http://127.0.0.1:9", "Connect", 1),
        ("http://192.0.2.7:80", "Name", 0),
    ],
)
def test_a_look_that_ends_says_at_which_stage_and_keeps_what_was_typed(
    alpha: Console, address: str, stage: str, passed: int
) -> None:
    page = alpha.post_page("connections/new", address=address)

    assert page.status == 422
    assert page.texts(".stages b")[-1] == stage
    assert len(page.all(".stages .yes")) == passed
    assert page.one("input[name=address]")["value"] == address
    assert page.texts("form button.btn-primary") == ["Try again"]


def test_an_instance_whose_clock_is_off_is_not_asked(pair: Pair, alpha: Console) -> None:
    seen = asking.preview(pair.beta.url)
    late = asking.Preview(
        **{name: getattr(seen, name) for name in seen.__slots__} | {"clock_skew_ms": -334_000}
    )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "preview", lambda _url: late)
        page = alpha.post_page("connections/new", address=pair.beta.url)

    assert page.status == 422
    assert "334.0 s behind ours" in page.one("#stage-title").get_text()
    assert page.texts(".stages b")[-2:] == ["Identity", "Clock"]


def test_an_instance_is_not_asked_for_a_connection_with_itself(pair: Pair, alpha: Console) -> None:
    page = alpha.post_page("connections/new", address=pair.alpha.url)

    assert "this is this instance itself" in page.text


def test_instance_at_host_must_be_whom_it_names(pair: Pair, alpha: Console) -> None:
    host = pair.beta.url.partition("://")[2]

    wrong = alpha.post_page("connections/new", address=f"Gamma@{host}")
    right = alpha.post_page("connections/new", address=f"Beta@{host}")

    assert "you asked for Gamma; here is “Beta”" in wrong.text
    assert right.status == 200


def test_a_request_goes_to_whom_was_looked_at_and_a_second_post_sends_no_second(
    pair: Pair, alpha: Console
) -> None:
    fields = alpha.post_page("connections/new", address=pair.beta.url).fields()

    first = alpha.post("connections/request", {**fields, "note": "Hello, call me"})
    second = alpha.post("connections/request", {**fields, "note": "Hello, call me"})
    pair.settle()

    [made] = pair.alpha.rows(Connection)
    assert first.headers["Location"] == second.headers["Location"] == f"/w/default/{_path(made)}"
    assert "Nothing was sent" in alpha.follow(second).text
    assert pair.beta.connection().note == "Hello, call me"


def test_nothing_is_sent_if_the_key_is_another_than_the_one_looked_at(pair: Pair, alpha: Console) -> None:
    page = alpha.post_page("connections/request", address=pair.beta.url, fingerprint="00" * 32)

    assert page.status == 422
    assert "another key than the one that you looked at" in page.text
    assert pair.alpha.rows(Connection) == []


def test_a_note_that_is_too_long_is_told_at_its_field(pair: Pair, alpha: Console) -> None:
    fields = alpha.post_page("connections/new", address=pair.beta.url).fields()

    page = alpha.post_page("connections/request", {**fields, "note": "n" * 1_001})

    assert page.status == 422
    assert page.one("#note-error")
    assert page.one("#note").get_text().strip() == "n" * 1_001


# Answering


def _ask(pair: Pair) -> Connection:
    """alpha asks beta; the request as beta sees it."""
    pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.beta.url, note="It is us, <b>alpha</b>")
    pair.settle()
    return pair.beta.connection()


def test_a_request_is_shown_with_its_note_its_evidence_and_the_code_of_both_sides(pair: Pair) -> None:
    theirs = _ask(pair)
    with pair.alpha.app.app_context():
        mine = _console(pair.alpha).page(_path(pair.alpha.connection())).one(".pairing").get_text()
    with pair.beta.app.app_context():
        page = _console(pair.beta).page(_path(theirs))

    assert page.texts(".status")[0] == "wants to connect"
    assert "Accept or reject their request; it expires in 14 d" in page.text
    assert page.one(".quote").get_text() == "It is us, <b>alpha</b>"
    assert page.one(".pairing").get_text() == mine
    assert page.texts(".handshake strong")[:3] == ["Requested", "Reachable", "Accepted"]
    assert "waits for you" in page.text


def test_accepting_makes_both_sides_active_and_a_second_post_says_that_it_was_done(pair: Pair) -> None:
    theirs = _ask(pair)
    with pair.beta.app.app_context():
        console = _console(pair.beta)

        said = console.follow(console.post(_path(theirs, "accept")))
        again = console.follow(console.post(_path(theirs, "accept")))

    pair.settle()
    assert "You accepted" in said.text
    assert "It was accepted already" in again.text
    assert pair.alpha.connection().status == pair.beta.connection().status == ConnectionStatus.ACTIVE


def test_rejecting_asks_first_and_tells_the_reason(pair: Pair) -> None:
    theirs = _ask(pair)
    with pair.beta.app.app_context():
        console = _console(pair.beta)

        page = console.page(_path(theirs, "reject"))
        console.post(_path(theirs, "reject"), {**page.fields(), "reason": "We do not know you"})

    pair.settle()
    mine = pair.alpha.connection()
    assert (mine.status, mine.reason) == (ConnectionStatus.REJECTED, "We do not know you")
    with pair.alpha.app.app_context():
        assert "We do not know you" in _console(pair.alpha).page(_path(mine)).text


def test_an_own_request_can_be_taken_back_without_typing(pair: Pair, alpha: Console) -> None:
    pair.alpha.do(asking.initiate, pair.alpha.workspace_id, pair.beta.url)
    mine = pair.alpha.connection()

    page = alpha.page(_path(mine, "disconnect"))
    alpha.post(_path(mine, "disconnect"), page.fields())

    assert "Take back the request" in page.title
    assert _now(mine).status is ConnectionStatus.DISCONNECTED


# One connection


def test_every_tab_has_a_page_of_its_own(connected: Pair, open_alpha: Console) -> None:
    connection = connected.alpha.connection()
    tabs = ("", "verify", "subscriptions", "events", "deliveries", "stream", "keys", "settings", "history")

    pages = [open_alpha.page(_path(connection, tab)) for tab in tabs]

    assert {(page.status, page.title) for page in pages} == {(200, "Beta")}
    assert [page.texts(".tabs a[aria-current=page]")[0].split()[0].lower() for page in pages] == [
        "summary",
        *tabs[1:],
    ]


def test_the_handshake_ends_with_the_first_ack(connected: Pair, open_alpha: Console) -> None:
    connection = connected.alpha.connection()
    event = add_event(connection.workspace_id, event_type="stock.level")
    add_delivery(
        event, connection, state=DeliveryState.DELIVERED, delivered_at=event.created_at + 44, sequence=1
    )

    page = open_alpha.page(_path(connection))

    assert page.texts(".handshake .is-ok strong") == [
        "Requested", "Reachable", "Accepted", "First event", "First ack",
    ]  # fmt: skip
    assert "44 ms later" in page.text
    assert "stock.level, to them" in page.text


def test_a_test_ping_says_how_long_it_took(connected: Pair, open_alpha: Console) -> None:
    page = open_alpha.follow(open_alpha.post(_path(connected.alpha.connection(), "ping")))

    assert "signatures verified both ways; they call it active" in page.text


def test_a_ping_that_nobody_answers_says_so(connected: Pair, open_alpha: Console) -> None:
    connected.beta.server.server_close()
    connected.beta.server.shutdown()

    page = open_alpha.follow(open_alpha.post(_path(connected.alpha.connection(), "ping")))

    assert "cannot be reached" in page.one(".notice.is-bad").get_text()


def test_suspend_and_resume_are_one_post_each(connected: Pair, open_alpha: Console) -> None:
    connection = connected.alpha.connection()

    suspended = open_alpha.follow(open_alpha.post(_path(connection, "suspend")))
    connected.settle()
    told = connected.beta.connection().status
    resumed = open_alpha.follow(open_alpha.post(_path(connection, "resume")))
    connected.settle()

    assert "Suspended by us" in suspended.text
    assert told is ConnectionStatus.SUSPENDED
    assert "Resumed" in resumed.text
    assert connected.beta.connection().status is ConnectionStatus.ACTIVE


def test_an_open_circuit_says_when_why_and_when_it_is_tried(here: Console, connection: Connection) -> None:
    with transaction():
        row = db.session.get_one(Connection, connection.id)
        row.failures, row.breaker_opened_at, row.retry_at = 5, now_ms(), now_ms() + 160_500
        row.wait_code, row.wait_detail = "timeout", "no answer within 15 s"
    add_delivery(add_event(connection.workspace_id), connection, state=DeliveryState.PENDING)

    page = here.page(_path(connection))
    said = here.follow(here.post(_path(connection, "retry")))

    assert "They do not answer. Next try in 2 min" in page.text
    assert "5 failures in a row (timeout: no answer within 15 s): one request" in page.text
    assert "1 delivery is held" in page.text
    assert "The back-off is reset" in said.text
    assert (_now(connection).failures, _now(connection).breaker_opened_at) == (0, None)


def test_a_hold_names_the_answer_that_stopped_it(here: Console, connection: Connection) -> None:
    with transaction():
        row = db.session.get_one(Connection, connection.id)
        row.hold_code, row.hold_detail, row.hold_since = "too_large", "65 kB at most", now_ms()

    page = here.page(_path(connection))

    assert "They refuse what we send: too large; stopped" in page.text
    assert page.texts(".status")[0] == "stopped"


def test_a_pause_is_of_one_direction_and_nobody_is_told(here: Console, connection: Connection) -> None:
    before = _said()

    here.post(_path(connection, "pause"), direction="incoming")

    assert (_now(connection).paused_incoming, _now(connection).paused_outgoing) == (True, False)
    page = here.page(_path(connection, "settings"))
    assert [row[1] for row in page.rows("#pauses")] == ["flows", "paused here"]
    assert _said() == before


def test_the_code_is_marked_as_compared_with_how_and_whom(here: Console, connection: Connection) -> None:
    page = here.page(_path(connection, "verify"))

    here.post(_path(connection, "verify"), {**page.fields(), "how": "in person", "whom": "Tove"})

    how = orjson.loads(_now(connection).verified_how or "{}")
    assert how == {"by": here.user.email if here.user else "", "reason": "in person, with Tove"}
    assert "verified" in here.page(_path(connection)).texts(".yes")
    assert _last_act() == "connection.mark_verified"


def test_codes_that_differ_lead_to_a_stop(here: Console, connection: Connection) -> None:
    page = here.page(_path(connection, "differ"))

    here.post(str(page.one("main form[method=post]")["action"]), page.fields())

    assert _now(connection).status is ConnectionStatus.SUSPENDED
    assert _now(connection).reason == "The pairing codes differ."


# The end


def test_disconnecting_counts_what_ends_and_wants_the_host_typed(
    here: Console, connection: Connection
) -> None:
    host = "127.0.0.1:9"
    subscribe(connection, "task.**")
    subscribe(connection, "order.*", Direction.INCOMING)
    for _ in range(3):
        add_delivery(add_event(connection.workspace_id), connection, state=DeliveryState.PENDING)

    page = here.page(_path(connection, "disconnect"))
    wrong = here.post_page(_path(connection, "disconnect"), {**page.fields(), "typed": "another"})
    still = _now(connection).status
    here.post(_path(connection, "disconnect"), {**page.fields(), "typed": host, "reason": "moved"})

    assert [row[0] for row in page.rows("#effects")] == ["3", "1", "1", "all"]
    assert "Disconnect and give up 3 deliveries" in page.text
    assert (wrong.status, still) == (422, ConnectionStatus.ACTIVE)
    assert f"This is not {host}" in wrong.text
    assert (_now(connection).status, _now(connection).reason) == (ConnectionStatus.DISCONNECTED, "moved")


def test_disconnecting_twice_says_that_it_has_ended(here: Console, connection: Connection) -> None:
    page = here.page(_path(connection, "disconnect"))
    typed = {**page.fields(), "typed": "127.0.0.1:9"}
    here.post(_path(connection, "disconnect"), typed)

    again = here.post_page(_path(connection, "disconnect"), typed)

    assert again.status == 422
    assert "Cannot disconnect: the connection is disconnected" in again.text


# A key that nobody vouches for


@pytest.fixture
def doubted(make_side: MakeSide) -> Iterator[tuple[Console, Connection]]:
    """A connection whose peer signs with a key that no vouch leads to, and an owner with a password."""
    side = make_side(INSTANCE_NAME="Alpha")
    with side.app.app_context():
        console = Console(side.app, side.app.test_client())
        connection = connect(console.workspace, RemotePeer(), verified_at=now_ms())
        other = make_side(INSTANCE_NAME="Beta")
        document = other.app.test_client().get("/.well-known/tidings-instance").text
        with transaction():
            row = db.session.get_one(Connection, connection.id)
            row.key_review = True
            assert row.peer is not None
            row.peer.document = document
        user, _ = users.create("ann@test.example", "correct horse battery", workspace_id=console.workspace.id)
        console.become(user)
        yield console, connection


def test_both_keys_stand_side_by_side(doubted: tuple[Console, Connection]) -> None:
    console, connection = doubted

    page = console.page(_path(connection, "keys"))

    assert page.texts(".status")[0] == "key review"
    assert "They sign with a key that nobody vouched for" in page.text
    assert [len(print_.select("span")) for print_ in page.all(".two .print")] == [16, 16]
    codes = page.texts(".two .pairing")
    assert len(set(codes)) == 2


def test_a_key_is_not_trusted_without_the_password(doubted: tuple[Console, Connection]) -> None:
    console, connection = doubted

    page = console.post_page(_path(connection, "keys/accept"), password="wrong")

    assert page.status == 422
    assert "This is not your password" in page.text
    assert _now(connection).key_review


def test_a_key_is_trusted_with_the_password_and_has_to_be_compared_again(
    doubted: tuple[Console, Connection],
) -> None:
    console, connection = doubted

    said = console.follow(console.post(_path(connection, "keys/accept"), password="correct horse battery"))

    assert "The new key is trusted" in said.text
    assert (_now(connection).key_review, _now(connection).verified_at) == (False, None)


def test_a_key_that_is_refused_is_not_asked_about_again(doubted: tuple[Console, Connection]) -> None:
    console, connection = doubted

    console.post(_path(connection, "keys/refuse"), password="correct horse battery")

    after = _now(connection)
    assert not after.key_review
    assert after.verified_at is not None


def test_a_public_key_of_the_peer_can_be_saved(here: Console, connection: Connection) -> None:
    key_id = connection.public_id and here.page(_path(connection, "keys")).rows("#keys")[0][0]

    answer = here.get(_path(connection, f"keys/{key_id}.pem"))

    assert answer.text.startswith("-----BEGIN PUBLIC KEY-----")
    assert "attachment" in answer.headers["Content-Disposition"]
    assert here.get(_path(connection, "keys/none.pem")).status_code == 404


# Hostile text, other workspaces, history


def test_what_a_peer_writes_is_text_and_what_steers_the_display_is_written_out(here: Console) -> None:
    connection = connect(
        here.workspace,
        RemotePeer(),
        status=ConnectionStatus.PENDING,
        direction=Direction.INCOMING,
        note="<script>alert(1)</script> \u202edrow",
        remote_workspace_name="<i>ops</i>",
        reason="x" * 65_536,
    )
    with transaction():
        db.session.get_one(Connection, connection.id).peer.name = "A\u202eB <b>"

    page = here.page(_path(connection))

    assert page.title == "A\\u202eB <b>"
    assert "\u202e" not in page.answer.text
    assert page.one(".quote").get_text() == "<script>alert(1)</script> \\u202edrow"
    assert "<i>ops</i>" in page.text


def test_another_workspace_s_connection_is_not_there(here: Console) -> None:
    connection = connect(here.workspace, RemotePeer())
    other = Console(here.app, here.client)
    elsewhere = other.sign_in("owner")
    with transaction():
        db.session.merge(elsewhere)
    from_nowhere = here.get("connections/00000000-0000-4000-8000-000000000000")

    assert from_nowhere.status_code == 404
    assert here.post("connections/00000000-0000-4000-8000-000000000000/accept").status_code == 404
    assert here.get(f"/w/other/{_path(connection)}").status_code == 404


def test_a_viewer_may_look_at_all_and_do_nothing(here: Console, connection: Connection) -> None:
    here.sign_in("viewer")

    acts = ("accept", "suspend", "ping", "retry", "pause", "disconnect", "verify", "keys/accept")
    statuses = {here.post(_path(connection, act)).status_code for act in acts}
    page = here.page(_path(connection))

    assert statuses == {403}
    assert page.is_disabled("Suspend")
    assert page.is_disabled("Disconnect…")


def test_the_history_has_both_sides_words_and_what_was_done_here(
    connected: Pair, open_alpha: Console
) -> None:
    connection = connected.alpha.connection()
    open_alpha.post(_path(connection, "suspend"))

    rows = open_alpha.page(_path(connection, "history")).rows("#history")

    assert any(row[1] == "here" and row[2].endswith(" suspended it connection.suspend") for row in rows)
    assert ["us", "We asked for the connection connection.request"] in [row[1:3] for row in rows]
    assert ["them", "They accepted it connection.accept"] in [row[1:3] for row in rows]


def test_the_tabs_of_events_and_subscriptions_show_this_connection_alone(here: Console) -> None:
    mine, other = connect(here.workspace, RemotePeer()), connect(here.workspace, RemotePeer())
    subscribe(mine, "stock.**", status=SubscriptionStatus.PENDING, granted_event_type=None)
    subscribe(other, "order.**")
    add_event(here.workspace.id, mine, event_type="from.mine")
    add_event(here.workspace.id, other, event_type="from.other")

    events = here.page(_path(mine, "events"))
    subscriptions = here.page(_path(mine, "subscriptions"))

    assert [row[2] for row in events.rows("#events")] == ["from.mine"]
    assert [row[0] for row in subscriptions.rows("#theirs")] == ["stock.**"]
    assert db.session.query(Event).count() == 2
    assert Role.ADMIN == "admin"
