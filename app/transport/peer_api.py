"""The calls to a peer that the protocol knows (protocol.md §2 and §7).

Each goes through the client that is handed in and raises TransportError. What
comes back is what the peer says, no more: acks and documents are for the caller
to parse and verify.
"""

from functools import partial
from urllib.parse import quote

from app import clock
from app.protocol.canonical import loads
from app.protocol.errors import Problem
from app.protocol.http_signature import new_nonce, sign_request
from app.protocol.keys import KeyRecord, parse_key_record
from app.protocol.messages import MAX_DOCUMENT_BYTES
from app.protocol.signing import Signer
from app.transport.address import parse_origin
from app.transport.client import DEADLINE_S, MAX_ANSWER_BYTES, Answer, Client
from app.transport.errors import AnswerBroken, InvalidOrigin

DOCUMENT_PATH = "/.well-known/tidings-instance"
KEY_PATH = "/api/v1/federation/keys/"

#: Largest key record: a PEM of 4096 characters, and room for members that nobody knows yet.
MAX_KEY_BYTES = 16 * 1024


def fetch_document(client: Client, base_url: str, *, deadline_s: float = DEADLINE_S) -> tuple[bytes, Answer]:
    """The instance document at the origin as it came, unchecked, with the answer of any status around it."""
    url = _url(base_url, DOCUMENT_PATH)
    answer = client.get(url, max_bytes=MAX_DOCUMENT_BYTES, deadline_s=deadline_s)
    return answer.body, answer


def fetch_key(
    client: Client, base_url: str, key_id: str, *, deadline_s: float = DEADLINE_S
) -> KeyRecord | None:
    """The record of one key, None if the peer knows no such key (404).

    The record is well-formed and its fingerprint is its key's; that the peer's identity stands behind it
    is not said. Raises AnswerBroken for any other answer.
    """
    url = _url(base_url, KEY_PATH + quote(key_id, safe=""))
    answer = client.get(url, max_bytes=MAX_KEY_BYTES, deadline_s=deadline_s)
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise AnswerBroken(f"answered {answer.status} instead of a key record", status=answer.status)
    try:
        record = parse_key_record(loads(answer.body))
    except Problem as problem:
        raise AnswerBroken(f"the key record is not valid: {problem.detail}", status=200) from problem
    if record.key_id != key_id:
        raise AnswerBroken(f"the key record is of {record.key_id}, not of {key_id}", status=200)
    return record


def send_signed(
    client: Client,
    signer: Signer,
    base_url: str,
    path_with_query: str,
    body: bytes,
    *,
    deadline_s: float = DEADLINE_S,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> Answer:
    """POST a message with a transport signature (§1.4). The answer may have any status but 3xx.

    A request that is sent again because its kept-alive connection had been closed is signed again: the peer
    may have seen the first one, and takes a nonce only once.
    """
    url = _url(base_url, path_with_query)
    headers = partial(_signed_headers, signer, url, body)
    return client.post(url, body, headers, deadline_s=deadline_s, max_bytes=max_bytes)


def _signed_headers(signer: Signer, url: str, body: bytes) -> dict[str, str]:
    return sign_request(
        signer,
        method="POST",
        target_uri=url,
        body=body,
        created_s=clock.now_ms() // 1000,
        nonce=new_nonce(),
    )


def _url(base_url: str, target: str) -> str:
    """Origin and target as one. Raises InvalidOrigin if the first is more or less than an origin."""
    if parse_origin(base_url) != base_url:
        raise InvalidOrigin(f"{base_url} is not written as {parse_origin(base_url)}")
    return base_url + target
