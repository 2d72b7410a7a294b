"""Runs the broker, and lets a renewal fail or the whole process end with an error that a file orders.

`python -m tests.flows.crashing ORDERS --config PATH serve`; every other command is as usual. The error's text is
the file's: secrets.
"""

import os
import sys
from pathlib import Path

from broker.cli import broker as command_line
from broker.serve import run
from broker.tokens.schedule import Step

RENEWAL, PROCESS = "renewal", "process"


class Saboteur:
    """The `Watch` that carries an order out, once."""

    def __init__(self, orders: Path) -> None:
        self._orders = orders

    def __call__(self, _: Step) -> None:
        if not self._orders.exists():
            return
        what, text = self._orders.read_text().split(" ", 1)
        self._orders.unlink()
        # asyncio keeps the one for whoever awaits the task; the other ends the event loop.
        try:
            raise ValueError(text)
        except ValueError as exc:
            raise (RuntimeError if what == RENEWAL else KeyboardInterrupt)(text) from exc


def main() -> int:
    """The exit code of the broker."""
    orders, *rest = sys.argv[1:]
    if rest[-1] != "serve":
        command_line(rest, prog_name="broker")
    config = Path(rest[rest.index("--config") + 1])
    return run(config, dict(os.environ), watch=Saboteur(Path(orders)))


if __name__ == "__main__":
    sys.exit(main())
