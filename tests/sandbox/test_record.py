"""The judge: what it tells, and that it outlives the sandbox."""

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.sandbox import Sandbox

from .app import App, HandClock, StartSandbox


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def test_a_grant_is_followed(app: App) -> None:
    """Whose it is, its newest refresh token, how often it was rotated, and that it lives."""
    first = await app.connect("kit", account="77")
    second = await app.renewed("kit", first["refresh_token"])

    grants = (await app.record())["grants"]

    assert [
        {
            "provider": "kit",
            "external_id": "77",
            "org": None,
            "client_id": "sandbox-kit",
            "grant_id": 1,
            "revoked": False,
            "current_refresh_token_sha256": sha256(second["refresh_token"]),
            "live": True,
            "rotations": 1,
        }
    ] == grants


async def test_requests_are_told_apart(app: App) -> None:
    """Kind, what was sent, what came of it, and what was issued, by fingerprint."""
    first = await app.connect("kit")
    second = await app.renewed("kit", first["refresh_token"])
    await app.refresh("kit", "nonsense")

    requests = (await app.record())["requests"]

    assert [
        (request["kind"], request["outcome"], request["grant_id"], request["answered"])
        for request in requests
    ] == [
        ("code", "issued", 1, True),
        ("refresh", "issued", 1, True),
        ("refresh", "invalid_grant", None, True),
    ]
    renewal = requests[1]
    assert (
        sha256(first["refresh_token"]),
        sha256(second["refresh_token"]),
        sha256(second["access_token"]),
    ) == (
        renewal["token_sha256"],
        renewal["issued_refresh_sha256"],
        renewal["issued_access_sha256"],
    )
    assert requests[1]["started"] <= requests[1]["ended"]


async def test_no_token_is_told(app: App) -> None:
    """Neither codes nor tokens stand in the record."""
    code = await app.code("kit")
    tokens = (await app.exchange("kit", code)).json
    await app.use("kit", tokens["access_token"])

    text = json.dumps(await app.record())

    assert "sbx-" not in text


async def test_uses_are_told(app: App) -> None:
    """Which access token reached a resource, when, and what it got."""
    tokens = await app.connect("kit")

    await app.use("kit", tokens["access_token"])

    assert [
        {
            "provider": "kit",
            "access_sha256": sha256(tokens["access_token"]),
            "at": 1_800_000_000.0,
            "status": 200,
        }
    ] == (await app.record())["resource_uses"]


async def test_overlaps_are_counted(app: App, sandbox: Sandbox, clock: HandClock) -> None:
    """Two refreshes with one token that are out at the same time are an overlap."""
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", latency=5)

    asking = [asyncio.create_task(app.refresh("kit", tokens["refresh_token"])) for _ in range(2)]
    await clock.someone_sleeps(2)
    await clock.advance(5)
    await asyncio.gather(*asking)

    record = await app.record()
    assert record["max_outstanding_per_token"] == 2
    assert [request["beside"] for request in record["overlaps"]] == [[2]]


async def test_one_after_the_other_is_no_overlap(app: App, sandbox: Sandbox) -> None:
    """The same token again and again, and different tokens at once, are in order."""
    sandbox.faults.set("kit", rotation="N")
    tokens = [await app.connect("kit") for _ in range(3)]

    for _ in range(20):
        await asyncio.gather(*[app.renewed("kit", token["refresh_token"]) for token in tokens])

    record = await app.record()
    assert (record["max_outstanding_per_token"], record["overlaps"]) == (1, [])


@pytest.mark.parametrize("holder", [{"external_id": "77"}, {"external_id": 77}])
async def test_a_person_uninstalls(app: App, holder: dict[str, Any]) -> None:
    """Revoking an account ends its grants and no other."""
    gone = await app.connect("kit", account="77")
    kept = await app.connect("kit", account="78")

    answer = await app.post("/_sandbox/revoke", json={"provider": "kit", **holder})

    assert answer.json == {"revoked": 1}
    assert (await app.refresh("kit", gone["refresh_token"])).status == 400
    assert (await app.refresh("kit", kept["refresh_token"])).status == 200
    assert [grant["revoked"] for grant in (await app.record())["grants"]] == [True, False]


