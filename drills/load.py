"""Load: software that publishes as it should, repeating each call under its key until it is accepted."""

import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from urllib.parse import urlsplit

#: A call that is not accepted for so long fails the drill, in seconds.
_ACCEPTED_WITHIN_S = 120.0
_AGAIN_AFTER_S = 0.1


class NotAccepted(Exception):
    """A call was refused for good, or for too long."""


class Load:
    """A thread that publishes numbered batches of one event type, in order, until the block ends.

    with Load(url, token, "drill.kill-9") as load:
        load.wait_for(100)
    load.accepted     messageIds in the order of publication
    """

    def __init__(
        self, url: str, token: str, event_type: str, *, size: int = 20, pause_s: float = 0.03
    ) -> None:
        """size: events of a call. pause_s: between two calls; the machine belongs to the instances."""
        self.event_type = event_type
        self.accepted: list[str] = []
        #: Calls that had to be repeated: not connected, cut, or answered 429 or 5xx.
        self.repeated = 0
        self._url, self._token = urlsplit(url), token
        self._size, self._pause_s = size, pause_s
        self._numbers = 0
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(_ACCEPTED_WITHIN_S + 5)
        if error is None and self._failure is not None:
            raise self._failure

    def wait_for(self, events: int, within_s: float = _ACCEPTED_WITHIN_S) -> None:
        """Wait until so many more are accepted."""
        wanted = len(self.accepted) + events
        self._wait(lambda: len(self.accepted) >= wanted, f"{events} more events", within_s)

    def wait_for_refusals(self, calls: int, within_s: float = 30.0) -> None:
        """Wait until so many more calls had to be repeated."""
        wanted = self.repeated + calls
        self._wait(lambda: self.repeated >= wanted, f"{calls} refusals", within_s)

    def _wait(self, is_so: Callable[[], bool], what: str, within_s: float) -> None:
        with self._changed:
            so = self._changed.wait_for(lambda: self._failure or is_so(), within_s)
        if self._failure:
            raise self._failure
        if not so:
            raise NotAccepted(f"waited {within_s:.0f} s for {what} of {self.event_type}")

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._publish_batch()
                self._over.wait(self._pause_s)
        except Exception as error:
            self._failure = error
            self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _publish_batch(self) -> None:
        numbers = range(self._numbers, self._numbers + self._size)
        events = [{"eventType": self.event_type, "payload": {"n": number}} for number in numbers]
        body, key = json.dumps({"events": events}).encode(), str(uuid.uuid4())
        give_up_at = time.monotonic() + _ACCEPTED_WITHIN_S
        while (answer := self._call(body, key)) is None:
            self.repeated += 1
            self._tell()
            if time.monotonic() > give_up_at:
                raise NotAccepted(f"a call was not accepted for {_ACCEPTED_WITHIN_S:.0f} s")
            time.sleep(_AGAIN_AFTER_S)
        self._numbers += self._size
        self.accepted += [event["messageId"] for event in answer["data"]]
        self._tell()

    def _call(self, body: bytes, key: str) -> dict[str, list[dict[str, str]]] | None:
        """The answer if the events were accepted; None if the call is to be repeated."""
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=30)
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }
        try:
            connection.request("POST", "/api/v1/federation/events/publish/batch", body, headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if answer.status == 202:
            accepted: dict[str, list[dict[str, str]]] = json.loads(text)
            return accepted
        if answer.status in (409, 429) or answer.status >= 500:
            return None
        raise NotAccepted(f"publishing was answered {answer.status}: {text[:500]!r}")
