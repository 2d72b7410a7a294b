"""How each figure is measured: a measure starts its servers, then gives one round of figures after the other."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from tests.bench.load import Load, closed_loop, each_once, get, in_turn, open_loop
from tests.bench.stand import Group, Server, Stand, Stored, free_port, slow_disk
from tests.callers import signing

Figures = Mapping[str, float]
Round = Callable[[], Awaitable[Figures]]
Measure = Callable[[Stand], AbstractAsyncContextManager[Round]]
LIVE = Group("live", 1_000)
NANGO = 0.021
"""Nango's throughput against bare aiohttp's, on the machine where both were measured."""


@asynccontextmanager
async def hot(stand: Stand) -> AsyncIterator[Round]:
    """A hot token beside the bare server: many connections, and one."""
    seconds = stand.sizes.seconds
    async with stand.broker([LIVE]) as broker, stand.bare(broker) as bare:
        asked = _always("/token/live0", broker)
        await closed_loop(broker.port, 8, seconds / 2, asked)

        async def one_round() -> Figures:
            bare_load, bare_cpu = await _used(bare, closed_loop(bare.port, 64, seconds, asked))
            load, cpu = await _used(broker, closed_loop(broker.port, 64, seconds, asked))
            bare_one = await closed_loop(bare.port, 1, seconds / 2, asked)
            one = await closed_loop(broker.port, 1, seconds / 2, asked)
            _all_good(load, one, bare_load)
            return {
                "hot": load.rate / bare_load.rate,
                "hot_cpu": bare_cpu / cpu if cpu else 0.0,
                "hot_us": cpu,
                "bare_us": bare_cpu,
                "one": one.rate / bare_one.rate,
                "one_ms": one.percentile(0.5),
                "nango": load.rate / bare_load.rate / NANGO,
            }

        yield one_round


@asynccontextmanager
async def jwts(stand: Stand) -> AsyncIterator[Round]:
    """The same request with a key and with a JWT."""
    signer, seconds = signing.ed25519(), stand.sizes.seconds
    pem = stand.folder / f"bench-{free_port()}.pem"
    pem.write_text(signer.public_pem)
    config = f'[callers.signing]\naccounts = ["*"]\npublic_key = {{ file = "{pem}" }}\n'
    async with stand.broker([LIVE], config=config) as broker:

        async def one_round() -> Figures:
            token = signer.sign(signing.own_claims("signing", time.time()))
            asked = _repeated(get("/token/live0", f"Authorization: Bearer {token}"))
            keys = await closed_loop(broker.port, 64, seconds, _always("/token/live0", broker))
            signed = await closed_loop(broker.port, 64, seconds, asked)
            _all_good(keys, signed)
            return {"jwt": signed.rate / keys.rate}

        yield one_round


@asynccontextmanager
async def paced(stand: Stand) -> AsyncIterator[Round]:
    """So many requests a second, however slow the answers are."""
    seconds, rate = stand.sizes.seconds, 5_000 if stand.sizes.rounds > 1 else 500
    async with stand.broker([LIVE]) as broker, stand.bare(broker) as bare:
        asked = _always("/token/live0", broker)

        async def one_round() -> Figures:
            bare_load = await open_loop(bare.port, rate, seconds, asked)
            load = await open_loop(broker.port, rate, seconds, asked)
            return {"open_p99": load.percentile(0.99) / bare_load.percentile(0.99)}

        yield one_round


@asynccontextmanager
async def renewing(stand: Stand) -> AsyncIterator[Round]:
    """Hot tokens while others are renewed, on this disk."""
    async with _beside_renewals(stand, "renewing", None) as one_round:
        yield one_round


@asynccontextmanager
async def renewing_slowly(stand: Stand) -> AsyncIterator[Round]:
    """Hot tokens while others are renewed, on a slow disk."""
    library = await slow_disk(stand.folder)
    if library is None:
        yield _nothing
        return
    async with _beside_renewals(stand, "renewing_slow", library) as one_round:
        yield one_round


@asynccontextmanager
async def _beside_renewals(stand: Stand, key: str, preload: Path | None) -> AsyncIterator[Round]:
    seconds, rounds = stand.sizes.seconds, stand.sizes.rounds
    rate = 300 if rounds > 1 else 100
    expired = Group("old", int(rate * seconds * rounds) + rounds, left=-60.0)
    async with (
        stand.provider() as upstream,
        stand.broker([LIVE, expired], upstream=upstream, preload=preload) as broker,
    ):
        hot_token = _always("/token/live0", broker)
        names = (get(f"/token/old{number}", broker.bearer) for number in itertools.count())

        async def one_round() -> Figures:
            idle = await open_loop(broker.port, 500, seconds, hot_token)
            renewals, busy = await asyncio.gather(
                open_loop(broker.port, rate, seconds, in_turn(names)),
                open_loop(broker.port, 500, seconds, hot_token),
            )
            _all_good(idle, renewals, busy)
            slower = busy.percentile(0.99)
            return {key: slower / idle.percentile(0.99), f"{key}_ms": slower}

        yield one_round


@asynccontextmanager
async def slow_provider(stand: Stand) -> AsyncIterator[Round]:
    """Tokens inside their window, which live while the provider takes its time."""
    group = Group("late", 64 * stand.sizes.rounds, provider="slow", life=1_000.0, left=200.0)
    batches = itertools.count()
    async with (
        stand.provider() as upstream,
        stand.broker([LIVE, group], upstream=upstream) as broker,
    ):
        await closed_loop(broker.port, 8, stand.sizes.seconds, _always("/token/live0", broker))

        async def one_round() -> Figures:
            first = 64 * next(batches)
            asked = [get(f"/token/late{first + turn % 64}", broker.bearer) for turn in range(640)]
            load = await each_once(broker.port, 8, asked)
            _all_good(load)
            return {"provider": load.percentile(0.99)}

        yield one_round


@asynccontextmanager
async def crowd(stand: Stand) -> AsyncIterator[Round]:
    """Sixty-four callers at once on a token that is over."""
    group, numbers = Group("over", stand.sizes.rounds, provider="usual", left=-60.0), itertools.count()
    async with (
        stand.provider() as upstream,
        stand.broker([LIVE, group], upstream=upstream) as broker,
    ):
        await closed_loop(broker.port, 8, stand.sizes.seconds, _always("/token/live0", broker))

        async def one_round() -> Figures:
            before = await _count(upstream)
            asked = [get(f"/token/over{next(numbers)}", broker.bearer)] * 64
            load = await each_once(broker.port, 64, asked)
            _all_good(load)
            return {
                "crowd_ms": load.percentile(0.99) - 200,
                "crowd_calls": await _count(upstream) - before,
            }

        yield one_round


@asynccontextmanager
async def renewals(stand: Stand) -> AsyncIterator[Round]:
    """Intent, POST and durable commit, against the POST alone."""
    count, numbers = stand.sizes.crowds, itertools.count()
    async with (
        stand.script("upstream.py", free_port()) as upstream,
        stand.script("alone.py", f"http://127.0.0.1:{upstream.port}/0") as alone,
        stand.broker([Group("old", count * stand.sizes.rounds, left=-60.0)], upstream=upstream) as broker,
    ):

        async def one_round() -> Figures:
            post = await alone.told(f"64 {stand.sizes.seconds}")
            asked = [get(f"/token/old{next(numbers)}", broker.bearer) for _ in range(count)]
            load = await each_once(broker.port, 64, asked)
            _all_good(load)
            return {"renewals": load.rate / float(post), "renewals_rate": load.rate}

        yield one_round


@asynccontextmanager
async def renewals_slowly(stand: Stand) -> AsyncIterator[Round]:
    """Renewals together against one after the other, where a flush takes long."""
    library = await slow_disk(stand.folder)
    if library is None:
        yield _nothing
        return
    count, numbers = stand.sizes.crowds, itertools.count()
    single = max(10, count // 30)
    group = Group("old", (count + single) * stand.sizes.rounds, left=-60.0)
    async with (
        stand.script("upstream.py", free_port()) as upstream,
        stand.broker([group], upstream=upstream, preload=library) as broker,
    ):

        async def one_round() -> Figures:
            asked = [get(f"/token/old{next(numbers)}", broker.bearer) for _ in range(count + single)]
            one_by_one = await each_once(broker.port, 1, asked[:single])
            together = await each_once(broker.port, 64, asked[single:])
            _all_good(one_by_one, together)
            return {"renewals_slow": together.rate / one_by_one.rate}

        yield one_round


@asynccontextmanager
async def storm(stand: Stand) -> AsyncIterator[Round]:
    """All of them have expired, and all are wanted."""
    count, numbers = stand.sizes.storm, itertools.count()
    rounds = 1
    async with (
        stand.script("upstream.py", free_port()) as upstream,
        stand.broker([Group("old", count * rounds, left=-1.0)], upstream=upstream) as broker,
    ):
        done: dict[str, float] = {}

        async def one_round() -> Figures:
            if not done:
                asked = [get(f"/token/old{next(numbers)}", broker.bearer) for _ in range(count)]
                load = await each_once(broker.port, 256, asked)
                _all_good(load)
                done["storm_calls"] = await _count(upstream) / count
                done["storm_s"] = load.percentile(1.0) / 1000
            return done

        yield one_round


def _always(path: str, broker: Server) -> Callable[[], bytes]:
    return _repeated(get(path, broker.bearer))


def _repeated(request: bytes) -> Callable[[], bytes]:
    return lambda: request


async def _used(server: Server, running: Awaitable[Load]) -> tuple[Load, float]:
    """What came of it, and the server's processor time for each answer in µs."""
    before = server.cpu()
    load = await running
    return load, 1e6 * (server.cpu() - before) / len(load.latencies)


