"""The audit's disk is full: living tokens go on for a minute, then nothing does, then all is written in order."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker.model import EventKind
from tests.audit.lines import first_problem
from tests.house import OPERATOR, House, open_house
from tests.missing import missing
from tests.process import Process, new_process
from tests.until import moment

SIZE = 256 * 1024


@pytest.fixture(name="small")
def _small(tmp_path: Path) -> Iterator[Path]:
    """A file system of a quarter of a MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        missing("a small file system needs root: sudo make test")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def to(small: Path) -> str:
    return f'\n[audit]\nto = {{ path = "{small}/audit.jsonl" }}\n'


@pytest.fixture(name="house")
async def _house(tmp_path: Path, small: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path / "house", extra=to(small)) as house:
        await house.connect()
        yield house


def fill(small: Path) -> Path:
    """Leave not one byte."""
    ballast = small / "ballast"
    with ballast.open("wb", buffering=0) as out:
        for size in (4096, 1):
            try:
                while out.write(b"x" * size):
                    pass
            except OSError:
                continue
    return ballast


async def use_up_the_page(house: House) -> None:
    """The file's last page has room even on a full disk, so ask until that is used up as well."""
    for _ in range(100):
        await house.get("/token/acme")
        if house.broker.context.health.problems:
            return
    raise AssertionError("the disk does not fill")


def request_ids(small: Path) -> list[str]:
    lines = [json.loads(line) for line in (small / "audit.jsonl").read_text().splitlines()]
    return [line["request_id"] for line in lines if line.get("action") == "token"]


async def ask(house: House, number: int) -> int:
    return (await house.get("/token/acme", **{"X-Request-Id": f"request-{number:04}"})).status


async def test_living_tokens_go_on_and_nothing_is_lost(house: House, small: Path) -> None:
    """200 for a minute with `/readyz` degraded, changes refused at once; then 503; then every line, in order."""
    ballast = fill(small)
    await use_up_the_page(house)
    before = len(request_ids(small))

    living = [await ask(house, number) for number in range(40)]
    ready = (await house.get("/readyz")).json
    forced = await house.post("/token/acme/refresh")
    frozen = await house.post("/accounts/acme/freeze")
    invited = await house.post("/installs", {"provider": "kit"})
    listed = await house.get("/accounts")
    removed = await house.ask("DELETE", "/accounts/acme?purge=1")
    house.clock.advance(61)
    await house.clock.settle()
    late = await house.get("/token/acme")
    during = len(request_ids(small))
    ballast.unlink()
    house.clock.advance(1)
    await house.clock.settle()
    after = await ask(house, 40)

    assert [200] * 40 == living
    assert "degraded" == ready["status"]
    assert "the audit cannot be written (No space left on device)" in ready["problems"][0]
    assert 200 == listed.status
    refused = (forced, frozen, invited, removed, late)
    assert [(503, "audit_unavailable")] * 5 == [(one.status, one.json["code"]) for one in refused]
    assert ["1"] * 5 == [one.headers["Retry-After"] for one in refused]
    assert (before, 200) == (during, after)
    assert [f"request-{number:04}" for number in range(41)] == request_ids(small)[-41:]
    assert ("active", 1) == ((await house.account()).status, (await house.account()).generation)
    assert None is first_problem(await house.broker.audit.own_files(OPERATOR, request_id="test"))


async def test_everybody_hears_of_it_and_of_its_end(house: House, small: Path) -> None:
    """Each once: degraded with its reason, and recovered."""
    ballast = fill(small)
    await use_up_the_page(house)
    ballast.unlink()
    house.clock.advance(1)
    await house.clock.settle()
    await house.broker.alerts.standing.flush()

    events = await house.broker.context.stores.events.last_events(2)

    assert [
        (EventKind.BROKER_DEGRADED, "audit_waiting"),
        (EventKind.BROKER_RECOVERED, "audit_waiting"),
    ] == [(event.kind, event.reason) for event in events]
    assert "ok" == (await house.get("/readyz")).json["status"]


async def test_stop_writes_what_waits(house: House, small: Path) -> None:
    """There is room again, and nobody has looked since."""
    ballast = fill(small)
    await use_up_the_page(house)
    for number in range(3):
        await ask(house, number)
    ballast.unlink()

    await house.restart()

    assert [f"request-{number:04}" for number in range(3)] == request_ids(small)[-3:]
    assert None is first_problem(await house.broker.audit.own_files(OPERATOR, request_id="test"))


@pytest.mark.proof
async def test_real_broker_on_a_full_audit_disk(tmp_path: Path, small: Path) -> None:
    """The whole of it with the machine's clock: a minute of living tokens, 503, and then `broker audit verify`."""
    async with new_process(tmp_path / "run", extra=to(small)) as process:
        await process.start()
        await process.connect()
        await process.new_key()
        ballast = fill(small)
        loop = asyncio.get_running_loop()
        began = None
        statuses: list[tuple[float, int]] = []
        while began is None or loop.time() < began + 66:
            answer = await process.get("/token/acme")
            if began is None and await degraded(process):
                began = loop.time()
            if began is not None:
                statuses.append((loop.time() - began, answer.status))
            await moment()
        ballast.unlink()
        async with asyncio.timeout(60):
            while await degraded(process):
                await moment()
        whole = await process.run("audit", "verify")
        answer = await process.get("/token/acme")
        await process.stop()
        stopped = await process.run("audit", "verify")

    assert {200} == {status for at, status in statuses if at < 58}
    assert {503} == {status for at, status in statuses if at > 62}
    assert 200 == answer.status
    assert (0, 0) == (whole[0], stopped[0]), (whole, stopped)


async def degraded(process: Process) -> bool:
    return "degraded" == str((await process.get("/readyz")).json["status"])
