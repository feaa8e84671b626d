"""A server that does to a client whatever a test says, and the certificates it shows.

A test hands the fixture `serve` a script, which is called with each connection that comes in:

    def script(visit):
        visit.read_request()
        visit.send(answer(b"{}"))
"""

import contextlib
import datetime
import itertools
import socket
import ssl
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Request(NamedTuple):
    """What a client sent, as the server read it."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes


class Visit:
    """One connection of a client, seen from the server. `number` counts from 1."""

    def __init__(self, server: "HostileServer", sock: socket.socket, number: int) -> None:
        self.number = number
        self.sock = sock
        #: Set when the test is over: what scripts wait for instead of sleeping.
        self.is_over = server.is_over
        self._server = server
        self._buffer = b""

    def read_request(self) -> Request | None:
        """The next request, None if the client closed."""
        if not self._fill(lambda data: b"\r\n\r\n" in data):
            return None
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        line, *lines = head.decode("ascii").split("\r\n")
        headers = [(name.lower(), value) for name, _, value in (text.partition(": ") for text in lines)]
        length = int(dict(headers).get("content-length", "0"))
        self._buffer = rest
        if not self._fill(lambda data: len(data) >= length):
            return None
        request = Request(line, headers, self._buffer[:length])
        self._buffer = self._buffer[length:]
        self._server.requests.append(request)
        return request

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes) -> None:
        """Send byte by byte, 100 a second, over and over, until the client or the test has had enough."""
        for byte in itertools.cycle(data):
            if self.is_over.wait(0.01):
                return
            self.send(bytes([byte]))

    def flood(self, data: bytes) -> None:
        """Send the same for ever, as fast as it goes."""
        while not self.is_over.is_set():
            self.send(data)

    def _fill(self, is_enough: Callable[[bytes], bool]) -> bool:
        while not is_enough(self._buffer):
            more = self.sock.recv(65536)
            if not more:
                return False
            self._buffer += more
        return True


class HostileServer:
    """Listens on loopback and plays the script with every visitor, each in a thread of its own."""

    def __init__(
        self, script: Callable[[Visit], None], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.is_over = threading.Event()
        self.requests: list[Request] = []
        self.visits: list[Visit] = []
        self._script = script
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        self.is_over.set()
        # Closing alone would leave accept() waiting.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for visit in self.visits:
            with contextlib.suppress(OSError):
                visit.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while not self.is_over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            visit = Visit(self, sock, len(self.visits) + 1)
            self.visits.append(visit)
            self._threads.append(threading.Thread(target=self._play, args=(visit,)))
            self._threads[-1].start()

    def _play(self, visit: Visit) -> None:
        """A client that hangs up ends the script, and is nothing to report."""
        try:
            with contextlib.suppress(OSError):
                if self._tls is not None:
                    visit.sock = self._tls.wrap_socket(visit.sock, server_side=True)
                self._script(visit)
        finally:
            visit.sock.close()


def answer(body: bytes = b"", *, status: str = "200 OK", headers: tuple[str, ...] = ()) -> bytes:
    """An honest answer with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def always(data: bytes) -> Callable[[Visit], None]:
    """The script of a server that answers every request with these bytes, on one connection."""

    def script(visit: Visit) -> None:
        while visit.read_request() is not None:
            visit.send(data)

    return script


def resolver(*answers: str | list[str]) -> Callable[..., list[tuple[object, ...]]]:
    """A resolver that gives one of the answers per look-up, and the last one for ever."""
    left = [[each] if isinstance(each, str) else each for each in answers]

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        ips = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ips]

    return resolve


class Authority:
    """A certificate authority of the test's own, and the certificates it signs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        certificate = self._build(self._name, self._key.public_key(), []).sign(self._key, hashes.SHA256())
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server_context(
        self, *names: str, is_self_signed: bool = False, is_expired: bool = False
    ) -> ssl.SSLContext:
        """The TLS settings of a server whose certificate is for these names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        alternatives = [_general_name(name) for name in names]
        builder = self._build(subject, key.public_key(), alternatives, is_self_signed, is_expired)
        certificate = builder.sign(key if is_self_signed else self._key, hashes.SHA256())
        file = self._folder / f"{certificate.serial_number}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _build(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        alternatives: list[x509.GeneralName],
        is_self_signed: bool = False,
        is_expired: bool = False,
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if is_self_signed else self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * day)
            .not_valid_after(now - day if is_expired else now + day)
            .add_extension(x509.BasicConstraints(ca=not alternatives, path_length=None), critical=True)
        )
        if not alternatives:
            return builder
        return builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
