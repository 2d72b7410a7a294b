"""Three brokers on one PostgreSQL under kills, stops and pulled cables; crowds, restarts, and how fast news travel."""

import asyncio
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from broker.sandbox.faults import Mode
from tests.house import Answer
from tests.postgres import another_server, needs_postgres
from tests.proof.fleet import LEASE, Fleet, Replica, asking, open_fleet

pytestmark = pytest.mark.slow

LIFE = 2.0
SLOW = {"latency": 0.02, "latency_after": 0.05}
NEVER_LIVING = 1.0


async def kill(fleet: Fleet, one: Replica, _: random.Random) -> float:
    await one.process.kill()
    await one.process.start()
    return 0.0


async def stop_for_a_moment(fleet: Fleet, one: Replica, chance: random.Random) -> float:
    return await stop(one, chance.uniform(0.1, LEASE / 3))


async def stop_beyond_the_lease(fleet: Fleet, one: Replica, chance: random.Random) -> float:
    return await stop(one, chance.uniform(LEASE + 0.5, LEASE + 1.5))


async def stop(one: Replica, seconds: float) -> float:
    await one.process.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    await one.process.signal(signal.SIGCONT)
    return seconds


async def pull_its_cable(fleet: Fleet, one: Replica, chance: random.Random) -> float:
    seconds = chance.uniform(0.2, LEASE + 2.0)
    one.cable.pull()
    await asyncio.sleep(seconds)
    one.cable.mend()
    return seconds


async def crash_the_database(fleet: Fleet, _: Replica, chance: random.Random) -> float:
    began = time.perf_counter()
    await asyncio.to_thread(fleet.server.crash)
    await asyncio.sleep(chance.uniform(0.0, 1.0))
    await asyncio.to_thread(fleet.server.start)
    return time.perf_counter() - began


