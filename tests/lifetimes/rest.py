"""When nothing moves but with time: every task waits for the clock, for another task, or for the next request.

`FakeClock.settle` waits for threads, and for a moment in which nothing else moves, which a busy machine gives too early
where a socket is at work; this looks at what each task waits for, sockets too.
"""

import asyncio

from aiohttp import web

from broker.http.server import QuietRequestHandler
from tests.fakes.clock import FakeClock
from tests.fakes.waiting import THREADS, Places, files, places

AT_WORK = (*THREADS, "/aiohttp/connector.py", "/aiohttp/web_", "/aiohttp/streams.py")
"""Whose innermost code lies here waits for a thread or a socket, which need no time of ours."""
ASKING = "/aiohttp/client"
PROVIDER = "/broker/providers/client.py"
GLANCE = 0.001
QUIET = 0.003
PATIENCE = 20_000
"""Glances: twenty seconds and more on the busiest machine."""


async def at_rest(clock: FakeClock) -> None:
    """Return when only time moves anything; AssertionError where that never comes."""
    before = None
    for _ in range(PATIENCE):
        for _ in range(10):
            await asyncio.sleep(0)
        now = places()
        if clock.waits or _is_busy(now):
            before = None
            await asyncio.sleep(GLANCE)
        elif now == before:
            return
        else:
            before = now
            await asyncio.sleep(QUIET)
    raise AssertionError(f"something moves on and on: {asyncio.all_tasks()}")


def _is_busy(positions: Places) -> bool:
    """Whether a thread or a socket is at work, also between two tasks: who asks is not being answered yet."""
    asking = {True: 0, False: 0}
    answering = {True: 0, False: 0}
    for task, chain in positions.items():
        within = files(chain)
        server = _server(task)
        is_asking = any(ASKING in file for file in within)
        if is_asking:
            asking[any(file.endswith(PROVIDER) for file in within)] += 1
        if server is not None and len(within) > 1:
            answering[not isinstance(server, QuietRequestHandler)] += 1
        idle = server is not None and len(within) <= 1
        if within and not idle and not is_asking and any(part in within[-1] for part in AT_WORK):
            return True
        if any("/aiohttp/connector.py" in file for file in within):
            return True
    own = asking[False] > answering[False] + answering[True]
    return own or asking[True] > answering[True]


def _server(task: "asyncio.Task[object]") -> web.RequestHandler | None:
    """The connection that the task serves, if it does."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    owner = frame.f_locals.get("self") if frame else None
    return owner if isinstance(owner, web.RequestHandler) else None
