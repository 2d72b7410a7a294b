"""Waiting: what a timer says of others must not be this process's own slowness."""

import asyncio
import socket
import time

import pytest

from broker.clock import SteadyClock, while_awake
from tests.fakes.clock import FakeClock

HERE = 0.2


async def test_answer_that_came_while_nobody_looked_counts() -> None:
    """The process is held up for longer than it would wait; the answer lay in its socket all the time."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = asyncio.get_running_loop()

    def be_held_up() -> None:
        theirs.send(b"here")
        time.sleep(1.5 * HERE)

    loop.call_later(HERE / 20, be_held_up)
    answer = await while_awake(HERE, loop.sock_recv(ours, 4))

    assert b"here" == answer
    ours.close()
    theirs.close()


async def test_silence_ends() -> None:
    """And what was waited for is given up."""
    never = asyncio.get_running_loop().create_future()

    with pytest.raises(TimeoutError):
        await while_awake(HERE / 10, never)

    assert never.cancelled()


async def test_error_is_the_works_own() -> None:
    """Passed on as it was."""

    async def work() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await while_awake(HERE, work())


def test_data_is_deleted_by_the_earliest_time() -> None:
    """Set forward, set back, set forward: `cautious` never runs ahead of any time that was believed."""
    machine = FakeClock(1000.0)
    clock = SteadyClock(machine)
    seen = []
    for by in (500, -700, 900):
        clock.set(clock.now() + by)
        machine.advance(10)
        seen.append((clock.now(), clock.cautious()))

    assert [(1510, 1010), (820, 820), (1730, 830)] == seen
