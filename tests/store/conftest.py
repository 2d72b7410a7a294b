"""Every implementation behind the contract; a second one adds a parameter here."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.store import Stores, stores_on
from broker.store.migrate import migrate
from broker.store.sqlite import SqliteDatabase


@pytest.fixture(name="stores", params=["sqlite"])
async def _stores(tmp_path: Path) -> AsyncIterator[Stores]:
    database = await SqliteDatabase.open(tmp_path / "store" / "broker.db")
    await migrate(database)
    yield stores_on(database)
    await database.close()
