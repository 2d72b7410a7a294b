"""When nothing moves but with time: every task waits for the clock, for another task, or for the next request.

`FakeClock.settle` waits for a moment without movement, which a busy machine gives too early; this looks at what each
task waits for: while a database thread, a socket or a file is at work, it is not over.
"""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from broker.runner import QuietRequestHandler

AT_WORK = (
    "/aiosqlite/",
    "/broker/store/writer.py",
    "/asyncio/threads.py",
    "/aiohttp/connector.py",
    "/aiohttp/web_",
    "/aiohttp/streams.py",
    "/broker/audit/waiting.py",
    "/broker/audit/ledger.py",
)
"""Whose innermost code lies here waits for a thread or a socket, which need no time of ours."""
ASKING = "/aiohttp/client"
PROVIDER = "/broker/providers/client.py"
GLANCE = 0.001
QUIET = 0.003
PATIENCE = 20_000
"""Glances: twenty seconds and more on the busiest machine."""


async def at_rest() -> None:
    """Return when only time moves anything; AssertionError where that never comes."""
    before = None
    for _ in range(PATIENCE):
        for _ in range(10):
            await asyncio.sleep(0)
        now = _positions()
        if _is_busy(now):
            before = None
            await asyncio.sleep(GLANCE)
        elif now == before:
            return
        else:
            before = now
            await asyncio.sleep(QUIET)
    raise AssertionError(f"something moves on and on: {asyncio.all_tasks()}")


_Place = tuple[object, str, int]
"""What is awaited, in which file, at which instruction."""
_Positions = dict["asyncio.Task[Any]", list[_Place]]


def _positions() -> _Positions:
    return {task: list(_chain(task)) for task in asyncio.all_tasks() - {asyncio.current_task()}}


def _chain(task: "asyncio.Task[Any]") -> Iterator[_Place]:
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        yield awaited, frame.f_code.co_filename if frame else "", frame.f_lasti if frame else 0
        if type(awaited).__name__ == "coroutine_wrapper":
            # What `__await__` of aiosqlite's and aiohttp's context managers returns; it hides its coroutine.
            awaited = next(iter(gc.get_referents(awaited)), None)
        else:
            awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def _is_busy(positions: _Positions) -> bool:
    """Whether a thread or a socket is at work, also between two tasks: who asks is not being answered yet."""
    asking = {True: 0, False: 0}
    answering = {True: 0, False: 0}
    for task, chain in positions.items():
        files = [file for _, file, _ in chain if file]
        server = _server(task)
        is_asking = any(ASKING in file for file in files)
        if is_asking:
            asking[any(file.endswith(PROVIDER) for file in files)] += 1
        if server is not None and len(files) > 1:
            answering[not isinstance(server, QuietRequestHandler)] += 1
        idle = server is not None and len(files) <= 1
        if files and not idle and not is_asking and any(part in files[-1] for part in AT_WORK):
            return True
        if any("/aiohttp/connector.py" in file for file in files):
            return True
    own = asking[False] > answering[False] + answering[True]
    return own or asking[True] > answering[True]


def _server(task: "asyncio.Task[Any]") -> web.RequestHandler | None:
    """The connection that the task serves, if it does."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    owner = frame.f_locals.get("self") if frame else None
    return owner if isinstance(owner, web.RequestHandler) else None