async def stop_the_database(fleet: Fleet, _: Replica, chance: random.Random) -> float:
    seconds = chance.uniform(0.2, 4.0)
    fleet.server.signal_all(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    fleet.server.signal_all(signal.SIGCONT)
    return seconds


Injure = Callable[[Fleet, Replica, random.Random], Awaitable[float]]
"""Seconds for which somebody was stalled."""
INJURIES: tuple[Injure, ...] = (
    *(kill, stop_for_a_moment, stop_beyond_the_lease),
    *(pull_its_cable, crash_the_database, stop_the_database),
)


async def injure_in_rounds(fleet: Fleet, seed: str, rounds: int) -> Counter[str]:
    """So many injuries, each under load and judged before the next; what was done, and how often two were at once."""
    chance, done = random.Random(seed), Counter[str]()
    fleet.fault(**SLOW)
    async with asking(fleet, seed):
        for round_ in range(rounds):
            injure = INJURIES[round_ % len(INJURIES)] if rounds < 12 else chance.choice(INJURIES)
            before = fleet.overlaps()
            await asyncio.sleep(chance.uniform(0.02, 0.3))
            stalled = await injure(fleet, chance.choice(fleet.replicas), chance)
            await fleet.until_served()
            given = {name: max(tokens) for name, tokens in fleet.seen.items()}
            rows, overlaps = await fleet.rows(), fleet.overlaps() - before
            assert {None} == {dead for _, dead in rows.values()}, (injure.__name__, rows)
            assert [] == fleet.changed
            assert {} == {name: newest for name, newest in given.items() if newest > rows[name][0]}
            assert not overlaps or stalled > LEASE - 0.5, (injure.__name__, stalled, overlaps)
            done[injure.__name__] += 1
            done["two at once, after a stall beyond the lease"] += overlaps
    return done


async def injured(folder: Path, mode: Mode, seed: str, rounds: int) -> Counter[str]:
    with another_server() as server:
        async with open_fleet(folder, server, mode, ["one", "two", "three", "four"], life=LIFE) as fleet:
            done = await injure_in_rounds(fleet, seed, rounds)
            orphans = sum(r.process.said().count("renewal.orphaned") for r in fleet.replicas)
            print(mode, dict(done), f"renewals={fleet.renewals()} answers={fleet.answers} orphans={orphans}")
            return done


@pytest.mark.proof
async def test_every_injury_once_harms_no_account(tmp_path: Path) -> None:
    """Nobody is dead, no request came beside another, no token was out before it was durable."""
    needs_postgres()

    done = await injured(tmp_path / "run", Mode.ON_USE, "once", len(INJURIES))

    assert len(INJURIES) == sum(done[injure.__name__] for injure in INJURIES)


@pytest.mark.proof
@pytest.mark.parametrize("mode", [Mode.NONE, Mode.ON_USE, Mode.GRACE_LATEST])
async def test_hundred_random_injuries_harm_no_account(tmp_path: Path, mode: Mode) -> None:
    """The same at random: over the three modes 300 rounds."""
    needs_postgres()

    done = await injured(tmp_path / "run", mode, f"random {mode}", 100)

    assert 100 == sum(done[injure.__name__] for injure in INJURIES)


async def crowd(fleet: Fleet, callers: int) -> list[Answer]:
    """So many callers for each account, spread over the brokers, all at once."""

    async def ask(name: str, number: int) -> Answer:
        return await fleet.ask(fleet.replicas[number % len(fleet.replicas)], "GET", f"/token/{name}")

    return await asyncio.gather(*(ask(name, number) for name in fleet.names for number in range(callers)))


@pytest.mark.parametrize(
    ("accounts", "callers"), [(1, 1000), (20, 3), pytest.param(100, 3, marks=pytest.mark.proof)]
)
async def test_crowd_on_three_brokers_costs_one_request_an_account(
    tmp_path: Path, accounts: int, callers: int
) -> None:
    """Everybody gets the account's one new token, whichever broker renewed it."""
    names = [f"acme-{number}" for number in range(accounts)]
    async with open_fleet(
        tmp_path / "run", needs_postgres(), Mode.STRICT, names, life=NEVER_LIVING, extra=""
    ) as fleet:
        before = fleet.renewals()
        fleet.fault(life=3600.0, latency_after=0.3)

        answers = await crowd(fleet, callers)

        print(f"{accounts} accounts x {callers} callers: {fleet.renewals() - before} POSTs")
        assert set() == {answer.body for answer in answers if answer.status != 200}
        assert accounts == len({answer.json["access_token"] for answer in answers})
        assert (accounts, 0) == (fleet.renewals() - before, fleet.overlaps())


STOPPING = ("overloaded", True)
"""The code of such a 503, and whether it says when to ask again."""


async def balanced(fleet: Fleet, chance: random.Random, failed: list[str], until: asyncio.Event) -> int:
    """Requests as a balancer sends them; how many were answered.

    Where nobody listens, or a broker that stops says so because it begins no renewal (R11), the next one gets it.
    """
    served = 0
    while not until.is_set():
        name = chance.choice(fleet.names)
        for replica in chance.sample(fleet.replicas, len(fleet.replicas)):
            try:
                answer = await fleet.ask(replica, "GET", f"/token/{name}")
            except aiohttp.ClientConnectorError:
                continue
            except (aiohttp.ClientError, TimeoutError) as exc:
                failed.append(repr(exc))
                break
            if answer.status == 503 and (answer.json["code"], "Retry-After" in answer.headers) == STOPPING:
                continue
            if answer.status != 200:
                failed.append(f"{answer.status} {answer.body!r}")
            served += 1
            break
        else:
            failed.append("nobody answers")
    return served


@pytest.mark.proof
async def test_rolling_restart_fails_no_request(tmp_path: Path) -> None:
    """One broker after the other is stopped and started while the others go on, renewals included."""
    names = [f"acme-{number}" for number in range(10)]
    async with open_fleet(
        tmp_path / "run", needs_postgres(), Mode.STRICT, names, life=2.0, extra=""
    ) as fleet:
        failed: list[str] = []
        over = asyncio.Event()
        callers = [
            asyncio.create_task(balanced(fleet, random.Random(number), failed, over)) for number in range(8)
        ]

        codes = []
        for replica in (*fleet.replicas, *fleet.replicas):
            codes.append(await replica.process.stop())
            await replica.process.start()
        over.set()
        served = sum(await asyncio.gather(*callers))

        print(f"rolling restart: {served} requests, {len(failed)} failed, {fleet.renewals()} renewals")
        assert ([0] * 6, []) == (codes, failed[:3])
        assert served > 100
        assert fleet.renewals() > len(names)
        assert {None} == {dead for _, dead in (await fleet.rows()).values()}


@pytest.mark.proof
async def test_news_of_a_renewal_reach_the_others(tmp_path: Path) -> None:
    """From the answer of the broker that renewed to the first answer of another one with the new token."""
    names = [f"acme-{number}" for number in range(200)]
    async with open_fleet(tmp_path / "run", needs_postgres(), Mode.ON_USE, names, extra="") as fleet:
        a, b, _ = fleet.replicas
        times = []
        for name in names:
            await fleet.ask(b, "GET", f"/token/{name}")
            await fleet.ask(a, "POST", f"/token/{name}/refresh")
            began = time.perf_counter()
            while (await fleet.ask(b, "GET", f"/token/{name}")).json["generation"] == 1:
                pass
            times.append(1000 * (time.perf_counter() - began))
        p99 = statistics.quantiles(times, n=100)[98]
        print(
            f"to another broker: median {statistics.median(times):.1f} ms, p99 {p99:.1f} ms, max {max(times):.1f}"
        )

        assert len(names) == len(times)


def cpu_seconds(replica: Replica) -> float:
    assert replica.process.running is not None
    words = Path(f"/proc/{replica.process.running.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


async def ask_for(
    seconds: float, fleet: Fleet, used: list[Replica], number: int, asked: Counter[str]
) -> None:
    over = time.perf_counter() + seconds
    while time.perf_counter() < over:
        answer = await fleet.ask(used[number % len(used)], "GET", f"/token/acme-{number % 50}")
        asked[str(answer.status)] += 1


@pytest.mark.proof
async def test_throughput_side_by_side(tmp_path: Path) -> None:
    """One, two, three brokers on this machine, whose cores they share with the database and the callers."""
    async with open_fleet(
        tmp_path / "run", needs_postgres(), Mode.ON_USE, [f"acme-{n}" for n in range(50)], extra=""
    ) as fleet:
        for count in (1, 2, 3):
            used, asked = fleet.replicas[:count], Counter[str]()
            before = sum(map(cpu_seconds, used))
            await asyncio.gather(*(ask_for(5.0, fleet, used, number, asked) for number in range(24)))
            cpu = sum(map(cpu_seconds, used)) - before
            print(
                f"{count} brokers: {asked['200'] / 5:.0f}/s, {1000 * cpu / asked['200']:.2f} ms of CPU a request"
            )
            assert {"200"} == set(asked)
