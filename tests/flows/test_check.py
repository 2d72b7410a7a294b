"""`broker check` where no broker runs looks, and changes nothing: no store, no key, no audit, no migration."""

import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from broker.admin.checks import Check
from broker.app.offline import check_offline
from broker.config import load
from tests.house import House
from tests.process import Process, new_process

CONFIG = """
[providers.kit]
client_id = "c"
client_secret = "s"
authorize_url = "http://127.0.0.1:1/a"
token_url = "http://127.0.0.1:1/t"
"""


@pytest.fixture(name="process")
async def _process(tmp_path: Path) -> AsyncIterator[Process]:
    async with new_process(tmp_path / "run") as process:
        yield process


def lying(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below `folder`, as it lies there."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
        if not path.is_socket()
    }


async def looked(config: Path) -> list[Check]:
    """What the check says; nothing that lies beside the configuration may differ afterwards."""
    before = lying(config.parent)
    checks = await check_offline(load(config, environ={}))
    assert before == lying(config.parent)
    return checks


def problems(checks: list[Check]) -> list[str]:
    return [check.detail for check in checks if check.level == "problem"]


async def test_empty_folder_is_fine_and_stays_empty(tmp_path: Path) -> None:
    """A newcomer asks before the first start, and is told what that start will make."""
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)

    checks = await looked(config)

    assert [] == problems(checks)
    assert f"{tmp_path / 'var' / 'broker.db'} is made by the first start" in [
        check.detail for check in checks
    ]
    assert [config] == list(tmp_path.iterdir())


async def test_stopped_store_is_looked_at(house: House) -> None:
    """Accounts are counted, the key opens the store, and not a byte changes."""
    await house.connect()
    config = house.folder / "config.toml"
    await house.close()

    checks = await looked(config)
    await house.open()

    assert any(check.detail.startswith("the master key opens the store") for check in checks)
    assert "1 account" in [check.detail for check in checks]


async def test_store_of_a_killed_broker_is_looked_at(process: Process) -> None:
    """What the kill left in the WAL counts, and stays there."""
    await process.start()
    await process.connect("acme")
    await process.kill()

    checks = await looked(process.config)

    assert (process.folder / "var" / "broker.db-wal").stat().st_size > 0
    assert "1 account" in [check.detail for check in checks]


async def test_running_broker_is_not_looked_behind(process: Process) -> None:
    """The instance lock is held."""
    await process.start()

    checks = await check_offline(load(process.config, environ={}))

    assert ["another broker runs on the store"] == [text.partition(" /")[0] for text in problems(checks)]


async def test_what_lies_in_the_place_of_a_socket_is_told(tmp_path: Path) -> None:
    """By its key: a start would be refused. What a broker has left there is a socket."""
    config = tmp_path / "config.toml"
    listen = '[server]\nadmin_socket = "admin.sock"\ninternal = { path = "internal.sock" }\n'
    config.write_text(f"{listen}public_url = 'http://127.0.0.1:8081'\n{CONFIG}")
    (tmp_path / "admin.sock").write_text("")
    (tmp_path / "internal.sock").symlink_to("nowhere")

    wrong = await looked(config)
    for name in ("admin.sock", "internal.sock"):
        (tmp_path / name).unlink()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / name))
    right = await looked(config)

    assert ["server.admin_socket", "server.internal"] == [one.what for one in wrong if one.level == "problem"]
    assert [f"{tmp_path}/admin.sock is not a socket" in problems(wrong)[0], []] == [True, problems(right)]


def garbage(var: Path) -> None:
    (var / "broker.db").write_bytes(b"no database" * 1000)


def newer(var: Path) -> None:
    with sqlite3.connect(var / "broker.db") as connection:
        connection.execute("INSERT INTO schema_version VALUES (9999)")
    connection.close()


def link_for_lock(var: Path) -> None:
    (var / "broker.db.lock").unlink()
    (var / "broker.db.lock").symlink_to("nowhere")


def link_to_itself(var: Path) -> None:
    (var / "broker.db").unlink()
    (var / "broker.db").symlink_to("broker.db")


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no key": (lambda var: (var / "master.key").unlink(), "/var/master.key is missing"),
    "another key": (lambda var: (var / "master.key").write_text("A" * 43 + "=\n"), "master key"),
    "open key": (lambda var: (var / "master.key").chmod(0o644), "chmod 600"),
    "no database": (garbage, "/var/broker.db cannot be opened"),
    "newer schema": (newer, "newer"),
    "link to itself": (link_to_itself, "/var/broker.db cannot be opened: Too many levels"),
    "link for a lock": (link_for_lock, "/var/broker.db.lock cannot be opened: it is no regular file"),
    "open folder": (lambda var: var.chmod(0o755), "chmod 700"),
}


@pytest.mark.parametrize("name", BREAKAGES)
async def test_what_would_stop_the_start_is_told_by_its_own_name(house: House, name: str) -> None:
    """The check finds it before the start does, and names the operator's file, never that of a copy."""
    breakage, words = BREAKAGES[name]
    config = house.folder / "config.toml"
    await house.close()
    kept = {path: path.read_bytes() for path in (house.folder / "var").iterdir() if path.is_file()}
    breakage(house.folder / "var")

    [*_, start] = [check for check in await looked(config) if check.what == "start"]
    (house.folder / "var").chmod(0o700)
    for path, content in kept.items():
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
    await house.open()

    assert "problem" == start.level
    assert words in start.detail
    assert start.detail.count(str(house.folder)) == start.detail.count("/var")