def _all_good(*loads: Load) -> None:
    """A figure counts only where every answer was a token."""
    for load in loads:
        if load.failed:
            raise RuntimeError(f"not every answer was 200: {load.statuses}")


async def _count(upstream: Server) -> int:
    load = await each_once(upstream.port, 1, [])
    assert not load.latencies
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    writer.write(get("/count"))
    answer = await reader.read()
    writer.close()
    return int(answer.rpartition(b": ")[2].rstrip(b"}"))


async def _nothing() -> Figures:
    return {}


@asynccontextmanager
async def held(stand: Stand) -> AsyncIterator[Round]:
    """What lies in memory; it does not wander, so it is measured once."""
    async with stand.script("held.py", f"{stand.sizes.many}") as server:
        assert server.process.stdout is not None
        figures = json.loads(await server.process.stdout.readline())

    async def one_round() -> Figures:
        return dict(figures)

    yield one_round


@asynccontextmanager
async def large(stand: Stand) -> AsyncIterator[Round]:
    """A large store beside a small one: throughput, a cold token's price, and the start."""
    many, seconds = stand.sizes.many, stand.sizes.seconds
    async with (
        stand.stored([Group("live", 1_000)], many) as small,
        stand.stored([Group("live", many)], many) as big,
    ):
        starts = await _first_tokens((small, big))
        async with small.serving() as few, big.serving() as lots:
            cold_cpu, hot_cpu = await _all_opened(lots, many)
            await _all_opened(few, 1_000)
            some, all_ = _scattered(few, 1_000), _scattered(lots, many)

            async def one_round() -> Figures:
                of_few = await closed_loop(few.port, 64, seconds, some)
                of_many = await closed_loop(lots.port, 64, seconds, all_)
                _all_good(of_few, of_many)
                return {
                    "growth": of_many.rate / of_few.rate,
                    "cold_us": cold_cpu - hot_cpu,
                    "start_ms": 1000 * (starts[1][0] - starts[0][0]),
                    "start_mib": (starts[1][1] - starts[0][1]) / 2**20,
                }

            yield one_round


