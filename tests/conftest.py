"""Fixtures that every room's tests share."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.house import House, open_house
from tests.postgres import end_servers

pytest_plugins = ["broker.client.testing.fixtures"]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A broker and a sandbox, nothing connected yet."""
    async with open_house(tmp_path / "house") as house:
        yield house


@pytest.fixture(scope="session", autouse=True)
def _servers() -> Iterator[None]:
    """PostgreSQL is started by the first test that needs it, and ended by the last."""
    yield
    end_servers()
