"""The calls to a peer that the protocol knows (protocol.md §2 and §7).

Each goes through the client that is handed in and raises TransportError. What
comes back is what the peer says, no more: acks and documents are for the caller
to parse and verify.
"""

from functools import partial

from app import clock
from app.protocol.http_signature import new_nonce, sign_request
from app.protocol.messages import MAX_DOCUMENT_BYTES
from app.protocol.signing import Signer
from app.transport.address import parse_origin
from app.transport.client import DEADLINE_S, MAX_ANSWER_BYTES, Answer, Client
from app.transport.errors import InvalidOrigin

DOCUMENT_PATH = "/.well-known/tidings-instance"


def fetch_document(client: Client, base_url: str, *, deadline_s: float = DEADLINE_S) -> tuple[bytes, Answer]:
    """The instance document at the origin as it came, unchecked, with the answer of any status around it."""
    url = _url(base_url, DOCUMENT_PATH)
    answer = client.get(url, max_bytes=MAX_DOCUMENT_BYTES, deadline_s=deadline_s)
    return answer.body, answer


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
