"""The page at `/`, and the headers of every answer."""

import re

from flask.testing import FlaskClient


def test_the_page_says_what_this_is(client: FlaskClient) -> None:
    answer = client.get("/")

    assert answer.status_code == 200
    assert answer.mimetype == "text/html"
    assert "This is an instance of Tidings" in answer.text


def test_the_page_loads_nothing_from_elsewhere(client: FlaskClient) -> None:
    text = client.get("/").text

    loaded = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert loaded != []
    assert all(url.startswith(("/", "data:")) and not url.startswith("//") for url in loaded)
    assert "<script" not in text
    assert "style=" not in text


def test_its_style_sheet_is_served(client: FlaskClient) -> None:
    [sheet] = re.findall(r'rel="stylesheet" href="([^"]*)"', client.get("/").text)

    answer = client.get(sheet)

    assert (answer.status_code, answer.mimetype) == (200, "text/css")
    answer.close()


def test_every_answer_forbids_framing_sniffing_and_foreign_content(client: FlaskClient) -> None:
    for path in ("/", "/nothing/here"):
        headers = client.get(path).headers

        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
