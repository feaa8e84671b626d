"""The embedded Valkey: where it listens, and what happens if there is none."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
import redis

from app import embedded
from tests.engines import until


def test_the_socket_lies_in_the_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "d"

    command = embedded.command(folder)

    assert command[command.index("--unixsocket") + 1] == str(folder / "valkey" / "valkey.sock")
    assert command[command.index("--port") + 1] == "0"


def test_a_deep_data_folder_has_its_socket_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 25)

    embedded.command(folder)
    path = embedded.socket_path(folder)

    assert len(os.fsencode(path)) <= embedded.MAX_SOCKET_PATH
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert embedded.socket_path(folder) == path
    embedded.remove_socket_folder(folder)
    assert not path.parent.exists()


def test_a_socket_folder_that_others_can_write_is_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 25)
    embedded.command(folder)
    first = embedded.socket_path(folder)
    first.parent.chmod(0o777)

    embedded.command(folder)

    assert embedded.socket_path(folder) != first
    embedded.remove_socket_folder(folder)
    first.parent.rmdir()


def test_what_it_was_told_survives_kill_9(tmp_path: Path) -> None:
    for turn in range(2):
        server = subprocess.Popen(embedded.command(tmp_path))
        with redis.Redis(unix_socket_path=str(embedded.socket_path(tmp_path))) as client:
            until(client.ping, "Valkey")
            if turn == 0:
                client.set("kept", "yes")
                client.execute_command("WAITAOF", 1, 0, 5000)
            else:
                assert client.get("kept") == b"yes"
        server.kill()
        server.wait()


def test_a_server_on_the_path_is_taken_where_there_is_no_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(embedded, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    command = embedded.command(tmp_path / "data")

    assert command[0] == str(program)


def test_no_server_at_all_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(embedded.ServerMissing, match=r"install valkey or redis.*REDIS_URL"):
        embedded.command(tmp_path / "data")
