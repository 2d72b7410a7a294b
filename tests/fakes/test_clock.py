"""The clock of the tests keeps the promises of a clock."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import aiosqlite
import pytest

from broker.clock import Clock, SteadyClock

from .clock import FakeClock


@pytest.fixture
async def clock() -> FakeClock:
    return FakeClock()


async def nap(clock: Clock, seconds: float, woken: list[float]) -> None:
    await clock.sleep(seconds)
    woken.append(seconds)


async def test_time_stands_still_until_it_is_moved(clock: FakeClock) -> None:
    """However long the loop runs, both clocks show the same."""
    before = (clock.now(), clock.monotonic())

    await clock.settle()

    assert before == (clock.now(), clock.monotonic())


async def test_advance_moves_both_clocks(clock: FakeClock) -> None:
    """Time that passes, passes on the wall and inside the process."""
    wall, inside = clock.now(), clock.monotonic()

    clock.advance(90)

    assert (wall + 90, inside + 90) == (clock.now(), clock.monotonic())


async def test_jump_moves_the_wall_clock_alone(clock: FakeClock) -> None:
    """An hour back on the wall is seen as a jump by the steady clock, and wakes nobody."""
    steady, woken = SteadyClock(clock), list[float]()
    sleeper = asyncio.create_task(nap(clock, 10, woken))
    await clock.settle()

    clock.jump(-3600)
    await clock.settle()

    assert (clock.now() - steady.now(), clock.sleeping, woken) == (-3600, 1, [])
    sleeper.cancel()


async def test_sleepers_wake_in_the_order_of_their_deadlines(clock: FakeClock) -> None:
    """One step over several deadlines wakes them as time would have, and leaves the later one asleep."""
    woken = list[float]()
    tasks = [asyncio.create_task(nap(clock, seconds, woken)) for seconds in (30, 10, 60, 20)]
    await clock.settle()

    clock.advance(30)
    await clock.settle()

    assert (woken, clock.sleeping) == ([10, 20, 30], 1)
    tasks[2].cancel()


async def test_equal_deadlines_wake_in_the_order_of_falling_asleep(clock: FakeClock) -> None:
    """Who asked first is served first."""
    order = list[str]()

    async def sleep(name: str) -> None:
        await clock.sleep(5)
        order.append(name)

    tasks = [asyncio.create_task(sleep(name)) for name in "abc"]
    await clock.settle()
    clock.advance(5)
    await asyncio.gather(*tasks)

    assert order == ["a", "b", "c"]


async def test_small_steps_add_up_to_a_deadline(clock: FakeClock) -> None:
    """Twice three tenths of a second are six, although as floats, from 1000.0 on, they fall short of it."""
    task = asyncio.create_task(clock.sleep(0.6))
    await clock.settle()

    for _ in range(2):
        clock.advance(0.3)
    await clock.settle()

    assert task.done()


async def test_a_cancelled_sleeper_is_gone(clock: FakeClock) -> None:
    """A cancelled sleep counts no more, and an advance in the same turn does not trip over it."""
    task = asyncio.create_task(clock.sleep(5))
    await clock.settle()

    task.cancel()
    clock.advance(5)
    await clock.settle()

    assert (task.cancelled(), clock.sleeping) == (True, 0)


@pytest.mark.parametrize("seconds", [0, -1])
async def test_no_time_to_wait_is_one_turn_of_the_loop(clock: FakeClock, seconds: float) -> None:
    """A deadline that has passed already does not hang."""
    await asyncio.wait_for(clock.sleep(seconds), 60)

    assert clock.sleeping == 0


async def test_time_does_not_run_backwards(clock: FakeClock) -> None:
    """Only the wall clock can be set back."""
    with pytest.raises(ValueError, match="jump"):
        clock.advance(-1)


async def test_settle_waits_for_what_follows_from_what_follows(clock: FakeClock) -> None:
    """A chain of tasks that start each other has run to its end."""
    reached = list[int]()

    async def link(depth: int) -> None:
        reached.append(depth)
        if depth < 50:
            await asyncio.create_task(link(depth + 1))

    first = asyncio.create_task(link(0))
    await clock.settle()

    assert (reached[-1], first.done()) == (50, True)


async def test_settle_waits_for_sockets_and_databases(clock: FakeClock, tmp_path: Path) -> None:
    """What a server answers over a real socket after writing to a real SQLite file is there."""
    database = tmp_path / "seen.db"
    answers = list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        async with aiosqlite.connect(database) as connection:
            await connection.execute("CREATE TABLE seen (line BLOB)")
            await connection.execute("INSERT INTO seen VALUES (?)", (line,))
            await connection.commit()
        writer.write(line.upper())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        answers.append(await reader.read())
        writer.close()
        await writer.wait_closed()

    task = asyncio.create_task(ask())
    await clock.settle()

    assert (answers, task.done()) == ([b"HELLO\n"], True)
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT line FROM seen").fetchall() == [(b"hello\n",)]
    connection.close()
    server.close()
    await server.wait_closed()


async def test_settle_refuses_to_wait_for_a_task_that_never_rests(clock: FakeClock) -> None:
    """A loop that spins is a bug of the test or of what it tests, and is said so."""

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    task = asyncio.create_task(spin())
    with pytest.raises(AssertionError, match="never rests"):
        await clock.settle()

    task.cancel()


async def test_settle_waits_for_a_thread(clock: FakeClock) -> None:
    """However long it takes: a slow disk makes no test fail."""
    released = threading.Event()
    task = asyncio.create_task(asyncio.to_thread(released.wait))
    settling = asyncio.create_task(clock.settle(quiet=0.0))
    for _ in range(100):
        await asyncio.sleep(0)
    early = settling.done()

    released.set()
    await settling

    assert (False, True) == (early, task.done())


async def test_settle_waits_for_work_that_no_task_waits_for(clock: FakeClock) -> None:
    """The audit's thread, say."""
    left = [False, True, True]
    clock.wait_for(lambda: left.pop() if left else False)

    await clock.settle(quiet=0.0)

    assert [] == left
