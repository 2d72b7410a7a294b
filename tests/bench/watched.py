"""The ordinary `broker serve`, which tells besides how it fares: every line on standard input is answered with JSON.

Run by its path, with a port (that of the configuration), a config.toml and a file for the log.
"""

import asyncio
import gc
import json
import os
import sys
import threading
import time
from pathlib import Path

from broker.serve import run
from broker.tokens.schedule import Step


class Watcher:
    """Counts what only the process itself can see."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began = 0.0
        self._longest = 0.0
        self._paused = 0.0
        self._renewed = 0
        self._asked_at = time.perf_counter()

    def step(self, step: Step) -> None:
        """A moment of a renewal: the first one shows the loop, the last one is counted."""
        self._loop = self._loop or asyncio.get_running_loop()
        self._renewed += step is Step.COMMIT_DURABLE

    def collecting(self, phase: str, _: dict[str, int]) -> None:
        """The garbage collector begins or ends; its own time counts, not that of who runs beside it."""
        now = time.thread_time()
        if phase == "start":
            self._began = now
            return
        self._longest = max(self._longest, now - self._began)
        self._paused += now - self._began

    def sample(self) -> dict[str, float]:
        """How it stands, and what has been since the last time."""
        now = time.perf_counter()
        taken = {
            "rss": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            "files": _entries("fd"),
            "threads": _entries("task"),
            "tasks": len(asyncio.all_tasks(self._loop)) if self._loop else 0,
            "pause_ms": 1000 * self._longest,
            "paused": self._paused / (now - self._asked_at),
            "renewals": self._renewed / (now - self._asked_at),
        }
        self._longest, self._paused, self._renewed = 0.0, 0.0, 0
        self._asked_at = now
        return taken


def _entries(folder: str) -> int:
    return sum(1 for _ in Path("/proc/self", folder).iterdir())


def _answer(watcher: Watcher, output: int) -> None:
    # Not sys.stdin: a thread that waits in it keeps the interpreter from ending.
    while os.read(0, 1024):
        os.write(output, f"{json.dumps(watcher.sample())}\n".encode())


def main() -> int:
    """The exit code of the broker."""
    config, log = Path(sys.argv[2]), sys.argv[3]
    output, watcher = os.dup(1), Watcher()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in (1, 2):
        os.dup2(file, number)
    gc.callbacks.append(watcher.collecting)
    threading.Thread(target=_answer, args=(watcher, output), daemon=True).start()
    os.write(output, b"ready\n")
    return run(config, os.environ, watch=watcher.step)


if __name__ == "__main__":
    sys.exit(main())
