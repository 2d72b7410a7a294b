"""What each task waits for, from the outermost coroutine to the innermost, and whether that is a thread."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

THREADS = ("/aiosqlite/", "/broker/store/writer.py", "/asyncio/threads.py", "/broker/audit/writer.py")
"""Whose innermost code lies here waits for a thread, which needs no time of ours."""

Place = tuple[object, str, int]
"""What is awaited, in which file, at which instruction."""
Places = dict["asyncio.Task[Any]", list[Place]]


def places() -> Places:
    """Where every task but this one stands."""
    return {task: list(_chain(task)) for task in asyncio.all_tasks() - {asyncio.current_task()}}


def files(chain: list[Place]) -> list[str]:
    """The files of its coroutines, the innermost last."""
    return [file for _, file, _ in chain if file]


def is_thread_at_work(stand: Places) -> bool:
    """Whether a task waits for a thread."""
    return any(within and _is_of(within[-1], THREADS) for within in map(files, stand.values()))


def _is_of(file: str, parts: tuple[str, ...]) -> bool:
    return any(part in file for part in parts)


def _chain(task: "asyncio.Task[Any]") -> Iterator[Place]:
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        # The objects themselves, not their ids: an id may be given again to the next future.
        yield awaited, frame.f_code.co_filename if frame else "", frame.f_lasti if frame else 0
        if type(awaited).__name__ == "coroutine_wrapper":
            # What `__await__` of aiosqlite's and aiohttp's context managers returns; it hides its coroutine.
            awaited = next(iter(gc.get_referents(awaited)), None)
        else:
            awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