async def _first_tokens(stores: Sequence[Stored]) -> list[tuple[float, float]]:
    """For each, seconds to the first token and bytes in memory then: the best of three starts, which take turns."""
    found: list[list[tuple[float, float]]] = [[] for _ in stores]
    for _ in range(3):
        for number, store in enumerate(stores):
            began = time.perf_counter()
            async with store.serving() as server:
                load = await each_once(server.port, 1, [get("/token/live0", server.bearer)])
                found[number].append((time.perf_counter() - began, float(server.memory())))
                _all_good(load)
    return [(min(seconds for seconds, _ in one), min(memory for _, memory in one)) for one in found]


async def _all_opened(server: Server, count: int) -> tuple[float, float]:
    """Ask for every account, so that all lie in memory; processor µs of a cold and then of a hot answer."""
    asked = [get(f"/token/live{number}", server.bearer) for number in range(count)]
    load, cold = await _used(server, each_once(server.port, 64, asked))
    again, hot_cpu = await _used(server, each_once(server.port, 64, asked[:20_000]))
    _all_good(load, again)
    return cold, hot_cpu


def _scattered(server: Server, count: int) -> Callable[[], bytes]:
    """Another account with each request, as far apart as can be."""
    numbers = itertools.count(1, 7_919)
    bearer = server.bearer
    return lambda: get(f"/token/live{next(numbers) % count}", bearer)


MEASURES: Mapping[str, Measure] = {
    "hot": hot,
    "jwts": jwts,
    "paced": paced,
    "renewing": renewing,
    "renewing_slowly": renewing_slowly,
    "slow_provider": slow_provider,
    "crowd": crowd,
    "renewals": renewals,
    "renewals_slowly": renewals_slowly,
    "storm": storm,
    "held": held,
    "large": large,
}
