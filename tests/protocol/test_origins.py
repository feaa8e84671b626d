"""Origins: one spelling for each, and none for what only looks like one."""

import pytest

from app.protocol.origins import parse_origin


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://b.example", "https://b.example"),
        ("https://b.example/", "https://b.example"),
        ("HTTPS://B.Example", "https://b.example"),
        ("https://b.example:443", "https://b.example"),
        ("http://b.example:80/", "http://b.example"),
        ("http://b.example:443", "http://b.example:443"),
        ("https://b.example:8443", "https://b.example:8443"),
        ("https://b.example:08443", "https://b.example:8443"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("https://192.0.2.7", "https://192.0.2.7"),
        ("https://[2001:DB8:0:0::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://1and1.example", "https://1and1.example"),
        ("http://tidings_b:5000", "http://tidings_b:5000"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://[0:0::1]:5000", "http://[::1]:5000"),
    ],
)
def test_an_origin_has_one_spelling(text, origin):
    assert parse_origin(text) == origin
    assert parse_origin(origin) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b.example",
        "//b.example",
        "https:/b.example",
        "https://",
        "https:///path",
        "https://b.example/path",
        "https://b.example//",
        "https://b.example?",
        "https://b.example#",
        "https://user@b.example",
        "https://user:secret@b.example",
        "https://b.example:",
        "https://b.example:0",
        "https://b.example:65536",
        "https://b.example:-1",
        "https://b.example:٤٤٣",
        "https://b.example:443:443",
        "https://b.example\\@evil.example",
        "https://b.example\n",
        " https://b.example",
        "https://b example",
        "https://b.example.",
        "https://.b.example",
        "https://b..example",
        "https://-b.example",
        "https://b-.example",
        "https://b%2eexample",
        "https://" + "a" * 64 + ".example",
        "https://" + ".".join(["a" * 49] * 6),
        "https://bücher.example",
        "https://b。example",
        "ftp://b.example",
        "file://b.example",
        "httpſ://b.example",
        "https://2130706433",
        "https://0x7f000001",
        "https://0x7f.1",
        "https://0177.0.0.1",
        "https://127.1",
        "https://127.0.0.1.",
        "https://1.2.3.256",
        "https://1.2.3.4.5",
        "https://b.example.7",
        "https://①②⑦.0.0.1",
        "https://１２７.0.0.1",
        "https://[",
        "https://[]",
        "https://[::1",
        "https://::1",
        "https://[127.0.0.1]",
        "https://[fe80::1%25eth0]",
        "https://[fe80::1%eth0]",
        "https://[::1]x",
        "https://[v1.a]",
        "https://b.example#x",
    ],
)
def test_what_is_no_origin_is_refused(text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - which of its texts is not the question
        parse_origin(text)

    assert str(caught.value)
