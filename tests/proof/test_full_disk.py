"""The store's disk is full between a rotation and its commit: nothing is lost, and everybody is told."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.sandbox.faults import Mode
from tests.missing import missing
from tests.proof.stand import open_stand
from tests.until import moment

SIZE = 48 * 1024 * 1024
"""More than the 32 MiB below which no renewal is begun."""


@pytest.fixture(name="small")
def _small(tmp_path: Path) -> Iterator[Path]:
    """A folder for a broker whose `var` is a small file system of its own."""
    var = tmp_path / "run" / "var"
    var.mkdir(parents=True)
    (tmp_path / "run").chmod(0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(var)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        missing("a small file system needs root: sudo make test")
    yield tmp_path / "run"
    subprocess.run(["umount", "--lazy", str(var)], check=True)


def fill(ballast: Path) -> None:
    """Leave not one byte on the file system."""
    with ballast.open("wb", buffering=0) as out:
        for size in (1024 * 1024, 4096):
            try:
                while out.write(b"x" * size):
                    pass
            except OSError:
                continue


async def full_during_a_commit(small: Path, mode: Mode, seconds: float) -> set[str]:
    """A rotation whose commit finds no room for so long: callers are told; which accounts it lost."""
    async with open_stand(small, mode, "acme") as stand:
        stand.fault(latency_after=0.5)
        demanded = asyncio.create_task(stand.force("acme"))
        async with asyncio.timeout(60):
            while not stand.renewals("outcome = 'issued'"):
                await moment()
        fill(small / "var" / "ballast")

        refused = await demanded
        await asyncio.sleep(seconds)
        degraded = (await stand.ask("GET", "/readyz")).json
        meanwhile = (await stand.ask("GET", "/token/acme")).json["generation"]
        (small / "var" / "ballast").unlink()
        await stand.healthy()
        stored = stand.rows()["acme"].generation
        answer = await stand.ask("GET", "/token/acme")

        assert refused is not None
        assert (503, "storage_unavailable") == (refused.status, refused.json["code"])
        assert "degraded" == degraded["status"]
        assert any("a renewed token cannot be stored" in problem for problem in degraded["problems"])
        assert (1, 2) == (meanwhile, stored)
        assert (200, 2) == (answer.status, answer.json["generation"])
        assert 200 == await stand.use(answer.json["access_token"])
        assert ({}, 1) == (stand.dead(), stand.renewals())
        assert [] == list((small / "var").glob("broker.db.spool/*"))
        return stand.uncommitted()


async def test_full_disk_during_a_commit_loses_nothing(small: Path) -> None:
    """Against a strict provider: the set stays in memory, callers are told, and all is stored once there is room."""
    unstored = await full_during_a_commit(small, Mode.STRICT, seconds=0)

    assert set() == unstored


@pytest.mark.proof
@pytest.mark.parametrize("mode", Mode)
async def test_disk_full_for_a_minute_loses_nothing(small: Path, mode: Mode) -> None:
    """In every mode of rotation, for sixty seconds of real time."""
    unstored = await full_during_a_commit(small, mode, seconds=60)

    assert set() == unstored
