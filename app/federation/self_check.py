"""Whether BASE_URL leads to this instance: we read our own document as a peer would."""

import ipaddress
from typing import NamedTuple

from app import clock
from app.config import settings
from app.federation import identity
from app.protocol.canonical import loads
from app.protocol.errors import Problem
from app.protocol.messages import parse_instance_document, verify_document
from app.transport.client import Client
from app.transport.errors import TransportError
from app.transport.peer_api import DOCUMENT_PATH, fetch_document

#: How long our own answer may take, s.
DEADLINE_S = 5.0

#: The operator chose BASE_URL, and it may be a private address: the rules for peers' addresses do not apply.
_EVERYWHERE = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


class SelfCheck(NamedTuple):
    """What came of it: whether it is right, in words, and what to do if not."""

    ok: bool
    detail: str
    fix: str = ""


def read_own_document() -> SelfCheck:
    """Read the document at BASE_URL. Never raises; takes at most DEADLINE_S."""
    base_url = settings().base_url
    client = Client(_EVERYWHERE)
    try:
        raw, answer = fetch_document(client, base_url, deadline_s=DEADLINE_S)
    except TransportError as error:
        return SelfCheck(False, f"{base_url} cannot be reached from here: {error.detail}", _fix(error.code))
    finally:
        client.close()
    if answer.status != 200:
        return SelfCheck(
            False,
            f"{base_url}{DOCUMENT_PATH} answers {answer.status}",
            "Let the proxy in front pass every path on to BIND.",
        )
    return _compare(raw)


def _compare(raw: bytes) -> SelfCheck:
    try:
        document = verify_document(
            parse_instance_document(loads(raw)), base_url=settings().base_url, now_ms=clock.now_ms()
        )
    except Problem as problem:
        return SelfCheck(
            False,
            f"something else answers there: {problem.detail}",
            "Correct BASE_URL, or let the proxy in front pass every path on to BIND.",
        )
    if document.instance_id != identity.local_instance().instance_id:
        detail = f"another instance answers there: {document.instance_id}"
        return SelfCheck(False, detail, "Correct BASE_URL.")
    return SelfCheck(True, f"{settings().base_url} leads to this instance")


def _fix(code: str) -> str:
    if code == "redirect":
        return "Set BASE_URL to where the redirect leads: peers do not follow it."
    return "Correct BASE_URL, or the name and the proxy that lead to BIND."
