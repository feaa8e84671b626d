"""The adapter under a session of requests: what requests may decide, and what it may not."""

import pytest
import requests

from app.transport.adapter import Call, WireAdapter
from app.transport.client import CONNECT_TIMEOUT_S, MAX_ANSWER_BYTES
from app.transport.errors import AddressRefused, RedirectRefused, TlsFailed
from app.transport.wire import Deadline, tls_context
from tests.transport.conftest import LOOPBACK
from tests.transport.hostile import always, answer, resolver


@pytest.fixture
def make_session():
    """A session as a client has it; every one is closed after the test."""
    sessions = []

    def make(allowed_networks=LOOPBACK, ca_file=None):
        adapter = WireAdapter(
            allowed_networks,
            tls_context(ca_file),
            resolver("127.0.0.1"),
            connect_timeout_s=CONNECT_TIMEOUT_S,
            max_idle=1,
            max_idle_s=60,
            max_age_s=60,
            max_lookups=1,
        )
        sessions.append(requests.Session())
        for prefix in ("https://", "http://"):
            sessions[-1].mount(prefix, adapter)
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


def call_to(url, body=b"{}"):
    headers = {"Content-Length": str(len(body))}
    deadline = Deadline(5)
    return Call("POST", url, headers, body, deadline=deadline, max_bytes=MAX_ANSWER_BYTES, is_repeat=False)


def url_of(server, path="/", host="127.0.0.1", scheme="http"):
    return f"{scheme}://{host}:{server.port}{path}"


def test_every_call_of_a_client_is_sent_by_a_session(serve, client, monkeypatch):
    server = serve(always(answer(b"ok")))
    sent = []
    send = requests.Session.send

    def spy(session, request, **options):
        sent.append((request.method, request.url, session.trust_env, options))
        return send(session, request, **options)

    monkeypatch.setattr(requests.Session, "send", spy)

    client.get(url_of(server, "/a"))
    client.post(url_of(server, "/%7eb"), b"{}", {})

    as_it_is = {"stream": True, "allow_redirects": False, "proxies": {}}
    assert sent == [
        ("GET", url_of(server, "/a"), False, as_it_is),
        ("POST", url_of(server, "/%7eb"), False, as_it_is),
    ]
    assert len(server.requests) == 2


def test_a_request_that_is_no_call_is_not_sent(serve, make_session):
    server = serve(always(answer()))

    with pytest.raises(TypeError, match="Call"):
        make_session().get(url_of(server))

    assert server.visits == []


def test_a_session_sends_the_headers_of_the_call_and_no_others(serve, make_session):
    server = serve(always(answer()))

    make_session().send(call_to(url_of(server)))

    assert server.requests[0].headers == [("host", f"127.0.0.1:{server.port}"), ("content-length", "2")]


def test_a_response_has_what_came(serve, make_session):
    server = serve(always(answer(b"ok", status="202 Accepted", headers=("X-A: 1", "Location: /b"))))

    response = make_session().send(call_to(url_of(server)))

    assert (response.status_code, response.content, response.url) == (202, b"ok", url_of(server))
    assert (response.headers["X-a"], response.headers["location"]) == ("1", "/b")


def test_the_body_of_a_response_in_chunks_comes_without_its_framing(serve, make_session):
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    server = serve(always(chunked))
    session = make_session()

    at_once, streamed = (session.send(call_to(url_of(server)), stream=stream) for stream in (False, True))

    assert (at_once.content, streamed.raw.read(decode_content=False)) == (b"ok", b"ok")
    assert len(server.visits) == 1


def test_a_session_gets_no_cookies(serve, make_session):
    server = serve(always(answer(headers=("Set-Cookie: a=b; Path=/",))))
    session = make_session()

    response = session.send(call_to(url_of(server)))

    assert (len(session.cookies), len(response.cookies)) == (0, 0)


def test_certificates_are_checked_whatever_the_session_says(serve, make_session, authority):
    server = serve(always(answer()), authority.server_context("b.example", is_self_signed=True))
    session = make_session(ca_file=authority.ca_file)

    with pytest.raises(TlsFailed):
        session.send(call_to(url_of(server, host="b.example", scheme="https")), verify=False)

    assert server.requests == []


def test_proxies_are_not_used_whatever_the_session_says(serve, make_session):
    server, proxy = serve(always(answer(b"direct"))), serve(always(answer(b"by proxy")))

    response = make_session().send(call_to(url_of(server)), proxies={"http": url_of(proxy)})

    assert (response.content, len(proxy.visits)) == (b"direct", 0)


def test_addresses_are_vetted_whatever_the_session_says(serve, make_session):
    server = serve(always(answer()))
    session = make_session(allowed_networks=())

    with pytest.raises(AddressRefused):
        session.send(call_to(url_of(server)), allow_redirects=True)

    assert server.visits == []


def test_redirects_are_not_followed_whatever_the_session_says(serve, make_session):
    target = serve(always(answer()))
    server = serve(always(answer(status="307 Go", headers=(f"Location: {url_of(target)}",))))

    with pytest.raises(RedirectRefused):
        make_session().send(call_to(url_of(server)), allow_redirects=True)

    assert target.visits == []
