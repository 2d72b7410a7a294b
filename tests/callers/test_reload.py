"""SIGHUP takes over callers, in the real process."""

import os
import signal
import time
from pathlib import Path

import aiohttp

from tests.callers.signing import ed25519, own_claims
from tests.callers.test_jwt import table
from tests.process import Process, new_process

SIGNER = ed25519()
NIGHTLY = f'[callers.nightly]\naccounts = ["acme"]\nuid = {os.getuid()}\n'


def write(process: Process, callers: str) -> None:
    """With a Unix listener beside the one on TCP."""
    process.write_config(callers)
    tcp = f'"127.0.0.1:{process.internal_port}"'
    text = process.config.read_text().replace(
        f"internal = {tcp}", f'internal = [{tcp}, {{ path = "api.sock", mode = "0600" }}]'
    )
    process.config.write_text(text)


async def reload(process: Process, callers: str, state: str) -> None:
    write(process, callers)
    await process.signal(signal.SIGHUP)
    await process.until(state)


async def statuses(process: Process) -> tuple[int, int]:
    """What the uid gets on the Unix socket, and a JWT on TCP."""
    bearer = f"Bearer {SIGNER.sign(own_claims('reporting', time.time()))}"
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(process.folder / "api.sock"))) as unix,
        unix.get("http://broker/token/acme") as by_uid,
    ):
        pass
    async with process.session.get(
        process.internal + "/token/acme", headers={"Authorization": bearer}
    ) as by_jwt:
        return by_uid.status, by_jwt.status


async def test_callers_come_and_go_with_the_file(tmp_path: Path) -> None:
    """At once; a broken file keeps those that were; the command line lists them."""
    async with new_process(tmp_path / "run") as process:
        write(process, NIGHTLY)
        await process.start()
        seen = [await statuses(process)]
        await reload(process, NIGHTLY + table("reporting", SIGNER), "serving tokens")
        seen.append(await statuses(process))
        await reload(process, NIGHTLY + table("reporting", SIGNER) + "x = 1", "reload refused")
        seen.append(await statuses(process))
        _, listed, _ = await process.run("callers", "list")
        await reload(process, "", "serving tokens")
        seen.append(await statuses(process))
        _, left, _ = await process.run("callers", "list")
        assert 0 == await process.stop()

    assert [(404, 401), (404, 404), (404, 404), (401, 401)] == seen
    assert [["nightly", "uid"], ["reporting", "public_key"]] == [
        line.split()[:2] for line in listed.splitlines()[1:]
    ]
    assert left.startswith("No callers yet.")
