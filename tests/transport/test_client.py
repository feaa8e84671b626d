"""The client against servers that mean no good, and against honest ones with bad luck."""

import contextlib
import os
import queue
import socket
import threading
import zlib
from ipaddress import ip_network

import pytest

from app.transport.client import shared_client
from app.transport.errors import (
    AddressRefused,
    AnswerBroken,
    AnswerTooLarge,
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    InvalidOrigin,
    NameNotResolved,
    RedirectRefused,
    TlsFailed,
    TransportError,
)
from tests.transport.hostile import always, answer, resolver

SOON_S = 0.3


def once(data, *, then=None):
    """The script of a server that reads one request, sends these bytes and (after `then`) closes."""

    def script(visit):
        visit.read_request()
        visit.send(data)
        if then is not None:
            then(visit)

    return script


def url_of(server, path="/", host="127.0.0.1", scheme="http"):
    return f"{scheme}://{host}:{server.port}{path}"


# What is sent and what comes back


def test_an_answer_is_returned_as_it_came(serve, client):
    headers = ("Content-Type: application/json", "X-A: 1", "x-a: 2")
    server = serve(always(answer(b'{"a":1}', status="404 Not Found", headers=headers)))

    got = client.get(url_of(server))

    assert (got.status, got.body) == (404, b'{"a":1}')
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-a"] == "1, 2"
    assert 0 <= got.duration_ms < 5000


def test_a_request_says_exactly_what_was_asked_for(serve, client):
    server = serve(always(answer()))

    client.post(url_of(server, "/a/%7e%e2/../b?c=%2F&d"), b"body", {"Content-Type": "application/json"})

    [request] = server.requests
    assert request.line == "POST /a/%7e%e2/../b?c=%2F&d HTTP/1.1"
    assert request.body == b"body"
    assert request.headers == [
        ("host", f"127.0.0.1:{server.port}"),
        ("user-agent", "Tidings"),
        ("accept", "application/json, application/problem+json"),
        ("accept-encoding", "identity"),
        ("content-type", "application/json"),
        ("content-length", "4"),
    ]


def test_the_environment_is_ignored(serve, client, monkeypatch, tmp_path):
    server, proxy = serve(always(answer())), serve(always(answer(status="502 Proxy")))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, url_of(proxy))
    monkeypatch.setenv("HOME", str(tmp_path))

    got = client.get(url_of(server))

    assert (got.status, len(proxy.visits)) == (200, 0)
    assert "authorization" not in dict(server.requests[0].headers)


def test_cookies_are_not_kept(serve, client):
    server = serve(always(answer(headers=("Set-Cookie: a=b; Path=/",))))

    client.get(url_of(server))
    client.get(url_of(server))

    assert "cookie" not in dict(server.requests[1].headers)


@pytest.mark.parametrize(
    "headers", [{"A": "b\r\nC: d"}, {"A": "b\n"}, {"A: b\r\nC": "d"}, {"": "a"}, {"A": "ü"}, {"A": "b\0"}]
)
def test_a_header_cannot_smuggle_in_another(serve, client, headers):
    server = serve(always(answer()))

    with pytest.raises(ValueError, match="header"):
        client.post(url_of(server), b"", headers)

    assert server.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1",
        "http://127.0.0.1?a",
        "http://127.0.0.1:80/",
        "http://127.1/",
        "HTTP://127.0.0.1/",
        "http://user@127.0.0.1/",
        "http://127.0.0.1/#a",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/a\r\nX: y",
        "http://127.0.0.1/ü",
        "file:///etc/passwd",
        "/etc/passwd",
    ],
)
def test_a_url_that_is_not_canonical_is_refused(client, url):
    with pytest.raises(InvalidOrigin):
        client.get(url)


# Redirects


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 399])
def test_a_redirect_is_a_failure_and_never_followed(serve, client, status):
    target = serve(always(answer()))
    server = serve(always(answer(status=f"{status} Go", headers=(f"Location: {url_of(target)}",))))

    with pytest.raises(RedirectRefused, match=f"answered {status} and points to {url_of(target)}") as caught:
        client.post(url_of(server), b"secret", {})

    assert (caught.value.code, caught.value.status) == ("redirect", status)
    assert target.visits == []


