"""Fixtures that every room's tests share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.house import House, open_house

pytest_plugins = ["broker.client.testing.fixtures"]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A broker and a sandbox, nothing connected yet."""
    async with open_house(tmp_path / "house") as house:
        yield house
