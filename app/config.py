"""Settings: read once, checked, and immutable.

`SETTINGS` is the one list of them: name, unit, default, what is allowed and what
it means. `Config.from_env` reads them, the reference page is made from them, and
a value that cannot be right raises `SettingInvalid`, whose text is one line.
"""

import contextlib
import ipaddress
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from flask import current_app

from app.protocol.errors import InvalidRequest
from app.protocol.event_types import check_pattern
from app.protocol.origins import canonical_host, parse_origin

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

#: This software's version, as peers and people are told.
VERSION = "0.1.0"

#: The folder that holds wsgi.py, migrations/, templates/ and static/.
ROOT = Path(__file__).resolve().parent.parent

#: File in the data folder that holds the SECRET_KEY made on the first start.
SECRET_KEY_FILE = "secret_key"  # noqa: S105 - a file's name

_TEN_YEARS_MS = 10 * 365 * 86_400_000


class SettingInvalid(Exception):
    """A setting that cannot be right. Its text is one line: name, what was given, what is allowed."""

    def __init__(self, name: str, given: str | None, allowed: str) -> None:
        shown = "has a value" if given is None else f"is {_one_line(given)}"
        super().__init__(f"{name} {shown}, which cannot be right. Allowed: {allowed}.")
        self.name = name


class Setting(NamedTuple):
    """One setting, as the reference page shows it and as `Config.from_env` reads it."""

    name: str
    unit: str
    #: As text, read like a given value; empty where `default_shown` says what happens instead.
    default: str
    allowed: str
    meaning: str
    #: Text to value; a ValueError means that it cannot be right.
    read: Callable[[str], Any]
    default_shown: str = ""
    #: Never shown, not even in the refusal.
    secret: bool = False


def _one_line(text: str) -> str:
    """Given text for a message: quoted, short, without the password of a URL."""
    text = re.sub(r"(://[^:/@\s]*:)[^@\s]*@", r"\1***@", text)
    return repr(text if len(text) <= 100 else text[:97] + "...")


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,15}", text) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return read


