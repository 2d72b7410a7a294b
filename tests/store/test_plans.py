"""No statement that runs at the start or in a loop reads a whole table."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

import pytest

from broker.model import Status
from broker.store import Stores
from broker.store.account_queries import AccountQuery
from broker.store.database import Changes, Dialect, Row, Transaction, Work
from broker.store.migrate import migrate
from broker.store.sqlite import SqliteDatabase
from tests.store.rows import plain_stores

T = TypeVar("T")
SMALL = {"keys", "callers", "caller_keys", "meta"}
"""Tables that hold a handful of rows, however many accounts there are."""
PARTIAL = {"accounts_intent", "accounts_troubled", "accounts_gone"}
"""Indexes that hold only what is open, ails or was removed."""


class Recording:
    """A database that notes every statement it is asked."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self.asked: list[tuple[str, int]] = []
        """Statements, and how many values each takes."""

    @property
    def dialect(self) -> Dialect:
        return self._database.dialect

    @property
    def changes(self) -> Changes:
        return self._database.changes

    def starting(self) -> AbstractAsyncContextManager[None]:
        return self._database.starting()

    async def read(self, sql: str, *values: object) -> list[Row]:
        self.asked.append((sql, len(values)))
        return await self._database.read(sql, *values)

    async def write(self, work: Work[T]) -> T:
        return await self._database.write(lambda transaction: work(_Noting(transaction, self.asked)))

    async def scrub(self) -> bool:
        return await self._database.scrub()

    async def close(self) -> None:
        await self._database.close()


class _Noting:
    def __init__(self, transaction: Transaction, asked: list[tuple[str, int]]) -> None:
        self._transaction, self._asked = transaction, asked

    async def execute(self, sql: str, *values: object) -> int:
        self._asked.append((sql, len(values)))
        return await self._transaction.execute(sql, *values)

    async def execute_all(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        self._asked.append((sql, len(rows[0])))
        await self._transaction.execute_all(sql, rows)

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        self._asked.append((sql, len(values)))
        return await self._transaction.fetch(sql, *values)

    async def lock(self, what: str) -> None:
        await self._transaction.lock(what)

    async def lock_shared(self, what: str) -> None:
        await self._transaction.lock_shared(what)

    async def notify(self, name: str) -> None:
        await self._transaction.notify(name)


@pytest.fixture(name="recording")
async def _recording(tmp_path: Path) -> AsyncIterator[Recording]:
    database = await SqliteDatabase.open(tmp_path / "store" / "broker.db")
    await migrate(database)
    recording = Recording(database)
    yield recording
    await recording.close()


async def test_what_runs_at_the_start_and_in_loops_finds_its_rows_by_index(
    recording: Recording, tmp_path: Path
) -> None:
    """SQLite's own plan of each statement has no scan of a table that grows."""
    await run_everything(plain_stores(recording))

    scans = whole_tables(tmp_path / "store" / "broker.db", recording.asked)

    assert len(recording.asked) > 20
    assert [] == scans


async def test_a_scan_would_be_seen(recording: Recording, tmp_path: Path) -> None:
    """The reader of plans knows a scan when there is one."""
    await recording.read("SELECT COUNT(*) FROM accounts")

    scans = whole_tables(tmp_path / "store" / "broker.db", recording.asked)

    assert 1 == len(scans)
    assert scans[0].startswith("SCAN accounts")


@pytest.mark.parametrize(
    ("query", "index"),
    [
        *((AccountQuery(status=status), "accounts_status") for status in Status if status != Status.ACTIVE),
        (
            AccountQuery(status=Status.FROZEN, low="b", high="b~", after="b-7", provider="kit"),
            "accounts_status",
        ),
        (AccountQuery(subject="user-1", status=Status.FROZEN), "accounts_subject"),
        (AccountQuery(status=Status.ACTIVE), "sqlite_autoindex_accounts_1"),
        (AccountQuery(low="b", high="b~", search="x", expiring_before=1.0), "sqlite_autoindex_accounts_1"),
    ],
)
async def test_list_of_accounts_reads_a_range_of_an_index(
    recording: Recording, tmp_path: Path, query: AccountQuery, index: str
) -> None:
    """In the order of the names, so that nothing is sorted; also what counts the rows."""
    accounts = plain_stores(recording).accounts
    await accounts.find(query)
    await accounts.reach(query, 10)

    for sql, count in recording.asked:
        steps = plan(tmp_path / "store" / "broker.db", sql, count)
        assert any(step.startswith("SEARCH accounts USING") and f" {index} (" in step for step in steps), (
            steps
        )
        assert not any("TEMP B-TREE" in step for step in steps), steps


async def run_everything(stores: Stores) -> None:
    """Each statement of the start, of the background's round and of its chores."""
    accounts, now = stores.accounts, 1_800_000_000.0
    await accounts.take_over("boot", now)
    await accounts.due(now, 64)
    await accounts.next_due_at()
    await accounts.oldest_intent_at()
    await accounts.removed_before(now, 200)
    await accounts.doubles(20)
    await accounts.restore("acme", 0.0, now)
    await accounts.touch({"acme": (now, now)}, {("acme", "service"): now})
    await accounts.is_only_account("kit")
    await stores.installs.held_grants(now, 64)
    await stores.installs.purge_expired(now, 200)
    await stores.plugin.purge(now, 200)
    await stores.events.purge_events(now, 200)
    await stores.callers.touch_keys({"key": now})
    await stores.callers.touch_callers({"service": now})
    _ = [page async for page in stores.alerts.mortal((now, now), {"kustomer": (now, now)}, 200)]
    _ = [group async for group in accounts.groups(used_since=now, span=3600)]
    await stores.records.counts()
    await stores.alerts.forget_foretold(now)


def whole_tables(path: Path, asked: list[tuple[str, int]]) -> list[str]:
    """The steps of the statements' plans that read every row of a table or an index."""
    connection = sqlite3.connect(path)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    found = []
    for sql, count in asked:
        steps = plan(path, sql, count)
        found += [step for step in steps if step.startswith("SCAN ") and _is_whole(step, tables)]
    connection.close()
    return found


def plan(path: Path, sql: str, count: int) -> list[str]:
    """SQLite's own plan of a statement with so many values."""
    connection = sqlite3.connect(path)
    values = {str(number): None for number in range(1, count + 1)}
    steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    connection.close()
    return steps


def _is_whole(step: str, tables: set[str]) -> bool:
    """Not a small table, nor what comes out of another step."""
    return step.split()[1] in tables - SMALL and step.rsplit(maxsplit=1)[-1] not in PARTIAL
