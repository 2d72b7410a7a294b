"""Two brokers, `a` and `b`, on a database of their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.postgres import needs_postgres
from tests.replicas import Replicas, open_replicas


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Replicas]:
    """Nothing is connected yet."""
    async with open_replicas(tmp_path / "two", needs_postgres()) as replicas:
        yield replicas
