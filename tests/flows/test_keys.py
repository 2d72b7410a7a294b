"""`broker keys` and `broker backup` with the real process, with it killed, and without it."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner, Result

from broker.cli import broker as command_line
from broker.cli.command import CommandContext
from broker.clock import SystemClock
from broker.config.settings import FileKey
from broker.encryption.keyring import kid_of
from broker.encryption.tokens import TokenEncryption
from broker.keys import open_ring
from broker.model import Account, Ref, Secret
from broker.store import Stores
from broker.store.keys import KeyStore
from broker.store.sqlite import SqliteDatabase
from tests.process import Process, new_process
from tests.store import rows
from tests.until import moment


@pytest.fixture(name="process")
async def _process(tmp_path: Path) -> AsyncIterator[Process]:
    async with new_process(tmp_path / "run") as process:
        yield process


async def _done(process: Process, *words: str) -> str:
    """What a command prints; it is typed in a process of its own."""
    code, out, err = await process.run(*words)
    assert code == 0, err
    return out


async def _typed(process: Process, *words: str) -> Result:
    """A command that only asks, typed in this process, which is faster."""
    context = CommandContext(config=str(process.config), environ={})
    return await asyncio.to_thread(CliRunner().invoke, command_line, list(words), obj=context)


async def _asked(process: Process, method: str, path: str, body: object = None) -> Any:
    socket = aiohttp.UnixConnector(path=str(process.folder / "var" / "admin.sock"))
    async with (
        aiohttp.ClientSession(connector=socket) as admin,
        admin.request(method, f"http://admin{path}", json=body) as response,
    ):
        assert response.status < 300, await response.text()
        return await response.json()


async def _states(process: Process) -> dict[str, tuple[str, int]]:
    keys = (await _asked(process, "GET", "/keys"))["keys"]
    return {key["kid"]: (key["state"], key["records"]) for key in keys if key["purpose"] == "data"}


async def test_keys_are_replaced_without_a_broker(process: Process) -> None:
    """Under the lock of the store: the commands do themselves what they ask of a running broker."""
    await process.start()
    await process.new_key()
    await process.connect()
    [old] = await _states(process)
    await process.stop()

    new = (await _done(process, "keys", "new")).split()[0]
    rewrapped = await _done(process, "keys", "rewrap")
    dropped = await _done(process, "keys", "drop", old, "--yes")
    await process.start()
    served = await process.get("/token/acme")

    assert "2 records encrypted anew.\n" == rewrapped
    assert f"Key {old} is retired.\n" == dropped
    assert {old: ("retired", 0), new: ("active", 2)} == await _states(process)
    assert 200 == served.status


async def test_backup_restore_and_adoption(process: Process) -> None:
    """While it runs, into the place of what is there, and what the commands say on the way."""
    await process.start()
    await process.new_key()
    await process.connect()
    backup = process.folder / "b.db"

    made = await _typed(process, "backup", str(backup))
    running = await _typed(process, "restore", str(backup), "--force")
    await process.stop()
    plain = await _typed(process, "restore", str(backup))
    restored = await _typed(process, "restore", str(backup), "--force")
    await process.start()
    served = await process.get("/token/acme")
    checked = await _typed(process, "check")
    adopted = await _typed(process, "adopt")

    assert f"{backup} holds 1 account.\n" == made.stdout
    assert (1, True) == (running.exit_code, "another broker runs on the store" in running.stderr)
    assert "systemctl stop token-broker.socket token-broker.service" in running.stderr
    assert (1, True) == (plain.exit_code, "with --yes it is replaced" in plain.stderr)
    assert "Restored 1 account" in restored.stdout
    assert (200, 1) == (served.status, checked.exit_code)
    assert "broker adopt" in " ".join(checked.stdout.split())
    assert adopted.stdout.startswith(
        "Adopted: the accounts of this store are renewed from now on.\nThe backup was made "
    )


async def _fill(process: Process, count: int) -> None:
    """So many frozen accounts beside those that are connected, sealed as the broker seals them."""
    path = process.folder / "var" / "broker.db"
    database = await SqliteDatabase.open(path)
    ring = await open_ring(KeyStore(database), FileKey(path.with_name("master.key")), SystemClock())
    stores, encryption = (
        Stores(database, keyring=ring.keyring, catch_up=ring.catch_up),
        TokenEncryption(ring.keyring),
    )

    def sealed(number: int) -> Account:
        name = f"filled-{number:06}"
        access, refresh = encryption.encrypt(Ref(name, 1, 1), Secret(f"at-{number}"), Secret(f"rt-{number}"))
        return replace(rows.account(name), sealed_access=access, sealed_refresh=refresh)

    async def connect(number: int) -> bool:
        return await stores.accounts.connect(
            sealed(number), expected=None, next_at=None, grant=None, events=[]
        )

    await asyncio.gather(*[connect(number) for number in range(count)])
    await database.close()


async def _opened(process: Process, count: int) -> set[str]:
    """The ids of the keys that seal them, once every one of them has opened to what it was."""
    path = process.folder / "var" / "broker.db"
    database = await SqliteDatabase.open(path)
    ring = await open_ring(KeyStore(database), FileKey(path.with_name("master.key")), SystemClock())
    stores, encryption = (
        Stores(database, keyring=ring.keyring, catch_up=ring.catch_up),
        TokenEncryption(ring.keyring),
    )
    kids = set()
    for number in range(count):
        account = await stores.accounts.get(f"filled-{number:06}")
        assert account is not None
        assert Secret(f"at-{number}") == encryption.access_token(account)
        assert Secret(f"rt-{number}") == encryption.refresh_token(account)
        kids |= {kid_of(account.sealed_access or ""), kid_of(account.sealed_refresh or "")}
    await database.close()
    return kids


def _under(process: Process, kid: str) -> int:
    """How many access tokens are sealed with that key; a connection that only reads changes nothing."""
    path = process.folder / "var" / "broker.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        records = connection.execute("SELECT sealed_access FROM accounts").fetchall()
    return sum(kid_of(record) == kid for (record,) in records)


@pytest.mark.parametrize(("kills", "many"), [(1, 400), pytest.param(20, 1000, marks=pytest.mark.proof)])
async def test_rewrap_that_is_killed_goes_on(process: Process, kills: int, many: int) -> None:
    """kill -9 while it is half done, so many times: nothing is lost, and the next one ends it."""
    await process.start()
    await process.stop()
    await _fill(process, many)
    met, new = [], ""

    for kill in range(kills):
        await process.start()
        new = (await _asked(process, "POST", "/keys"))["kid"]
        rewrap = asyncio.create_task(_rewrapped(process))
        await _until_more_than(process, new, many * (kill % 7) // 9)
        await process.signal(signal.SIGKILL)
        await process.wait()
        [broken_off] = await asyncio.gather(rewrap, return_exceptions=True)
        met.append((isinstance(broken_off, aiohttp.ClientError), 0 < _under(process, new) < many))
        assert len(await _opened(process, many)) > 1
    await process.start()
    await _rewrapped(process)
    states = await _states(process)
    for kid in [kid for kid, (state, _) in states.items() if state == "old"]:
        await _asked(process, "DELETE", f"/keys/{kid}")
    await process.stop()

    print(f"{kills} kills in a rewrap of {2 * many} records, {met.count((True, True))} found it half done")
    assert [(True, True)] * kills == met
    assert {("active", 2 * many), ("old", 0)} == set(states.values())
    assert {new} == await _opened(process, many)


async def _rewrapped(process: Process) -> None:
    cursor = (await _asked(process, "POST", "/keys/rewrap"))["cursor"]
    while cursor is not None:
        cursor = (await _asked(process, "POST", "/keys/rewrap", {"cursor": cursor}))["cursor"]


async def _until_more_than(process: Process, kid: str, records: int) -> None:
    async with asyncio.timeout(30):
        while _under(process, kid) <= records:
            await moment()
