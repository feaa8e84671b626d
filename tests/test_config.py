"""Settings: what is read, what is refused, and the key that is made once."""

import dataclasses
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.config import SECRET_KEY_FILE, SETTINGS, Config, SettingInvalid, is_loopback, split_bind

KEY = "a secret key for tests alone"


def read(folder: Path, **environ: str) -> Config:
    return Config.from_env({"DATA_DIR": str(folder), "SECRET_KEY": KEY} | environ)


def test_defaults_are_those_of_the_reference(tmp_path: Path) -> None:
    config = read(tmp_path)

    assert (config.base_url, config.bind) == ("http://127.0.0.1:5000", "127.0.0.1:5000")
    assert (config.web_workers, config.web_threads, config.rq_workers) == (2, 16, 2)
    assert (config.rate_limit_publish, config.rate_limit_peer, config.rate_limit_address) == (
        20000,
        20000,
        10000,
    )
    assert (config.retention_days, config.clock_offset_ms) == (30, 0)
    assert (config.instance_id, config.redis_url, config.secret_key_previous) == (None, "", None)
    assert config.database_url == f"sqlite:///{tmp_path}/tidings.db"
    assert config.federation_auto_accept == frozenset()


def test_lists_are_read_with_spaces_around_commas(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        FEDERATION_ALLOWED_NETWORKS=" 127.0.0.0/8 , fd00::/8,",
        FEDERATION_AUTO_ACCEPT="https://A.example:443/ , http://b.example:8080",
        FEDERATION_AUTO_GRANT="task.*, **, task.*",
        FEDERATION_BLOCKED="9E107D9D-372B-4C81-8E7E-0A6E3A3D1F00, https://bad.example",
    )

    assert config.federation_allowed_networks == (ip_network("127.0.0.0/8"), ip_network("fd00::/8"))
    assert config.federation_auto_accept == {"https://a.example", "http://b.example:8080"}
    assert config.federation_auto_grant == ("task.*", "**")
    assert config.federation_blocked == {"9e107d9d-372b-4c81-8e7e-0a6e3a3d1f00", "https://bad.example"}


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_is_reached_by_psycopg(tmp_path: Path, scheme: str) -> None:
    config = read(tmp_path, DATABASE_URL=f"{scheme}://u:p@db.example:5433/tidings?sslmode=require")

    assert config.database_url == "postgresql+psycopg://u:p@db.example:5433/tidings?sslmode=require"


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache.example",
        "redis://:pw@cache.example:6380/3",
        "rediss://user:pw@cache.example:6380/0",
        "unix:///run/valkey.sock?db=2",
        "sentinel://:pw@a.example:26379,b.example:26379/mymaster/1",
        "sentinel://a.example/mymaster",
    ],
)
def test_redis_is_reached_in_every_documented_way(tmp_path: Path, url: str) -> None:
    assert read(tmp_path, REDIS_URL=url).redis_url == url