def test_the_detail_of_an_error_is_one_short_line_whatever_the_peer_wrote(serve, client):
    location = "Location: /\x1b[31m" + "a" * 3000
    server = serve(always(answer(status="302 Go", headers=(location,))))

    with pytest.raises(RedirectRefused) as caught:
        client.get(url_of(server))

    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) == 300


# Time


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(lambda visit: visit.is_over.wait(), id="says nothing"),
        pytest.param(once(b"", then=lambda visit: visit.is_over.wait()), id="reads and says nothing"),
        pytest.param(
            once(HEAD, then=lambda visit: visit.drip(b"X-Header: and so on\r\n")), id="drips headers"
        ),
        pytest.param(
            once(HEAD + b"Content-Length: 9999\r\n\r\n", then=lambda visit: visit.drip(b"x")),
            id="drips a body",
        ),
        pytest.param(
            once(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", then=lambda visit: visit.drip(b"1\r\nx\r\n")),
            id="drips chunks",
        ),
        pytest.param(once(HEAD + b"\r\n", then=lambda visit: visit.drip(b"x")), id="drips without a length"),
        pytest.param(
            once(b"", then=lambda visit: visit.drip(b"HTTP/1.1 100 Continue\r\n\r\n")), id="drips 1xx"
        ),
    ],
)
def test_a_slow_server_has_the_deadline_and_no_more(serve, client, script):
    server = serve(script)

    with pytest.raises(DeadlineExceeded, match=r"no complete answer within 0\.3 s") as caught:
        client.get(url_of(server), deadline_s=SOON_S)

    assert caught.value.code == "timeout"


def test_a_server_that_does_not_read_has_the_deadline_too(serve, client):
    server = serve(lambda visit: visit.is_over.wait())

    with pytest.raises(DeadlineExceeded):
        client.post(url_of(server), bytes(64 * 1024 * 1024), {}, deadline_s=SOON_S)


def test_a_server_that_reads_slowly_has_the_deadline_too(serve, client):
    def script(visit):
        while visit.sock.recv(1) and not visit.is_over.wait(0.01):
            pass

    server = serve(script)

    with pytest.raises(DeadlineExceeded):
        client.post(url_of(server), bytes(64 * 1024 * 1024), {}, deadline_s=SOON_S)


def test_drips_over_tls_have_the_deadline_too(serve, make_client, authority):
    head = HEAD + b"Content-Length: 9999\r\n\r\n"
    server = serve(
        once(head, then=lambda visit: visit.drip(b"x")), authority.server_context("b.example"), "127.0.0.1"
    )
    client = make_client(ca_file=authority.ca_file, resolve=resolver("127.0.0.1"))

    with pytest.raises(DeadlineExceeded):
        client.get(url_of(server, host="b.example", scheme="https"), deadline_s=SOON_S)


def test_a_tls_handshake_that_hangs_has_the_connect_timeout(serve, make_client):
    server = serve(lambda visit: visit.is_over.wait())
    client = make_client(connect_timeout_s=SOON_S)

    with pytest.raises(DeadlineExceeded, match=r"no connection to https://127\.0\.0\.1:\d+ within 0\.3 s"):
        client.get(url_of(server, scheme="https"))


def test_an_address_that_swallows_packets_has_the_connect_timeout(make_client):
    client = make_client(connect_timeout_s=SOON_S)

    with unaccepting_listener() as port, pytest.raises(DeadlineExceeded, match="no connection"):
        client.get(f"http://127.0.0.1:{port}/")


def test_an_address_that_swallows_packets_leaves_time_for_the_next(serve, make_client):
    server = serve(always(answer(b"here")), None, "127.0.0.2")
    client = make_client(connect_timeout_s=2 * SOON_S, resolve=resolver(["127.0.0.1", "127.0.0.2"]))

    with unaccepting_listener(server.port):
        got = client.get(url_of(server, host="b.example"))

    assert got.body == b"here"


