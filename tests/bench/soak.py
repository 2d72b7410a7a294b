"""`python -m tests.bench.soak`: hours of renewals and requests, and whether anything grows.

Every account is renewed over and over by the background loop; callers ask for hot tokens, for cold ones, and for
tokens that live so briefly that they renew them themselves; somebody reads the metrics. The broker holds a fifth of
the accounts in memory, so that its memory is full after minutes and what grows later grows for no reason. What is
remembered longest of what happens all the time, the attempts at a provider, is remembered for ten minutes: the
verdict of a run of less than half an hour counts some of that as growth.
"""

import argparse
import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, mean, median

import uvloop

from tests.bench.load import Load, NextRequest, each_once, get, in_turn, open_loop
from tests.bench.stand import SMOKE, Group, Server, Stand, free_port, until_open, use_last_core

ROOT = Path(__file__).parents[2]
MIB = 2**20
PROVIDERS = 4
"""The accounts' renewals are shared among so many, because each is renewed at a bounded rate."""
HOT = 100
BRIEF = Group("brief", 100, provider="brief", life=20.0, left=5.0, spread=15.0)
NOTICED_WITHIN = 1.0
PART = 15.0
MOST_GROWTH = 0.02
"""Of its memory, over the second half; less is noise of the allocator."""
MOST_OTHERS = 1.2
"""Files and tasks at the median, second half against first."""


@dataclass(frozen=True)
class Plan:
    """How long, how many and how often."""

    minutes: float = 60.0
    accounts: int = 100_000
    requests: float = 200.0
    """A second; half of them for hot tokens."""
    renewals: float = 30.0
    """A second, by the background loop; the brief tokens come on top."""
    every: float = 60.0
    """Seconds from sample to sample."""

    @property
    def cycle(self) -> float:
        """Seconds from one renewal of an account to the next."""
        return self.accounts / self.renewals

    @property
    def life(self) -> float:
        """Seconds that a token lives: it is renewed 15 minutes ahead, and at most a third of its life."""
        return float(round(self.cycle + min(900, self.cycle / 2)))


@dataclass(frozen=True, slots=True)
class Sample:
    """How the broker stood after so many minutes, and what the time since the sample before was like."""

    minute: float
    rss: float
    files: float
    threads: float
    tasks: float
    pause_ms: float
    """The longest garbage collection."""
    paused: float
    """The share of the time that they took."""
    renewals: float
    """A second."""
    hot_ms: float
    """The 99th percentile of requests for hot tokens."""
    failed: float
    """Answers that were not 200."""


HEAD = (
    "| minute | RSS, MiB | files | threads | tasks | longest gc pause, ms | gc, % of the time | renewals/s"
    " | hot p99, ms | not 200 |\n|---|---|---|---|---|---|---|---|---|---|\n"
)


def line(sample: Sample) -> str:
    """A row of the table."""
    return (
        f"| {sample.minute:.1f} | {sample.rss / MIB:.1f} | {sample.files:.0f} | {sample.threads:.0f}"
        f" | {sample.tasks:.0f} | {sample.pause_ms:.1f} | {100 * sample.paused:.2f} | {sample.renewals:.1f}"
        f" | {sample.hot_ms:.1f} | {sample.failed:.0f} |\n"
    )


