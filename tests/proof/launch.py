"""Runs the broker with short times, and kills it with SIGKILL at a step of a renewal that a file orders.

`python -m tests.proof.launch FACTOR ORDERS --config PATH serve`. ORDERS names a file that `order_death` writes.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from broker.serve import run
from broker.tokens.schedule import Step, Timings


def order_death(orders: Path, step: Step, times: int = 1) -> None:
    """Die when `step` is reached for the n-th time from now on."""
    unfinished = orders.with_suffix(".part")
    unfinished.write_text(f"{times} {step.name}")
    unfinished.rename(orders)


class Executioner:
    """The `Watch` that carries an order out, once: the restarted broker lives."""

    def __init__(self, orders: Path) -> None:
        self._orders = orders

    def __call__(self, step: Step) -> None:
        with suppress(FileNotFoundError):
            times, name = self._orders.read_text().split()
            if name != step.name:
                return
            if int(times) > 1:
                order_death(self._orders, step, int(times) - 1)
                return
            self._orders.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """The exit code of the broker."""
    factor, orders, *rest = sys.argv[1:]
    config = Path(rest[rest.index("--config") + 1])
    timings = Timings().scaled(float(factor))
    return run(config, os.environ, timings=timings, watch=Executioner(Path(orders)))


if __name__ == "__main__":
    sys.exit(main())
