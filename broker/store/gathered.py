"""Accounts that are asked for at once are read together: a read's way to the database costs more than a row."""

import asyncio
from collections.abc import Mapping

from broker.errors import StorageUnavailable
from broker.model import Account
from broker.store.database import Database
from broker.store.rows import COLUMNS, to_account

MOST = 64
"""Names in one statement."""
SIZES = (1, 4, 16, MOST)
"""Of statements, so that the database has few to prepare."""
BY_NAMES = {
    size: f"SELECT {COLUMNS} FROM accounts WHERE name IN ({', '.join(f'${n}' for n in range(1, size + 1))})"
    for size in SIZES
}
"""`name` is the first column."""

_Asked = Mapping[str, "list[asyncio.Future[Account | None]]"]


class GatheredReads:
    """Reads accounts: together what is asked for in one turn of the loop, or while a read is under way."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: dict[str, list[asyncio.Future[Account | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_taken_care_of = False
        """Whether a task will yet come back for what is asked."""

    async def account(self, name: str) -> Account | None:
        """The account of that name as it is from now on; None where there is none. Raises StorageUnavailable."""
        asked: asyncio.Future[Account | None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(name, []).append(asked)
        if not self._is_taken_care_of:
            self._is_taken_care_of = True
            task = asyncio.create_task(self._read_all(), name="store-reader")
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        return await asked

    async def _read_all(self) -> None:
        # A shared database answers several at once: there nobody waits behind a read that is under way.
        beside = self._database.dialect.shared
        while self._asked:
            names = list(self._asked)[:MOST]
            asked = {name: self._asked.pop(name) for name in names}
            self._is_taken_care_of = not beside or bool(self._asked)
            await self._answer(asked)
        self._is_taken_care_of = False

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            # So a loop that breaks down ends every task: nobody may wait for a read that never comes.
            self._is_taken_care_of = False
            left, self._asked = self._asked, {}
            _refuse(left, _closed())

    async def _answer(self, asked: "_Asked") -> None:
        try:
            found = await self._found(list(asked))
        except Exception as exc:  # noqa: BLE001 - it is raised where it was asked for
            if len(asked) == 1 or isinstance(exc, StorageUnavailable):
                _refuse(asked, exc)
                return
            # One name is at fault; who asked for another must not hear of it.
            for name, futures in asked.items():
                await self._answer({name: futures})
        except asyncio.CancelledError:
            _refuse(asked, _closed())
            raise
        else:
            for name, futures in asked.items():
                for future in futures:
                    # Who asked may have given up.
                    if not future.done():
                        future.set_result(found.get(name))

    async def _found(self, names: list[str]) -> Mapping[str, Account]:
        size = next(size for size in SIZES if size >= len(names))
        padded = names + names[-1:] * (size - len(names))
        return {row[0]: to_account(row) for row in await self._database.read(BY_NAMES[size], *padded)}


def _refuse(asked: "_Asked", exc: Exception) -> None:
    for futures in asked.values():
        for future in futures:
            if not future.done():
                future.set_exception(exc)
                # Who asked may give up before it hears of this.
                future.exception()


def _closed() -> StorageUnavailable:
    return StorageUnavailable("the store is closed", retry_after=1)
