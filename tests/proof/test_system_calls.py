"""The store's system calls in one renewal: their order makes it durable, and each of them may fail."""

import asyncio
from pathlib import Path

import pytest

from broker.sandbox.faults import Mode
from tests.missing import needs
from tests.proof.stand import Stand, open_stand
from tests.proof.tracing import traced
from tests.until import moment

pytestmark = pytest.mark.slow

WRITES = "trace=pwrite64,fdatasync,write,writev,sendto,sendmsg"
MOST = 40
"""More than any renewal makes of one kind."""


def place(trace: list[str], *words: str) -> int:
    """Where the first line with all these words is."""
    return next(number for number, line in enumerate(trace) if all(word in line for word in words))


def is_durable(trace: list[str], text: str) -> bool:
    """Whether a write of this text to the WAL is followed by a sync that succeeded."""
    wrote = [
        n for n, line in enumerate(trace) if "pwrite64(" in line and "broker.db-wal" in line and text in line
    ]
    syncs = [n for n, line in enumerate(trace) if "fdatasync" in line and line.endswith("= 0")]
    return bool(wrote and syncs) and syncs[-1] > wrote[0]


async def intent_of(stand: Stand, name: str) -> str:
    """The intent under which the request was sent that the sandbox is at."""
    async with asyncio.timeout(60):
        while not stand.outstanding():
            await moment()
    return str(stand.rows()[name].intent)


async def test_store_is_synced_before_the_request_and_before_the_answer(tmp_path: Path) -> None:
    """The intent lies on the disk before the first byte to the provider, the token before the first to the caller."""
    needs("strace")
    async with (
        open_stand(tmp_path / "run", Mode.STRICT, "acme") as stand,
        traced(stand, "-e", WRITES) as seen,
    ):
        stand.fault(latency_after=0.5)
        demanded = asyncio.create_task(stand.force("acme"))
        intent = await intent_of(stand, "acme")
        answer = await demanded
        sealed = stand.sealed_refresh("acme")

    assert answer is not None
    trace = seen.read_text().splitlines()
    sent = place(trace, "POST /kit/oauth/token")
    answered = place(trace, "<socket:", answer.json["access_token"])
    assert is_durable(trace[:sent], intent)
    assert is_durable(trace[sent:answered], sealed)


async def fail_at(stand: Stand, name: str, call: str, fault: str, when: str) -> bool:
    """A renewal with one failing system call, a kill -9 and a restart; whether the call came at all."""
    async with traced(stand, "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={when}") as seen:
        died = await stand.force(name) is None
    await (stand.killed() if died else stand.process.kill())
    await stand.process.start()
    await stand.healthy()
    answer = await stand.insist(name)

    assert 200 == answer.status, (call, fault, when, answer)
    assert 200 == await stand.use(answer.json["access_token"])
    assert {} == stand.dead()
    assert 0 == stand.refusals()
    return died or "INJECTED" in seen.read_text()


@pytest.mark.parametrize(
    ("mode", "fault"),
    [(Mode.STRICT, "error=EIO"), (Mode.STRICT, "error=ENOSPC"), (Mode.ON_USE, "signal=KILL")],
)
async def test_failing_sync_loses_nothing(tmp_path: Path, mode: Mode, fault: str) -> None:
    """The first and the second sync of a renewal fail, or kill the broker; nobody is lost, nobody falsely dead."""
    needs("strace")
    async with open_stand(tmp_path / "run", mode, "acme", "globex") as stand:
        came = [
            await fail_at(stand, name, "fdatasync", fault, when)
            for name, when in zip(stand.number, "12", strict=True)
        ]

    assert [True, True] == came


@pytest.mark.proof
@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
@pytest.mark.parametrize("on", ["", "+"], ids=["once", "from there on"])
@pytest.mark.parametrize(
    ("mode", "fault"),
    [(Mode.STRICT, "error=EIO"), (Mode.STRICT, "error=ENOSPC"), (Mode.ON_USE, "signal=KILL")],
)
async def test_any_failing_call_loses_nothing(
    tmp_path: Path, mode: Mode, fault: str, on: str, call: str
) -> None:
    """As above for every write and every sync of a renewal, and with all that follow."""
    needs("strace")
    names = [f"acme-{number}" for number in range(1, MOST)]
    async with open_stand(tmp_path / "run", mode, *names) as stand:
        for number, name in enumerate(names, 1):
            if not await fail_at(stand, name, call, fault, f"{number}{on}"):
                break
        else:
            pytest.fail("a renewal makes more calls than expected")

    assert number > 2
