"""Look: what is at an address that somebody typed, stage by stage, before anything is sent there.

    name ─► connect ─► TLS ─► document ─► identity ─► clock

The first stage that does not hold is where it ends: a person is told how far it came, what is wrong there,
and what to do about it. Nothing is stored.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from app.config import is_loopback
from app.errors import RemoteError
from app.federation import asking, clocks, peers
from app.federation.asking import Preview
from app.protocol.errors import InvalidRequest
from app.transport.address import parse_origin
from app.transport.errors import InvalidOrigin

#: `instance@host`, as it may stand on a card or in a mail.
_CARD = re.compile(r"(?P<instance>[^@\s/:]{1,200})@(?P<host>[^@\s/]{1,260})")


class Stage(StrEnum):
    """How far a look came, in order."""

    ADDRESS = "Address"  #: what was typed is the origin of a server
    NAME = "Name"  #: it leads to addresses, and to none that we must not call
    CONNECT = "Connect"  #: somebody listens there
    TLS = "TLS"  #: the certificate is trusted and fits the name
    DOCUMENT = "Instance document"  #: signed by the key that it names, and about this address
    IDENTITY = "Identity"  #: whom was asked for, not ourselves, and not blocked
    CLOCK = "Clock"  #: near enough to ours


class Seen(NamedTuple):
    """One stage: whether it holds, and what was seen there (in part remote text)."""

    stage: Stage
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at an address."""

    typed: str
    #: The origin that was asked; "" if what was typed is none.
    base_url: str
    seen: tuple[Seen, ...]
    #: Of the instance there, if it came so far; shown even if its identity or clock does not hold.
    preview: Preview | None
    #: What to do about the stage that does not hold.
    advice: str = ""

    @property
    def failed(self) -> Seen | None:
        """The stage that does not hold; None if all do."""
        return next((one for one in self.seen if not one.ok), None)


class _Address(NamedTuple):
    base_url: str
    #: Name or instanceId that the instance there must have; None if any may answer.
    instance: str | None


#: What ended the call, by the code of the transport: the stage, and what to do.
_ENDED: dict[str, tuple[Stage, str]] = {
    "dns_failed": (Stage.NAME, "Look for a slip of the finger, or ask their administrator for the address."),
    "address_refused": (
        Stage.NAME,
        "An address that is not public is called only if FEDERATION_ALLOWED_NETWORKS names its network.",
    ),
    "connection_refused": (Stage.CONNECT, "Ask their administrator whether the instance is running."),
    "connection_failed": (
        Stage.CONNECT,
        "Ask their administrator whether the address is right and reachable.",
    ),
    "timeout": (Stage.CONNECT, "A firewall may drop what we send; ask their administrator."),
    "tls_failed": (Stage.TLS, "Ask their administrator to renew or correct the certificate."),
    "redirect": (Stage.DOCUMENT, "Redirects are never followed: enter the address that it leads to."),
}
_NO_INSTANCE = "Ask their administrator for the base URL of the instance; a web site is none."


def look(typed: str) -> Look:
    """Ask who is at the address: an origin, a host, or `instance@host`. Raises nothing for what it finds."""
    typed = typed.strip()
    try:
        address = _read(typed)
    except InvalidOrigin as error:
        seen = (Seen(Stage.ADDRESS, False, error.detail),)
        return Look(typed, "", seen, None, "Such as https://events.example.com, or instance@host.")
    try:
        preview = asking.preview(address.base_url)
    except RemoteError as problem:
        return _ended(typed, address.base_url, problem)
    except InvalidRequest as problem:
        seen = (Seen(Stage.ADDRESS, False, problem.detail),)
        return Look(typed, address.base_url, seen, None)
    reached = (
        *_before(Stage.DOCUMENT, address.base_url),
        Seen(Stage.DOCUMENT, True, f"“{preview.name}”, signed by its key {preview.key_id}"),
    )
    for one, advice in _judge(preview, address):
        reached += (one,)
        if not one.ok:
            return Look(typed, address.base_url, reached, preview, advice)
    return Look(typed, address.base_url, reached, preview)


def _read(typed: str) -> _Address:
    """Raises InvalidOrigin."""
    card = _CARD.fullmatch(typed)
    host = card["host"] if card else typed
    if "://" not in host:
        # Only on this machine is plain http usual.
        host = ("http://" if _is_here(host) else "https://") + host
    return _Address(parse_origin(host.rstrip("/")), card["instance"] if card else None)


def _is_here(host: str) -> bool:
    try:
        return is_loopback(f"http://{host}")
    except ValueError:
        return False


def _ended(typed: str, base_url: str, problem: RemoteError) -> Look:
    stage, advice = _ENDED.get(str(problem.extras.get("reason")), (Stage.DOCUMENT, _NO_INSTANCE))
    detail = problem.detail.removeprefix(f"{base_url}: ")
    return Look(typed, base_url, (*_before(stage, base_url), Seen(stage, False, detail)), None, advice)


def _before(stage: Stage, base_url: str) -> Iterator[Seen]:
    """The stages that a call has passed when it comes to this one."""
    scheme, _, host = base_url.partition("://")
    passed = {
        Stage.NAME: f"{host} leads to an address that we may call",
        Stage.CONNECT: "somebody listens there",
        Stage.TLS: "the certificate is trusted and fits the name",
    }
    if scheme == "http":
        passed[Stage.TLS] = "none: not encrypted, which its network is allowed"
    for one, detail in passed.items():
        if one is stage:
            return
        yield Seen(one, True, detail)


def _judge(preview: Preview, address: _Address) -> Iterator[tuple[Seen, str]]:
    """Identity and clock, each with what to do if it does not hold."""
    refusal = _not_whom(preview, address)
    detail = refusal or ("known to us already" if preview.known_fingerprints else "not known to us before")
    yield Seen(Stage.IDENTITY, not refusal, detail), "Enter the address of the instance that you mean."
    skew_s = abs(preview.clock_skew_ms) / 1_000
    side = "ahead of" if preview.clock_skew_ms > 0 else "behind"
    yield (
        Seen(
            Stage.CLOCK,
            abs(preview.clock_skew_ms) <= clocks.REFUSED_MS,
            f"{skew_s:.1f} s {side} ours; up to {clocks.REFUSED_MS // 1_000} s are accepted",
        ),
        "Ask their administrator to set the clock (NTP), or have ours set, then look again.",
    )


def _not_whom(preview: Preview, address: _Address) -> str:
    """Why this is not whom somebody may want to connect to; "" if it may be."""
    wanted = address.instance
    if preview.is_self:
        return "this is this instance itself"
    if peers.is_blocked(preview.instance_id, preview.base_url):
        return "FEDERATION_BLOCKED names this instance or its address"
    if (
        wanted
        and wanted not in (preview.instance_id, preview.name)
        and not _begins(preview.instance_id, wanted)
    ):
        return f"you asked for {wanted}; here is “{preview.name}”, {preview.instance_id}"
    return ""


def _begins(instance_id: str, wanted: str) -> bool:
    """Whether it is the beginning of the id, long enough to tell."""
    return len(wanted) >= 8 and instance_id.startswith(wanted.lower())