async def test_an_org_is_revoked_by_its_slug(app: App) -> None:
    """Kustomer's orgs are known by id and by slug."""
    await app.connect("kustomer", org="globex")

    answer = await app.post("/_sandbox/revoke", json={"provider": "kustomer", "external_id": "globex"})

    assert answer.json == {"revoked": 1}


@pytest.mark.parametrize("wrong", [{}, {"provider": "kit"}, {"external_id": "1"}])
async def test_a_wrong_revocation_is_refused(app: App, wrong: dict[str, Any]) -> None:
    """It must be clear whose grant is meant."""
    answer = await app.post("/_sandbox/revoke", json=wrong)

    assert answer.status == 400


async def test_a_restart_keeps_grants_and_record(
    app: App, sandbox: Sandbox, start_sandbox: StartSandbox, session: aiohttp.ClientSession
) -> None:
    """What was issued before works after, and the judge remembers."""
    tokens = await app.connect("kit", account="77")
    before = await app.record()
    await sandbox.stop()

    app.base = (await start_sandbox()).base_url

    assert before == await app.record()
    assert await app.works("kit", tokens["access_token"])
    assert (await app.refresh("kit", tokens["refresh_token"])).status == 200


async def test_a_stop_ends_what_was_running(
    app: App, sandbox: Sandbox, start_sandbox: StartSandbox, clock: HandClock
) -> None:
    """A request cut off by a restart is over and overlaps nothing that comes later."""
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", latency=5)
    asking = asyncio.create_task(app.refresh("kit", tokens["refresh_token"]))
    await clock.someone_sleeps()

    await sandbox.stop()
    await asyncio.gather(asking, return_exceptions=True)
    app.base = (await start_sandbox()).base_url
    await app.refresh("kit", tokens["refresh_token"])

    record = await app.record()
    assert [request["outcome"] for request in record["requests"]] == ["issued", "interrupted", "issued"]
    assert record["overlaps"] == []


ALONE = """
import asyncio, sys
from pathlib import Path
from broker.config.values import TcpListen
from broker.sandbox import run_alone
def ready(sandbox):
    print(sandbox.base_url, flush=True)
asyncio.run(run_alone(
    TcpListen("127.0.0.1", int(sys.argv[2])), Path(sys.argv[1]), "http://127.0.0.1:8081", ready=ready))
"""


async def run_alone(database: Path) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ALONE, str(database), "0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().strip()


async def test_a_killed_sandbox_remembers(app: App, tmp_path: Path) -> None:
    """After kill -9 in the middle of an answer the rotation and its record are both there."""
    database = tmp_path / "alone.db"
    process, app.base = await run_alone(database)
    tokens = await app.connect("kit")
    fault = {"provider": "kit", "rotation": "S", "latency_after": 3600}
    await app.post("/_sandbox/faults", json=fault)
    asking = asyncio.create_task(app.refresh("kit", tokens["refresh_token"]))
    while [request["outcome"] for request in (await app.record())["requests"]] != ["issued", "issued"]:
        assert not asking.done()

    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    with pytest.raises(aiohttp.ClientConnectionError):
        await asking
    process, app.base = await run_alone(database)
    record = await app.record()
    answer = await app.refresh("kit", tokens["refresh_token"])
    process.terminate()

    assert [(r["outcome"], r["answered"]) for r in record["requests"]] == [
        ("issued", True),
        ("issued", False),
    ]
    assert answer.status == 400
    assert await process.wait() == 0


async def test_the_database_is_one_file(app: App, tmp_path: Path) -> None:
    """What it issued lies where it was told to."""
    await app.connect("kit")

    connection = sqlite3.connect(tmp_path / "var" / "sandbox.db")
    count = connection.execute("SELECT COUNT(*) FROM grants").fetchone()
    connection.close()

    assert count == (1,)
