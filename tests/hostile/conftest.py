"""A house whose limits of time are short, and everything it logs."""

import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiohttp import web

from broker.app.listeners import OPERATORS, SERVICES, STRANGERS, ListenerLimits
from broker.http.edge import Limits
from broker.http.server import QuietRunner
from tests.hostile.wire import Address
from tests.house import House, open_house
from tests.logged import logged

SHORT = 0.3
"""Seconds in the place of ten and thirty."""


def hurried(limits: Limits) -> Limits:
    return replace(limits, idle=SHORT, body_seconds=SHORT)


@dataclass(slots=True)
class Target:
    """A house under attack."""

    house: House
    log: io.StringIO
    admin_socket: Path

    def address(self, listener: str) -> Address:
        ports: dict[str, Address] = {
            "internal": self.house.internal_port,
            "public": self.house.public_port,
            "admin": self.admin_socket,
        }
        return ports[listener]


@pytest.fixture(name="log")
def _log() -> Iterator[io.StringIO]:
    """What is logged in this process, as the broker would print it."""
    with logged() as written:
        yield written


@pytest.fixture(name="target")
async def _target(tmp_path: Path, log: io.StringIO) -> AsyncIterator[Target]:
    limits = ListenerLimits(hurried(SERVICES), hurried(STRANGERS), hurried(OPERATORS))
    async with open_house(tmp_path / "house", limits=limits) as house:
        await house.connect()
        admin = QuietRunner(house.broker.listeners.admin)
        await admin.setup()
        await web.UnixSite(admin, tmp_path / "admin.sock").start()
        log.truncate(0)
        try:
            yield Target(house, log, tmp_path / "admin.sock")
        finally:
            await admin.cleanup()