@pytest.mark.parametrize(
    "name, given",
    [
        ("BASE_URL", "ftp://a.example"),
        ("BASE_URL", "https://a.example/path"),
        ("BASE_URL", "https://user@a.example"),
        ("BASE_URL", "a.example"),
        ("BASE_URL", "http://["),
        ("BASE_URL", "https://a.example?x"),
        ("BIND", "5000"),
        ("BIND", "127.0.0.1:0"),
        ("BIND", "127.0.0.1:65536"),
        ("BIND", "::1:5000"),
        ("WEB_WORKERS", "0"),
        ("WEB_WORKERS", "two"),
        ("WEB_THREADS", "257"),
        ("RQ_WORKERS", "1.5"),
        ("INSTANCE_ID", "no-uuid"),
        ("INSTANCE_NAME", "x" * 201),
        ("INSTANCE_NAME", "two\nlines"),
        ("DATABASE_URL", "mysql://a/b"),
        ("DATABASE_URL", "postgresql://host"),
        ("DATABASE_URL", "postgresql://host:port/db"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("SQLITE_SYNCHRONOUS", "OFF"),
        ("REDIS_URL", "http://a"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://a/x"),
        ("REDIS_URL", "unix://relative"),
        ("REDIS_URL", "sentinel://a:b/master"),
        ("REDIS_URL", "sentinel://a"),
        ("DATA_DIR", "/proc/nowhere"),
        ("FEDERATION_ALLOWED_NETWORKS", "10.0.0.0/33"),
        ("FEDERATION_ALLOWED_NETWORKS", "10.0.0.1/8"),
        ("FEDERATION_AUTO_ACCEPT", "https://a.example, b.example"),
        ("FEDERATION_AUTO_GRANT", "Task.*"),
        ("FEDERATION_BLOCKED", "somebody"),
        ("RATE_LIMIT_PUBLISH", "-1"),
        ("RATE_LIMIT_PEER", "20 000"),
        ("RATE_LIMIT_ADDRESS", "10000/min"),
        ("RETENTION_DAYS", "0"),
        ("CLOCK_OFFSET_MS", "soon"),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_line(tmp_path: Path, name: str, given: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        read(tmp_path, **{name: given})

    [setting] = [setting for setting in SETTINGS if setting.name == name]
    line = str(caught.value)
    assert line.startswith(f"{name} is {given[:50]!r}"[:40])
    assert setting.allowed in line
    assert "\n" not in line


@pytest.mark.parametrize("name", ["SECRET_KEY", "SECRET_KEY_PREVIOUS"])
def test_a_refused_secret_is_not_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        read(tmp_path, **{name: "hunter2"})

    assert str(caught.value).startswith(name)
    assert "hunter2" not in str(caught.value)


def test_a_password_in_a_refused_url_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid) as caught:
        read(tmp_path, DATABASE_URL="mysql://root:hunter2@db.example/x")

    assert "db.example" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_secrets_are_not_in_the_representation(tmp_path: Path) -> None:
    config = read(tmp_path, REDIS_URL="redis://:hunter2@cache.example", SECRET_KEY_PREVIOUS="p" * 20)

    assert not any(secret in repr(config) for secret in (KEY, "hunter2", "p" * 20))


def test_a_shifted_clock_is_for_loopback_alone(tmp_path: Path) -> None:
    shifted = read(tmp_path, CLOCK_OFFSET_MS="-600000", BASE_URL="http://localhost:5001")

    assert shifted.clock_offset_ms == -600_000
    with pytest.raises(SettingInvalid, match=r"^CLOCK_OFFSET_MS is '1'.*loopback"):
        read(tmp_path, CLOCK_OFFSET_MS="1", BASE_URL="https://a.example")


def test_config_is_immutable(tmp_path: Path) -> None:
    config = read(tmp_path)

    with pytest.raises(dataclasses.FrozenInstanceError):
        config.base_url = "https://b.example"  # type: ignore[misc]


def test_secret_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    environ = {"DATA_DIR": str(folder)}

    first, second = Config.from_env(environ), Config.from_env(environ)

    assert first.secret_key == second.secret_key
    assert len(first.secret_key) >= 32
    assert stat.S_IMODE((folder / SECRET_KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == [SECRET_KEY_FILE]


def test_processes_that_race_get_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda _: Config.from_env({"DATA_DIR": str(tmp_path)}).secret_key, range(64)))

    assert len(set(keys)) == 1


def test_a_damaged_key_file_is_refused_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / SECRET_KEY_FILE).write_text("")

    with pytest.raises(SettingInvalid, match="restore it from a backup"):
        Config.from_env({"DATA_DIR": str(tmp_path)})

    assert (tmp_path / SECRET_KEY_FILE).read_text() == ""


@pytest.mark.skipif(os.getuid() == 0, reason="root can write everywhere")
def test_a_data_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(SettingInvalid, match=r"^DATA_DIR"):
        Config.from_env({"DATA_DIR": str(tmp_path)})


def test_help_needs_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", lambda *_args, **_kwargs: pytest.fail("made a folder"))

    assert Config.unchecked().base_url == "http://127.0.0.1:5000"


def test_every_setting_has_a_field_and_the_other_way_round() -> None:
    assert [setting.name.lower() for setting in SETTINGS if setting.meaning and setting.allowed] != []
    assert {setting.name.lower() for setting in SETTINGS} | {"given"} == {
        field.name for field in dataclasses.fields(Config)
    }


def test_bind_takes_names_and_both_kinds_of_address() -> None:
    assert split_bind("localhost:80") == ("localhost", 80)
    assert split_bind("0.0.0.0:5000") == ("0.0.0.0", 5000)
    assert split_bind("[::]:5000") == ("::", 5000)
    with pytest.raises(ValueError, match="no host name"):
        split_bind("::1:5000")


@pytest.mark.parametrize(
    "url, answer",
    [
        ("http://localhost:1", True),
        ("http://[::1]", True),
        ("http://127.8.9.1", True),
        ("https://a.example", False),
    ],
)
def test_loopback_is_recognised(url: str, answer: bool) -> None:
    assert is_loopback(url) is answer
