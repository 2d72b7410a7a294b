"""The real process tells: over kill -9 and SIGHUP, and it stops while somebody listens."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.alerts.receiver import Receiver, open_receiver
from tests.process import Process, new_process
from tests.until import moment


@pytest.fixture(name="receiver")
async def _receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as receiver:
        yield receiver


@pytest.fixture(name="process")
async def _process(tmp_path: Path, receiver: Receiver) -> AsyncIterator[Process]:
    async with new_process(tmp_path / "run", extra=receiver.config) as process:
        yield process


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not true():
            await moment()


def hooks(process: Process) -> list[tuple[str]]:
    """Which hooks have begun to listen."""
    with closing(sqlite3.connect(process.folder / "var/broker.db")) as database:
        return database.execute("SELECT hook FROM alert_hooks").fetchall()


@pytest.mark.proof
async def test_alert_arrives_over_a_kill_and_a_reload_tells_others(
    process: Process, receiver: Receiver
) -> None:
    """What the receiver refused comes after the next start; after SIGHUP the command is told as well."""
    heard = process.folder / "heard"
    await process.start()
    receiver.refused.add("acme")
    await process.connect("acme")
    await until(lambda: len(receiver.received) == 1)
    await process.kill()
    receiver.refused.clear()
    await process.start()
    await until(lambda: len(receiver.received) == 2)

    process.write_config(f'[alerts]\ncommand = ["/bin/sh", "-c", "cat >> {heard}"]')
    await process.signal(signal.SIGHUP)
    await process.until("READY=1")
    await until(lambda: ("command",) in hooks(process))
    await process.connect("globex", "kustomer")
    await until(heard.exists)
    code = await process.stop()

    assert [("connected", "acme")] * 2 == receiver.told
    assert receiver.received[0].id == receiver.received[1].id
    assert '"account":"globex"' in heard.read_text()
    assert 0 == code


async def test_stop_ends_streams_and_waiting(process: Process) -> None:
    """SIGTERM: both are answered, and the process is gone at once."""
    await process.start()
    await process.connect("acme")
    code, key, _ = await process.run(
        "callers", "add", "x", "--account", "*", "--permission", "token", "--permission", "accounts"
    )
    bearer = {"Authorization": f"Bearer {key.strip()}"}
    async with process.session.get(f"{process.internal}/events", headers=bearer) as stream:
        waiting = asyncio.create_task(_wait(process, bearer))
        first = await stream.content.readuntil(b"\n\n")
        await process.session.get(f"{process.internal}/token/acme", headers=bearer)
        await process.signal(signal.SIGTERM)
        rest = await stream.content.read()
        waited = await waiting

    assert (0, 0) == (code, await process.wait())
    assert first.startswith(b": open\nretry: ")
    assert b"data" not in rest
    assert 304 == waited


async def _wait(process: Process, bearer: dict[str, str]) -> int:
    headers = {**bearer, "If-None-Match": '"1"'}
    async with process.session.get(f"{process.internal}/token/acme?wait=60", headers=headers) as response:
        return response.status
