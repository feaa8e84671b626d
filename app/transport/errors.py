"""What can go wrong with a call to somebody else's server.

    TransportError
    ├── InvalidOrigin         invalid_origin        the text is no `scheme://host[:port]`
    ├── AddressRefused        address_refused       an address that we may not call
    ├── NameNotResolved       dns_failed            no address for the name
    ├── ConnectFailed         connection_failed     unreachable, or lost before it was of use
    │   └── ConnectionRefused connection_refused    nobody listens there
    ├── TlsFailed             tls_failed            certificate or handshake
    ├── DeadlineExceeded      timeout               the time for connecting, or for the whole call, is over
    ├── RedirectRefused       redirect              the peer answered 3xx
    ├── AnswerTooLarge        response_too_large    more bytes than the caller can take
    └── AnswerBroken          response_broken       not HTTP, cut short, compressed, or not what was asked for

None of them is an OSError, so that no layer between the socket and the caller
takes one for a hiccup of the network and tries again by itself.
"""

#: Peers write part of some details. One line of this length is enough to read.
MAX_DETAIL = 300


class TransportError(Exception):
    """A call that brought no answer. `code` is API; `detail` is one line for people; `status` is the
    HTTP status if the peer got as far as sending one, else None."""

    code = "transport_failed"

    def __init__(self, detail: str, *, status: int | None = None) -> None:
        self.detail = _one_line(detail)
        self.status = status
        super().__init__(self.detail)


class InvalidOrigin(TransportError):
    """The text is not the origin of an http or https server."""

    code = "invalid_origin"


class AddressRefused(TransportError):
    """The name leads, or may lead, to an address that is not public and not allowed by the settings."""

    code = "address_refused"


class NameNotResolved(TransportError):
    """The resolver knows no address for the name."""

    code = "dns_failed"


class ConnectFailed(TransportError):
    """No connection came about, or it was lost before anything of the answer arrived."""

    code = "connection_failed"


class ConnectionRefused(ConnectFailed):
    """The host is there, but nobody listens at the port."""

    code = "connection_refused"


class TlsFailed(TransportError):
    """The certificate is not trusted, not for this name, or the handshake failed."""

    code = "tls_failed"


class DeadlineExceeded(TransportError):
    """The time for connecting or for the whole call is over."""

    code = "timeout"


class RedirectRefused(TransportError):
    """The peer answered 3xx. It is never followed: the new address was vetted by nobody."""

    code = "redirect"


class AnswerTooLarge(TransportError):
    """The answer, or its head, is larger than the caller can take."""

    code = "response_too_large"


class AnswerBroken(TransportError):
    """What came back is not a usable HTTP answer."""

    code = "response_broken"


def _one_line(text: str) -> str:
    """The text as one printable line of at most MAX_DETAIL characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MAX_DETAIL]).split())
    return line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 1] + "…"