def _list(read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """Items separated by commas, spaces around them ignored, each once, in the order given."""
    return lambda text: tuple(dict.fromkeys(read(item.strip()) for item in text.split(",") if item.strip()))


def _set(read: Callable[[str], Any]) -> Callable[[str], frozenset[Any]]:
    read_list = _list(read)
    return lambda text: frozenset(read_list(text))


def split_bind(bind: str) -> tuple[str, int]:
    """Host (IPv6 without brackets) and port of a BIND. Raises ValueError."""
    host, _, port = bind.rpartition(":")
    return canonical_host(host), _integer(1, 65_535)(port)


def _bind(text: str) -> str:
    host, port = split_bind(text)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _uuid(text: str) -> str:
    if str(UUID(text)) != text.lower():
        raise ValueError(text)
    return text.lower()


def _uuid_or_origin(text: str) -> str:
    return parse_origin(text) if "://" in text else _uuid(text)


def _name(text: str) -> str:
    if len(text) > 200 or not text.isprintable():
        raise ValueError(text)
    return text


def _label(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,12}", text):
        raise ValueError(text)
    return text.upper()


def _secret(text: str) -> str:
    if len(text) < 16:
        raise ValueError("too short")
    return text


def _pattern(text: str) -> str:
    try:
        return check_pattern(text, "")
    except InvalidRequest as problem:
        raise ValueError(problem.detail) from None


def _database_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        _ = parts.port  # a ValueError if it is none
        if not parts.path.strip("/"):
            raise ValueError("no database is named")
        return "postgresql+psycopg" + text[len(parts.scheme) :]
    if parts.scheme == "sqlite" and re.match(r"sqlite:///[^?]", text) and ":memory:" not in text:
        return text
    raise ValueError(text)


def _redis_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme in ("redis", "rediss"):
        _ = parts.port
        if parts.hostname is None or not re.fullmatch(r"(/[0-9]*)?", parts.path):
            raise ValueError(text)
    elif parts.scheme == "unix":
        if not parts.path.startswith("/"):
            raise ValueError(text)
    elif parts.scheme == "sentinel":
        read_sentinel(parts)
    else:
        raise ValueError(text)
    return text


def read_sentinel(parts: SplitResult) -> tuple[list[tuple[str, int]], str, int]:
    """Sentinels, name of the master and database of `sentinel://host:port,host:port/master/db`."""
    hosts: list[tuple[str, int]] = []
    for item in parts.netloc.rpartition("@")[2].split(","):
        host, port = split_bind(item if re.search(r":[0-9]+\Z", item) else f"{item}:26379")
        hosts.append((host, port))
    match = re.fullmatch(r"/([A-Za-z0-9._-]+)(?:/([0-9]+))?", parts.path)
    if match is None:
        raise ValueError(parts.path)
    return hosts, match[1], int(match[2] or 0)


def _data_dir(text: str) -> Path:
    return Path(text).expanduser().absolute()


_ORIGINS = "origins (scheme://host[:port]) separated by commas"


def _synchronous(text: str) -> str:
    if text.upper() not in ("NORMAL", "FULL"):
        raise ValueError(text)
    return text.upper()


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "BASE_URL",
        "URL",
        "http://127.0.0.1:5000",
        "http:// or https://, a host, and a port if it is not the usual one; no path",
        "Public URL of this instance, and the audience of every signature made for it.",
        parse_origin,
    ),
    Setting(
        "BIND",
        "address:port",
        "127.0.0.1:5000",
        "host:port with a port from 1 to 65535",
        "Address and port that `flask up` listens on.",
        _bind,
    ),
    Setting(
        "WEB_WORKERS", "processes", "2", "a whole number from 1 to 64", "Web processes.", _integer(1, 64)
    ),
    Setting(
        "WEB_THREADS",
        "threads",
        "16",
        "a whole number from 1 to 256",
        "Threads of each web process.",
        _integer(1, 256),
    ),
    Setting(
        "RQ_WORKERS",
        "processes",
        "2",
        "a whole number from 1 to 64",
        "Processes that deliver; one more serves connections that fail.",
        _integer(1, 64),
    ),
    Setting(
        "INSTANCE_ID",
        "UUID",
        "",
        "a UUID",
        "Stable identity of this instance.",
        _uuid,
        "made once, kept in the database",
    ),
    Setting(
        "INSTANCE_NAME",
        "",
        "",
        "1 to 200 printable characters",
        "Name that peers are shown.",
        _name,
        "the host's name",
    ),
    Setting(
        "INSTANCE_LABEL",
        "",
        "",
        "1 to 12 letters, digits and hyphens",
        "What the console calls this instance beside its name, such as PROD, TEST or DEMO.",
        _label,
        "`LOCAL` while BASE_URL is loopback, else `PROD`",
    ),
    Setting(
        "SECRET_KEY",
        "",
        "",
        "at least 16 characters",
        "Signs sessions and encrypts private keys at rest.",
        _secret,
        f"made once into `DATA_DIR/{SECRET_KEY_FILE}`",
        secret=True,
    ),
    Setting(
        "SECRET_KEY_PREVIOUS",
        "",
        "",
        "at least 16 characters",
        "The key before, until `flask key reencrypt` has rewritten the private keys.",
        _secret,
        "none",
        secret=True,
    ),
    Setting(
        "DATABASE_URL",
        "URL",
        "",
        "postgresql+psycopg://user:password@host:port/database or sqlite:///path",
        "The database.",
        _database_url,
        "SQLite in `DATA_DIR`",
    ),
    Setting(
        "SQLITE_SYNCHRONOUS",
        "word",
        "NORMAL",
        "NORMAL or FULL",
        "FULL: SQLite waits for the disk with every commit, so that a power cut costs none. "
        "PostgreSQL always does.",
        _synchronous,
    ),
    Setting(
        "REDIS_URL",
        "URL",
        "",
        "redis://, rediss:// or unix:// with an optional database number, or sentinel://host:port,host:port/master/db",
        "Redis 7 or newer, or Valkey. Nothing is lost when it is.",
        _redis_url,
        "an embedded server in `DATA_DIR`",
    ),
    Setting(
        "DATA_DIR",
        "folder",
        str(ROOT / "instance"),
        "a folder that can be written",
        "Everything embedded lives here.",
        _data_dir,
        "`instance/` beside wsgi.py",
    ),
    Setting(
        "FEDERATION_ALLOWED_NETWORKS",
        "CIDRs",
        "",
        "networks such as 10.0.0.0/8 or fd00::/8, without host bits, separated by commas",
        "Private networks that may be called, and over plain http.",
        _list(ipaddress.ip_network),
        "none",
    ),
    Setting(
        "FEDERATION_AUTO_ACCEPT",
        "origins",
        "",
        _ORIGINS,
        "Origins whose connection requests are accepted at once.",
        _set(parse_origin),
        "none",
    ),
    Setting(
        "FEDERATION_AUTO_GRANT",
        "patterns",
        "",
        "event types such as task.created, task.*, task.** or ** separated by commas",
        "Event types granted at once to any active connection.",
        _list(_pattern),
        "none",
    ),
    Setting(
        "FEDERATION_BLOCKED",
        "ids, origins",
        "",
        f"instance ids and {_ORIGINS}",
        "Instances that are refused with `blocked`.",
        _set(_uuid_or_origin),
        "none",
    ),
    Setting(
        "RATE_LIMIT_PUBLISH",
        "events/s",
        "20000",
        "a whole number from 1 to 1000000000",
        "Most events that one token may publish.",
        _integer(1, 10**9),
    ),
    Setting(
        "RATE_LIMIT_PEER",
        "events/s",
        "20000",
        "a whole number from 1 to 1000000000",
        "Most events taken from one instance.",
        _integer(1, 10**9),
    ),
    Setting(
        "RATE_LIMIT_ADDRESS",
        "requests/min",
        "10000",
        "a whole number from 1 to 1000000000",
        "Most requests taken from one address.",
        _integer(1, 10**9),
    ),
    Setting(
        "RETENTION_DAYS",
        "days",
        "30",
        "a whole number from 1 to 36500",
        "How long events, deliveries and attempts are kept.",
        _integer(1, 36_500),
    ),
    Setting(
        "CLOCK_OFFSET_MS",
        "ms",
        "0",
        "a whole number within ten years, and only while BASE_URL is loopback",
        "Shifts this instance's clock, for drills.",
        _integer(-_TEN_YEARS_MS, _TEN_YEARS_MS),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What this instance is set to. Each field is the setting of the same name in `SETTINGS`."""

    base_url: str
    bind: str
    web_workers: int
    web_threads: int
    rq_workers: int
    #: None: the one in the database, made on the first start.
    instance_id: str | None
    instance_name: str
    #: Upper case.
    instance_label: str
    secret_key: str = field(repr=False)
    secret_key_previous: str | None = field(repr=False)
    #: As SQLAlchemy takes it.
    database_url: str = field(repr=False)
    #: NORMAL or FULL.
    sqlite_synchronous: str
    #: Empty: the embedded server in `data_dir`.
    redis_url: str = field(repr=False)
    #: Absolute.
    data_dir: Path
    federation_allowed_networks: tuple[Network, ...]
    federation_auto_accept: frozenset[str]
    federation_auto_grant: tuple[str, ...]
    federation_blocked: frozenset[str]
    rate_limit_publish: int
    rate_limit_peer: int
    rate_limit_address: int
    retention_days: int
    clock_offset_ms: int
    #: Names of the settings that were given, by the environment or the `.env` file; the others are defaults.
    given: frozenset[str] = frozenset()

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, make: bool = True) -> "Config":
        """Read all settings. Makes the data folder and its secret key if they are missing.

        make: if False, nothing is made, and a secret key that is missing is empty.
        Raises SettingInvalid for the first setting that cannot be right.
        """
        values = _values(environ)
        if values["clock_offset_ms"] and not is_loopback(values["base_url"]):
            raise _refusal("CLOCK_OFFSET_MS", environ)
        data_dir = cast(Path, values["data_dir"])
        try:
            if make:
                data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                values["secret_key"] = values["secret_key"] or _kept_secret_key(data_dir)
            elif not values["secret_key"]:
                path = data_dir / SECRET_KEY_FILE
                values["secret_key"] = _read_secret_key(path) if path.exists() else ""
        except OSError:
            raise _refusal("DATA_DIR", environ) from None
        given = frozenset(setting.name for setting in SETTINGS if environ.get(setting.name, "").strip())
        return cls(**values, given=given)

    @classmethod
    def unchecked(cls) -> "Config":
        """All defaults, whatever the environment says, and nothing made on disk: enough to show help."""
        return cls(**_values({}) | {"secret_key": ""})


class Effective(NamedTuple):
    """One setting as it is in force."""

    setting: Setting
    #: As people write it; empty for none. A secret is not shown.
    shown: str
    is_given: bool


def effective(config: Config) -> list[Effective]:
    """All settings with their values, for people; no secret and no password of a URL is shown."""
    return [
        Effective(
            setting, _shown(setting, getattr(config, setting.name.lower())), setting.name in config.given
        )
        for setting in SETTINGS
    ]


def _shown(setting: Setting, value: Any) -> str:
    if setting.secret:
        return "set, and not shown" if value else ""
    if isinstance(value, tuple | frozenset):
        return ", ".join(sorted(str(item) for item in value))
    return "" if value is None else re.sub(r"(://[^:/@\s]*:)[^@\s]*@", r"\1***@", str(value))


def _values(environ: Mapping[str, str]) -> dict[str, Any]:
    """All fields of a Config by name; secret_key is None if it is not given."""
    values = {setting.name.lower(): _read(setting, environ) for setting in SETTINGS}
    values["instance_name"] = values["instance_name"] or socket.gethostname() or "tidings"
    loopback = is_loopback(values["base_url"])
    values["instance_label"] = values["instance_label"] or ("LOCAL" if loopback else "PROD")
    values["database_url"] = values["database_url"] or f"sqlite:///{values['data_dir'] / 'tidings.db'}"
    values["redis_url"] = values["redis_url"] or ""
    for name in ("federation_allowed_networks", "federation_auto_grant"):
        values[name] = values[name] or ()
    for name in ("federation_auto_accept", "federation_blocked"):
        values[name] = values[name] or frozenset()
    return values


def _read(setting: Setting, environ: Mapping[str, str]) -> Any:
    """The setting's value, its default if nothing is given, None if it has no default either."""
    given = environ.get(setting.name, "").strip()
    text = given or setting.default
    if not text:
        return None
    try:
        return setting.read(text)
    except ValueError:
        raise _refusal(setting.name, environ) from None


def _refusal(name: str, environ: Mapping[str, str]) -> SettingInvalid:
    setting = next(setting for setting in SETTINGS if setting.name == name)
    given = environ.get(name, "").strip() or setting.default
    return SettingInvalid(name, None if setting.secret else given, setting.allowed)


def _kept_secret_key(data_dir: Path) -> str:
    """The secret key in the data folder, made if there is none. Processes that race get the same one.

    The file appears whole or not at all: it is written beside and linked to its name,
    and a link never replaces what is there. Raises OSError.
    """
    path = data_dir / SECRET_KEY_FILE
    with contextlib.suppress(FileNotFoundError):
        return _read_secret_key(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{SECRET_KEY_FILE}-", dir=data_dir)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
    return _read_secret_key(path)


def _read_secret_key(path: Path) -> str:
    key = path.read_text(encoding="utf-8").strip()
    if len(key) < 16:
        # Making another one would leave every private key unreadable without a word.
        raise SettingInvalid(
            "SECRET_KEY", None, f"a file {path} of at least 16 characters; restore it from a backup"
        )
    return key


def is_loopback(base_url: str) -> bool:
    """Whether a base URL can only be meant for this machine."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def settings() -> Config:
    """The current app's settings."""
    return cast(Config, current_app.extensions["tidings"])
