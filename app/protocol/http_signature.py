"""Transport signatures: the profile of RFC 9421 that §1.4 fixes, with Content-Digest of RFC 9530.

    Content-Digest: sha-256=:<base64>:
    Signature-Input: tidings=("@method" "@target-uri" "content-digest");created=…;keyid="…";nonce="…";tag="…"
    Signature: tidings=:<base64>:

Reading and verifying are two steps, so that the key can be looked up between them:
`read_signature` checks all that needs no key (form, digest, freshness), `verify` the rest.
That a nonce is used once is for the caller to see to, after `verify`. Whatever is wrong, the
peer is told `authentication_failed` and no more, except `clock_skew`.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from app.protocol.errors import AuthenticationFailed, ClockSkew, UnsupportedMediaType
from app.protocol.keys import PublicKey
from app.protocol.members import decode_base64, encode_base64
from app.protocol.signing import Signer

#: How far `created` may be from the clock here, in seconds.
MAX_SKEW_S = 300
#: How long a nonce is remembered, in seconds: the 2 × 300 s in which its request is fresh, and a minute more.
NONCE_TTL_S = 660

#: All values of a header by its name, one for each line it came in, as `werkzeug.Headers.getlist`.
HeaderGetter = Callable[[str], Sequence[str]]

_COVER = '("@method" "@target-uri" "content-digest")'
_MEMBER = re.compile(r"([a-z*][a-z0-9_.*-]*)=(.*)")
#: In the canonical form of RFC 8941 §4.1 nothing is optional, so the text itself is the syntax.
_PARAMETERS = re.compile(
    r";(?:"
    r"created=(?P<created>0|[1-9][0-9]{0,14})"
    r'|keyid="(?P<keyid>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}#[A-Za-z0-9._-]{1,64})"'
    r'|nonce="(?P<nonce>[A-Za-z0-9_-]{16,64})"'
    r'|tag="(?P<tag>tidings)"'
    r'|alg="(?P<alg>[a-z0-9_-]{1,64})"'
    r")"
)
_REQUIRED = frozenset({"created", "keyid", "nonce", "tag"})
_BYTES = re.compile(r":([A-Za-z0-9+/]+={0,2}):")
_VISIBLE = re.compile(r"/[!-~]*")
_METHOD = re.compile(r"[A-Z]{1,32}")


@dataclass(frozen=True, slots=True)
class TransportSignature:
    """A signature that was read and is fresh, but not yet verified.

    `base` is the signature base of RFC 9421 §2.5; `created` in Unix seconds.
    """

    instance_id: str
    key_id: str
    created: int
    nonce: str
    alg: str | None
    base: bytes
    signature: bytes

    def verify(self, key: PublicKey) -> None:
        """AuthenticationFailed unless it is that key's, and `alg`, if given, is that key's too."""
        if self.alg is not None and self.alg != key.algorithm:
            raise AuthenticationFailed(f"alg is {self.alg}, the pinned key is {key.algorithm}")
        if not key.verify(self.signature, self.base):
            raise AuthenticationFailed("the transport signature is not by the named key")


def read_signature(
    headers: HeaderGetter | Iterable[tuple[str, str]],
    *,
    method: str,
    target_uri: str,
    body: bytes,
    now_ms: int,
) -> TransportSignature:
    """Read and check the three headers of a request, all but the signature itself.

    `target_uri` is our own baseUrl and the raw path and query (see `target_uri`), never from
    Host. AuthenticationFailed, or ClockSkew if it was not created within 300 s of now.
    """
    values = headers if callable(headers) else _getter(headers)
    label, covered = _only_member(values, "Signature-Input")
    if not covered.startswith(_COVER):
        raise AuthenticationFailed("the cover is not the one of §1.4")
    parameters = _read_parameters(covered[len(_COVER) :])
    signature = _read_signature_bytes(values, label)
    digest_line = _only(values, "Content-Digest")
    _check_fresh(int(parameters["created"]), now_ms)
    if digest_line != content_digest(body):
        raise AuthenticationFailed("Content-Digest is not that of the body")
    instance_id, _, key_id = parameters["keyid"].partition("#")
    return TransportSignature(
        instance_id=instance_id,
        key_id=key_id,
        created=int(parameters["created"]),
        nonce=parameters["nonce"],
        alg=parameters.get("alg"),
        base=signature_base(method, target_uri, digest_line, covered),
        signature=signature,
    )


def _getter(headers: Iterable[tuple[str, str]]) -> HeaderGetter:
    lines = [(name.lower(), value) for name, value in headers]
    return lambda wanted: [value for name, value in lines if name == wanted.lower()]


def _only(values: HeaderGetter, name: str) -> str:
    lines = values(name)
    if len(lines) != 1:
        raise AuthenticationFailed(f"{name} occurs {len(lines)} times")
    return lines[0].strip(" \t")


def _only_member(values: HeaderGetter, name: str) -> tuple[str, str]:
    """Label and value of a header with one member; a second would not match what is read next."""
    member = _MEMBER.fullmatch(_only(values, name))
    if member is None:
        raise AuthenticationFailed(f"{name} is malformed")
    return member[1], member[2]


def _read_parameters(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        parameter = _PARAMETERS.match(text, position)
        if parameter is None or parameter.lastgroup is None or parameter.lastgroup in found:
            raise AuthenticationFailed("Signature-Input has an unknown, repeated or malformed parameter")
        found[parameter.lastgroup] = parameter[parameter.lastgroup]
        position = parameter.end()
    if missing := _REQUIRED - found.keys():
        raise AuthenticationFailed(f"Signature-Input lacks {', '.join(sorted(missing))}")
    return found


def _read_signature_bytes(values: HeaderGetter, label: str) -> bytes:
    own_label, text = _only_member(values, "Signature")
    wrapped = _BYTES.fullmatch(text)
    signature = decode_base64(wrapped[1]) if wrapped else None
    if own_label != label or signature is None:
        raise AuthenticationFailed("Signature is malformed or has another label")
    return signature


def _check_fresh(created_s: int, now_ms: int) -> None:
    if abs(now_ms - created_s * 1000) > MAX_SKEW_S * 1000:
        raise ClockSkew(server_time_ms=now_ms)


def content_digest(body: bytes) -> str:
    """The value of Content-Digest (RFC 9530): sha-256 only."""
    return f"sha-256=:{encode_base64(sha256(body).digest())}:"


def target_uri(base_url: str, raw_target: str) -> str:
    """`@target-uri`: a baseUrl and the raw request target (path and query as they came).

    AuthenticationFailed if the target is not in origin form of visible ASCII.
    """
    if not _VISIBLE.fullmatch(raw_target):
        raise AuthenticationFailed("the request target is not in origin form")
    return base_url + raw_target


def signature_base(method: str, target_uri: str, digest_line: str, covered: str) -> bytes:
    """The signature base (RFC 9421 §2.5); `covered` is the value of Signature-Input after its label."""
    if not _METHOD.fullmatch(method):
        raise AuthenticationFailed("the method is malformed")
    return (
        f'"@method": {method}\n'
        f'"@target-uri": {target_uri}\n'
        f'"content-digest": {digest_line}\n'
        f'"@signature-params": {covered}'
    ).encode()


def new_nonce() -> str:
    """24 characters of base64url from 18 random bytes."""
    return secrets.token_urlsafe(18)


def sign_request(
    signer: Signer, *, method: str, target_uri: str, body: bytes, created_s: int, nonce: str
) -> dict[str, str]:
    """The headers Content-Type, Content-Digest, Signature-Input and Signature of one attempt."""
    digest_line = content_digest(body)
    keyid = f"{signer.instance_id}#{signer.key_id}"
    covered = f'{_COVER};created={created_s};keyid="{keyid}";nonce="{nonce}";tag="tidings"'
    base = signature_base(method, target_uri, digest_line, covered)
    return {
        "Content-Type": "application/json",
        "Content-Digest": digest_line,
        "Signature-Input": f"tidings={covered}",
        "Signature": f"tidings=:{encode_base64(signer.private_key.sign(base))}:",
    }


_MEDIA_TYPE = re.compile(r'application/json(?:[ \t]*;[ \t]*charset="?utf-8"?)?[ \t]*', re.IGNORECASE)


def check_media_type(content_type: str | None, content_encoding: str | None) -> None:
    """UnsupportedMediaType unless the body is application/json without any Content-Encoding (§1.4)."""
    if content_encoding is not None:
        raise UnsupportedMediaType("a body has no Content-Encoding, not even identity")
    if content_type is None or not _MEDIA_TYPE.fullmatch(content_type.strip()):
        raise UnsupportedMediaType("a body is application/json")
