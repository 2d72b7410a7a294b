"""Every implementation behind the contract; a second one adds a parameter here."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from broker.store import Stores
from broker.store.sqlite import SqliteDatabase
from tests.postgres import needs_postgres, new_database
from tests.store.rows import plain_stores
from tests.template import put_store


@pytest.fixture(name="stores", params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
async def _stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    async with AsyncExitStack() as closing:
        if request.param == "postgres":
            yield plain_stores(await closing.enter_async_context(new_database(needs_postgres())))
            return
        await put_store(path := tmp_path / "store" / "broker.db")
        database = await SqliteDatabase.open(path)
        closing.push_async_callback(database.close)
        yield plain_stores(database)