def slope(samples: Sequence[Sample]) -> float:
    """Bytes an hour by which the memory grew in the second half, by least squares."""
    half = samples[len(samples) // 2 :]
    if len(half) < 2:
        return 0.0
    return linear_regression([one.minute / 60 for one in half], [one.rss for one in half]).slope


def complaints(samples: Sequence[Sample]) -> list[str]:
    """What grew, and what else is not as it should be."""
    first, second = samples[: len(samples) // 2], samples[len(samples) // 2 :]
    grown = slope(samples) * (second[-1].minute - second[0].minute) / 60 / mean(one.rss for one in second)
    found = [f"memory grew by {100 * grown:.1f} % over the second half"] if grown > MOST_GROWTH else []
    for what in ("files", "tasks"):
        before, after = (median(getattr(one, what) for one in half) for half in (first or second, second))
        if after > MOST_OTHERS * before + PROVIDERS:
            found.append(f"{what} grew from {before:.0f} to {after:.0f}")
    if failed := sum(one.failed for one in samples):
        found.append(f"{failed:.0f} answers were not 200")
    if not all(one.renewals for one in samples):
        found.append("nothing was renewed for a while")
    return found


def verdict(samples: Sequence[Sample]) -> str:
    """The last lines: the slope, and whether it all stood still."""
    found = complaints(samples)
    told = "nothing grows" if not found else "; ".join(found)
    return f"\nmemory over the second half: {slope(samples) / MIB:+.1f} MiB an hour\nverdict: {told}\n"


async def soak(stand: Stand, plan: Plan, sampled: Callable[[Sample], None]) -> list[Sample]:
    """Run for that long; `sampled` hears of every sample as it is taken."""
    samples: list[Sample] = []
    async with (
        stand.script("upstream.py", free_port()) as upstream,
        _serving(stand, plan, upstream) as broker,
    ):
        hot = in_turn(itertools.cycle([get(f"/token/live{number}", broker.bearer) for number in range(HOT)]))
        others, minute = in_turn(_others(plan, broker)), 0.0
        await broker.told()
        while minute < plan.minutes:
            loads = await asyncio.gather(
                _asking(broker.port, plan.requests / 2, plan.every, hot),
                _asking(broker.port, plan.requests / 2, plan.every, others),
                _scraping(broker.port, plan.every),
            )
            minute += plan.every / 60
            # The callers have hung up; the broker needs a moment to notice.
            await asyncio.sleep(NOTICED_WITHIN)
            samples.append(_sample(minute, json.loads(await broker.told()), loads))
            sampled(samples[-1])
    return samples


async def _asking(port: int, rate: float, seconds: float, request: NextRequest) -> Load:
    """An open loop over new connections every few seconds: the broker closes those that nobody uses."""
    whole = Load()
    while (left := seconds - whole.seconds) > 0:
        part = await open_loop(port, rate, min(left, PART), request)
        whole.seconds += min(left, PART)
        whole.latencies += part.latencies
        for status, count in part.statuses.items():
            whole.statuses[status] = whole.statuses.get(status, 0) + count
    return whole


async def _scraping(port: int, seconds: float) -> Load:
    """The metrics, as often as they are usually read."""
    whole = Load()
    while (left := seconds - whole.seconds) > 0:
        part = await each_once(port, 1, [get("/metrics")])
        await asyncio.sleep(min(left, PART))
        whole.seconds += min(left, PART)
        for status, count in part.statuses.items():
            whole.statuses[status] = whole.statuses.get(status, 0) + count
    return whole


@asynccontextmanager
async def _serving(stand: Stand, plan: Plan, upstream: Server) -> AsyncIterator[Server]:
    async with stand.stored(
        _groups(plan),
        memory=max(HOT, plan.accounts // 5),
        upstream=upstream,
        config="".join(
            f"[providers.{name}]\n"
            'type = "oauth2"\nclient_id = "bench"\nclient_secret = { file = "secret" }\nrotation = "strict"\n'
            'authorize_url = "http://127.0.0.1:9/"\n'
            f'token_url = "http://127.0.0.1:{upstream.port}/0/{life:.0f}"\n'
            for name, life in _lives(plan)
        ),
        background=True,
    ) as stored:
        folder = stored.folder
        async with stand.script("watched.py", stored.port, folder / "config.toml", folder / "log") as broker:
            await until_open(stored.port, broker.process)
            broker.key = stored.key
            yield broker


def _lives(plan: Plan) -> list[tuple[str, float]]:
    return [*((f"soak{number}", plan.life) for number in range(PROVIDERS)), ("brief", BRIEF.life)]


def _groups(plan: Plan) -> list[Group]:
    """Their ends are spread so that renewals come evenly from the start."""
    each, life, cycle = plan.accounts // PROVIDERS, plan.life, plan.cycle
    names = [f"soak{number}" for number in range(PROVIDERS)]
    soaked = [Group(f"{name}-", each, name, life, left=life - cycle, spread=cycle) for name in names]
    return [Group("live", HOT), BRIEF, *soaked]


def _others(plan: Plan, broker: Server) -> Iterator[bytes]:
    """Four cold tokens, then one that lives briefly."""
    chance = random.Random(7)
    while True:
        for _ in range(4):
            number = chance.randrange(plan.accounts // PROVIDERS)
            yield get(f"/token/soak{chance.randrange(PROVIDERS)}-{number}", broker.bearer)
        yield get(f"/token/brief{chance.randrange(BRIEF.count)}", broker.bearer)


def _sample(minute: float, told: dict[str, float], loads: Sequence[Load]) -> Sample:
    hot, *_ = loads
    return Sample(minute, **told, hot_ms=hot.percentile(0.99), failed=sum(load.failed for load in loads))


def main() -> None:
    wanted = _arguments()
    folder = ROOT / "var" / "bench"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    report = folder / "soak.md"
    report.write_text(HEAD)
    print(HEAD, end="", flush=True)

    def told(text: str) -> None:
        print(text, end="", flush=True)
        with report.open("a") as file:
            file.write(text)

    use_last_core()
    plan = Plan(wanted.minutes, wanted.accounts, wanted.requests, wanted.renewals, wanted.every)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        samples = loop.run(soak(Stand(folder, ROOT, SMOKE), plan, lambda one: told(line(one))))
    told(verdict(samples))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.soak", description="See whether anything grows."
    )
    parser.add_argument("--minutes", type=float, default=Plan.minutes)
    parser.add_argument("--accounts", type=int, default=Plan.accounts)
    parser.add_argument("--requests", type=float, default=Plan.requests, help="a second")
    parser.add_argument(
        "--renewals", type=float, default=Plan.renewals, help="a second, by the background loop"
    )
    parser.add_argument("--every", type=float, default=Plan.every, help="seconds from sample to sample")
    return parser.parse_args()


if __name__ == "__main__":
    main()
