"""Broker processes that are there at once: forked from a server that has imported everything, not started anew.

A new interpreter spends a second of processor time on imports, and the suite starts hundreds. What runs is the same
`main`, in a process of its own with signals, files and an environment of its own; what is special about a start from
nothing (the kernel's copy of the environment, the arguments in the process list, `-X dev`) is tested with one.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import broker.app
import broker.cli
import broker.serve

__all__ = ["NOTHING", "Main", "Running", "fork"]

Main = Callable[[], object]
"""A module's entry point: reads `sys.argv`."""
NOTHING = Path(os.devnull)
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.forking", "tests.proof.launch"])
PRELOADED = (broker.app, broker.cli, broker.serve)


class Running(Protocol):
    """What the tests use of a process, however it was started."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def send_signal(self, signal: int, /) -> None: ...
    async def wait(self) -> int: ...


class Forked:
    """A process of the server's."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._loop.add_reader(process.sentinel, self._end)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int, /) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def _end(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._process.join()
        self._ended.set()


async def fork(
    main: Main,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    out: Path,
    err: Path,
    stdin: Path = NOTHING,
) -> Forked:
    """Run `main` with these arguments in a process of its own; its output goes into files."""
    process = SERVER.Process(
        target=_become, args=(main, [*arguments], {**environ}, out, err, stdin), daemon=True
    )
    process.start()
    return Forked(process)


def _become(
    main: Main, arguments: list[str], environ: dict[str, str], out: Path, err: Path, stdin: Path
) -> None:
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    # multiprocessing has closed the one that it was started with.
    sys.stdin = stdin.open()
    os.environ.clear()
    os.environ.update(environ)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("error")
    sys.argv = ["broker", *arguments]
    sys.exit(main())  # type: ignore[arg-type]  # what an entry point returns is what exit takes