@contextlib.contextmanager
def unaccepting_listener(port=0):
    """A port of 127.0.0.1 whose queue of connections is full, so that Linux drops whatever comes."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        # Ports of connections that ended a moment ago are free enough.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_resolver_that_hangs_has_the_deadline_too(make_client):
    is_over = threading.Event()
    client = make_client(resolve=lambda *_, **__: is_over.wait() and [])

    try:
        with pytest.raises(NameNotResolved, match="the resolver does not answer"):
            client.get("http://b.example/", deadline_s=SOON_S)
    finally:
        is_over.set()


def test_a_resolver_that_hangs_collects_no_threads(make_client):
    is_asked, is_over = threading.Event(), threading.Event()

    def resolve(*_, **__):
        is_asked.set()
        is_over.wait()
        raise OSError

    def call():
        with contextlib.suppress(NameNotResolved):
            client.get("http://b.example/")

    client = make_client(resolve=resolve, max_lookups=1)
    first = threading.Thread(target=call)
    first.start()
    is_asked.wait()

    try:
        with pytest.raises(NameNotResolved, match="too many look-ups"):
            client.get("http://b.example/", deadline_s=SOON_S)
    finally:
        is_over.set()
        first.join()


# Size


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(once(HEAD + b"Content-Length: 1001\r\n\r\n"), id="says so"),
        pytest.param(
            once(HEAD + b"Content-Length: 99999999999999999999\r\n\r\n"), id="says an absurd length"
        ),
        pytest.param(once(HEAD + b"\r\n", then=lambda visit: visit.flood(bytes(999))), id="has no end"),
        pytest.param(once(HEAD + b"\r\n" + bytes(1001)), id="has one byte too many, without a length"),
        pytest.param(
            once(
                HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
                then=lambda visit: visit.flood(b"64\r\n" + bytes(100) + b"\r\n"),
            ),
            id="has endless chunks",
        ),
        pytest.param(
            once(
                HEAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFF\r\n",
                then=lambda visit: visit.flood(bytes(999)),
            ),
            id="has a chunk without end",
        ),
        pytest.param(
            once(
                HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
                then=lambda visit: visit.flood(b"Trailer: and so on\r\n"),
            ),
            id="has endless trailers",
        ),
        pytest.param(
            once(HEAD, then=lambda visit: visit.flood(b"X: " + b"y" * 30000 + b"\r\n")),
            id="has endless headers",
        ),
        pytest.param(
            once(b"", then=lambda visit: visit.flood(b"HTTP/1.1 100 Continue\r\n\r\n")), id="floods 100"
        ),
        pytest.param(
            once(b"", then=lambda visit: visit.flood(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")),
            id="floods 103",
        ),
    ],
)
def test_an_answer_is_read_up_to_what_it_may_have(serve, client, script):
    server = serve(script)

    with pytest.raises(AnswerTooLarge) as caught:
        client.get(url_of(server), max_bytes=1000)

    assert caught.value.code == "response_too_large"


@pytest.mark.parametrize(
    "data",
    [
        answer(bytes(1000)),
        HEAD + b"Connection: close\r\n\r\n" + bytes(1000),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + bytes(1000) + b"\r\n0\r\n\r\n",
    ],
)
def test_an_answer_of_exactly_the_allowed_size_is_taken(serve, client, data):
    server = serve(once(data))

    assert client.get(url_of(server), max_bytes=1000).body == bytes(1000)


@pytest.mark.parametrize(
    "header",
    [
        "Content-Encoding: gzip",
        "Content-Encoding: deflate",
        "Content-Encoding: br",
        "content-encoding:GZIP",
        "Content-Encoding: gzip, identity",
        "Content-Encoding: identity\r\nContent-Encoding: gzip",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
    ],
)
def test_a_compressed_answer_is_refused_unread(serve, client, header):
    bomb = zlib.compress(bytes(1024 * 1024), wbits=31)
    server = serve(always(answer(bomb, headers=(header,))))

    with pytest.raises(AnswerBroken, match="encoded") as caught:
        client.get(url_of(server))

    assert (caught.value.code, caught.value.status) == ("response_broken", 200)


def test_the_compressed_body_of_a_redirect_is_not_inflated_either(serve, client):
    bomb = zlib.compress(bytes(1024 * 1024), wbits=31)
    server = serve(always(answer(bomb, status="302 Go", headers=("Content-Encoding: gzip", "Location: /b"))))

    with pytest.raises(RedirectRefused):
        client.get(url_of(server))

    assert len(server.requests) == 1


def test_a_body_that_only_looks_compressed_is_left_alone(serve, client):
    body = zlib.compress(bytes(1000), wbits=31)
    server = serve(always(answer(body, headers=("Content-Encoding: identity",))))

    assert client.get(url_of(server)).body == body


# Nonsense


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x28", id="a TLS alert"),
        pytest.param(b"\r\n\r\n", id="empty lines"),
        pytest.param(b"{}", id="a bare body"),
        pytest.param(b"HTTP/1.1\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1 abc OK\r\n\r\n", id="a status in letters"),
        pytest.param(b"HTTP/1.1 99 Low\r\n\r\n", id="a status too low"),
        pytest.param(b"HTTP/9.9 200 OK\r\n\r\n", id="an unknown version"),
        pytest.param(HEAD + b"X: y\r\n" * 101 + b"\r\n", id="too many headers"),
        pytest.param(HEAD + b"no header\r\nContent-Length: 0\r\n\r\n", id="a line that is no header"),
        pytest.param(HEAD + b"Content-Length: ten\r\n\r\n12345", id="a length in letters"),
        pytest.param(HEAD + b"Content-Length: -5\r\n\r\n12345", id="a negative length"),
        pytest.param(HEAD + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\n12345", id="two lengths"),
        pytest.param(HEAD + b"Content-Length: 10\r\n\r\n12345", id="half a body"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\na\r\n12345", id="half a chunk"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", id="no last chunk"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", id="a chunk of no size"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n12345", id="a chunk of negative size"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", id="another protocol, politely"),
    ],
)
def test_nonsense_is_a_broken_answer(serve, client, data):
    server = serve(once(data))

    with pytest.raises(AnswerBroken) as caught:
        client.get(url_of(server))

    assert caught.value.code == "response_broken"
    assert len(server.requests) == 1


def test_a_server_that_closes_without_a_word_is_no_connection(serve, client):
    server = serve(once(b""))

    with pytest.raises(ConnectFailed, match="without an answer") as caught:
        client.get(url_of(server))

    assert caught.value.code == "connection_failed"
    assert len(server.visits) == 1


@pytest.mark.parametrize("informational", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_informational_answers_are_skipped(serve, client, informational):
    preface = f"HTTP/1.1 {informational}\r\nLink: </a>\r\n\r\n".encode()
    server = serve(always(preface * 3 + answer(b"real")))

    first, second = client.get(url_of(server)), client.get(url_of(server))

    assert (first.status, first.body, "link" in first.headers) == (200, b"real", False)
    assert second.body == b"real"
    assert len(server.visits) == 1


def test_an_answer_before_the_whole_request_was_read_counts(serve, client):
    def script(visit):
        visit.sock.recv(1000)
        visit.send(answer(b"too large", status="413 Content Too Large"))

    server = serve(script)

    got = client.post(url_of(server), bytes(64 * 1024 * 1024), {})

    assert (got.status, got.body) == (413, b"too large")


# TLS


def test_the_name_is_what_tls_asks_for_and_the_vetted_address_is_what_is_called(
    serve, make_client, authority
):
    asked = queue.SimpleQueue()
    tls = authority.server_context("b.example")
    tls.sni_callback = lambda _sock, name, _context: asked.put(name)
    server = serve(always(answer(b"secret")), tls)
    client = make_client(ca_file=authority.ca_file, resolve=resolver("127.0.0.1"))

    got = client.get(url_of(server, host="b.example", scheme="https"))

    assert got.body == b"secret"
    assert asked.get(timeout=5) == "b.example"
    assert dict(server.requests[0].headers)["host"] == f"b.example:{server.port}"


def test_a_certificate_for_an_address_is_accepted_for_that_address(serve, make_client, authority):
    server = serve(always(answer(b"secret")), authority.server_context("127.0.0.1"))
    client = make_client(ca_file=authority.ca_file)

    assert client.get(url_of(server, scheme="https")).body == b"secret"


@pytest.mark.parametrize(
    ("names", "options"),
    [
        pytest.param(("c.example",), {}, id="another name"),
        pytest.param(("*.b.example",), {}, id="names below ours"),
        pytest.param(("127.0.0.1",), {}, id="our address, not our name"),
        pytest.param(("b.example",), {"is_self_signed": True}, id="self-signed"),
        pytest.param(("b.example",), {"is_expired": True}, id="expired"),
    ],
)
def test_a_certificate_that_proves_nothing_ends_the_call(serve, make_client, authority, names, options):
    server = serve(always(answer()), authority.server_context(*names, **options))
    client = make_client(ca_file=authority.ca_file, resolve=resolver("127.0.0.1"))

    with pytest.raises(TlsFailed, match=r"the certificate of b\.example is not trusted") as caught:
        client.post(url_of(server, host="b.example", scheme="https"), b"secret", {})

    assert caught.value.code == "tls_failed"
    assert server.requests == []


def test_a_private_authority_is_trusted_only_if_it_was_named(serve, make_client, authority):
    server = serve(always(answer()), authority.server_context("b.example"))
    client = make_client(resolve=resolver("127.0.0.1"))

    with pytest.raises(TlsFailed):
        client.get(url_of(server, host="b.example", scheme="https"))


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b""])
def test_a_server_without_tls_hears_no_request(serve, client, greeting):
    heard = queue.SimpleQueue()

    def script(visit):
        heard.put(visit.sock.recv(1000))
        visit.send(greeting)

    server = serve(script)

    with pytest.raises(TlsFailed, match="no TLS with"):
        client.post(url_of(server, scheme="https"), b"secret", {})

    assert b"secret" not in heard.get(timeout=5)


def test_an_answer_over_tls_that_is_cut_short_is_broken(serve, make_client, authority):
    # Without a length only the end of TLS tells the end of the answer, and this server does not say it.
    server = serve(once(HEAD + b"\r\n[1, 2"), authority.server_context("b.example"))
    client = make_client(ca_file=authority.ca_file, resolve=resolver("127.0.0.1"))

    with pytest.raises(AnswerBroken):
        client.get(url_of(server, host="b.example", scheme="https"))


# Addresses


def test_a_refused_address_is_not_connected_to(serve, make_client):
    server = serve(always(answer()))
    client = make_client(allowed_networks=())

    with pytest.raises(AddressRefused):
        client.get(url_of(server, scheme="https"))

    assert server.visits == []


def test_a_private_address_among_public_ones_refuses_all(serve, make_client):
    server = serve(always(answer()))
    client = make_client(allowed_networks=(), resolve=resolver(["1.1.1.1", "127.0.0.1"]))

    with pytest.raises(AddressRefused):
        client.get(url_of(server, host="b.example", scheme="https"))

    assert server.visits == []


def test_plain_http_to_a_public_address_is_refused(make_client):
    client = make_client(resolve=resolver("1.1.1.1"))

    with pytest.raises(AddressRefused, match="plain http"):
        client.get("http://b.example/")


def test_an_address_that_changes_between_look_ups_is_looked_at_once_and_used(serve, make_client):
    lookups = []
    server = serve(once(answer(b"vetted", headers=("Connection: close",))))
    first_good = resolver("127.0.0.1", "169.254.169.254")

    def resolve(host, port, **options):
        lookups.append(host)
        return first_good(host, port, **options)

    client = make_client(resolve=resolve)

    got = client.get(url_of(server, host="b.example"))
    with pytest.raises(AddressRefused, match=r"169\.254\.169\.254"):
        client.get(url_of(server, host="b.example"))

    assert (got.body, lookups, len(server.visits)) == (b"vetted", ["b.example"] * 2, 1)


def test_a_kept_alive_connection_stays_with_its_vetted_address(serve, make_client):
    server = serve(always(answer(b"vetted")))
    client = make_client(resolve=resolver("127.0.0.1", "169.254.169.254"))

    bodies = [client.get(url_of(server, host="b.example")).body for _ in range(3)]

    assert (bodies, len(server.visits)) == ([b"vetted"] * 3, 1)


def test_a_connection_that_is_too_old_is_vetted_anew(serve, make_client):
    server = serve(always(answer()))
    client = make_client(resolve=resolver("127.0.0.1", "169.254.169.254"), max_age_s=-1)
    client.get(url_of(server, host="b.example"))

    with pytest.raises(AddressRefused):
        client.get(url_of(server, host="b.example"))

    assert len(server.requests) == 1


def test_ipv6_is_spoken(serve, client):
    try:
        server = serve(always(answer(b"six")), None, "::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")

    got = client.get(url_of(server, host="[::1]"))

    assert got.body == b"six"
    assert dict(server.requests[0].headers)["host"] == f"[::1]:{server.port}"


def test_an_address_where_nobody_listens_is_refused(make_client):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(ConnectionRefused, match=rf"nobody listens at 127\.0\.0\.1:{port}") as caught:
        make_client().get(f"http://127.0.0.1:{port}/")

    assert caught.value.code == "connection_refused"
    assert isinstance(caught.value, ConnectFailed)


def test_the_next_address_is_tried_if_nobody_listens_at_the_first(serve, make_client):
    server = serve(always(answer(b"second")), None, "127.0.0.3")
    client = make_client(resolve=resolver(["127.0.0.2", "127.0.0.3"]))

    assert client.get(url_of(server, host="b.example")).body == b"second"


# Kept-alive connections


def test_one_connection_serves_call_after_call(serve, client):
    server = serve(always(answer(b"ok")))

    for _ in range(5):
        client.post(url_of(server), b"{}", {})

    assert (len(server.visits), len(server.requests)) == (1, 5)


@pytest.mark.parametrize(
    "data",
    [
        answer(b"ok", headers=("Connection: close",)),
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        answer(b"ok") + b"HTTP/1.1 200 OK\r\n",
    ],
)
def test_a_connection_is_not_used_again_if_the_next_answer_is_in_doubt(serve, client, data):
    server = serve(always(data))

    bodies = [client.get(url_of(server)).body for _ in range(2)]

    assert bodies == [b"ok", b"ok"]
    assert len(server.visits) == 2


def test_an_answer_that_was_not_asked_for_is_nobodys_answer(serve, client):
    is_sent = threading.Event()

    def script(visit):
        visit.read_request()
        visit.send(answer(b"%d" % visit.number))
        visit.send(answer(b"forged"))
        is_sent.set()
        visit.read_request()

    server = serve(script)

    first = client.get(url_of(server))
    is_sent.wait()
    second = client.get(url_of(server))

    assert (first.body, second.body) == (b"1", b"2")


def test_two_calls_at_a_time_have_a_connection_each_and_keep_both(serve, client):
    both_came = threading.Barrier(2)

    def script(visit):
        visit.read_request()
        both_came.wait(timeout=5)
        visit.send(answer(b"ok"))
        while visit.read_request() is not None:
            visit.send(answer(b"ok"))

    server = serve(script)
    threads = [threading.Thread(target=client.get, args=(url_of(server),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    client.get(url_of(server))

    assert (len(server.visits), len(server.requests)) == (2, 3)


def test_many_threads_get_their_own_answers(serve, client):
    def script(visit):
        while (request := visit.read_request()) is not None:
            visit.send(answer(request.body))

    server = serve(script)
    wrong = []

    def call(number):
        for turn in range(20):
            body = b"%d/%d" % (number, turn)
            if client.post(url_of(server), body, {}).body != body:
                wrong.append(body)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert (len(server.requests), len(server.visits) <= 8) == (160, True)


def test_the_number_of_idle_connections_is_bounded(serve, make_client):
    is_closed = threading.Event()

    def script(visit):
        always(answer())(visit)
        is_closed.set()

    first, second = serve(script), serve(always(answer()))
    client = make_client(max_idle=1)

    client.get(url_of(first))
    client.get(url_of(second))

    assert is_closed.wait(timeout=5)
    client.get(url_of(second))
    assert (len(first.visits), len(second.visits)) == (1, 1)


def test_idle_connections_are_closed_after_a_while(serve, make_client):
    is_closed = threading.Event()

    def script(visit):
        always(answer())(visit)
        is_closed.set()

    server = serve(script)
    client = make_client(max_idle_s=-1)

    client.get(url_of(server))

    assert is_closed.wait(timeout=5)


def test_closing_the_client_closes_its_connections(serve, make_client):
    is_closed = threading.Event()

    def script(visit):
        always(answer())(visit)
        is_closed.set()

    server = serve(script)
    client = make_client()
    client.get(url_of(server))

    client.close()

    assert is_closed.wait(timeout=5)


def breaks_on_second_request(reply=b""):
    """Answers the first request of a connection, and closes in answer to the second."""

    def script(visit):
        visit.read_request()
        visit.send(answer(b"%d" % visit.number))
        visit.read_request()
        visit.send(reply)

    return script


def test_a_kept_alive_connection_that_was_closed_is_replaced(serve, client):
    server = serve(breaks_on_second_request())

    bodies = [client.post(url_of(server), b"{}", {}).body for _ in range(3)]

    assert bodies == [b"1", b"2", b"3"]
    assert len(server.requests) == 5


def test_a_broken_kept_alive_connection_is_retried_only_once(serve, client):
    def script(visit):
        visit.read_request()
        if visit.number == 1:
            visit.send(answer())
            visit.read_request()

    server = serve(script)
    client.get(url_of(server))

    with pytest.raises(ConnectFailed):
        client.get(url_of(server))

    assert (len(server.visits), len(server.requests)) == (2, 3)


@pytest.mark.parametrize("start", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"])
def test_an_answer_that_began_is_not_asked_for_again(serve, client, start):
    server = serve(breaks_on_second_request(start))
    client.get(url_of(server))

    with pytest.raises(AnswerBroken):
        client.get(url_of(server))

    assert (len(server.visits), len(server.requests)) == (1, 2)


def test_a_kept_alive_connection_that_hangs_is_not_retried(serve, client):
    def script(visit):
        visit.read_request()
        visit.send(answer())
        visit.read_request()
        visit.is_over.wait()

    server = serve(script)
    client.get(url_of(server))

    with pytest.raises(DeadlineExceeded):
        client.get(url_of(server), deadline_s=SOON_S)

    assert len(server.visits) == 1


def test_connections_are_kept_over_tls_too(serve, make_client, authority):
    server = serve(always(answer(b"ok")), authority.server_context("b.example"))
    client = make_client(ca_file=authority.ca_file, resolve=resolver("127.0.0.1"))
    url = url_of(server, host="b.example", scheme="https")

    for _ in range(3):
        client.get(url)

    assert (len(server.visits), len(server.requests)) == (1, 3)


def test_a_child_process_never_speaks_on_a_connection_of_its_parent(serve, client):
    def script(visit):
        while visit.read_request() is not None:
            visit.send(answer(b"%d" % visit.number))

    server = serve(script)
    before = client.get(url_of(server)).body

    in_child = run_in_child(lambda: client.get(url_of(server)).body)
    after = client.get(url_of(server)).body

    assert (before, in_child, after) == (b"1", b"2", b"1")


def run_in_child(function):
    """What the function returns in a forked process, as bytes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, function())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        result = stream.read()
    os.waitpid(pid, 0)
    return result


def test_everybody_with_the_same_settings_shares_a_client():
    networks = (ip_network("10.0.0.0/8"),)

    assert shared_client(networks) is shared_client(networks)
    assert shared_client(networks) is not shared_client(())


def test_no_error_is_taken_for_a_hiccup_of_the_network():
    def all_below(kind):
        return {kind}.union(*map(all_below, kind.__subclasses__()))

    errors = all_below(TransportError)

    assert not any(issubclass(error, OSError) for error in errors)
    assert len({error.code for error in errors}) == len(errors)
