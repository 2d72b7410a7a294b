"""Rows that are asked for by name at once are read together: a read's way to the database costs more than a row."""

import asyncio
from collections.abc import Mapping

from broker.errors import StorageUnavailable
from broker.store.database import Database, Row
from broker.store.rows import COLUMNS

MOST = 64
"""Names in one statement."""
SIZES = (1, 4, 16, MOST)
"""Of statements, so that the database has few to prepare."""
BY_NAMES = {
    size: f"SELECT {COLUMNS} FROM accounts WHERE name IN ({', '.join(f'${n}' for n in range(1, size + 1))})"
    for size in SIZES
}
"""`name` is the first column."""


class GatheredReads:
    """Reads rows of accounts: together what is asked for in one turn of the loop, or while a read is under way."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: dict[str, asyncio.Future[Row | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_taken_care_of = False
        """Whether a task will yet come back for what is asked."""

    async def row(self, name: str) -> Row | None:
        """The row of that name as it is from now on; None where there is none. Raises StorageUnavailable."""
        asked = self._asked.get(name)
        if asked is None:
            asked = self._asked[name] = asyncio.get_running_loop().create_future()
        if not self._is_taken_care_of:
            self._is_taken_care_of = True
            task = asyncio.create_task(self._read_all(), name="store-reader")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        # One of several that ask for a name may give up.
        return await asyncio.shield(asked)

    async def _read_all(self) -> None:
        # A shared database answers several at once: there nobody waits behind a read that is under way.
        beside = self._database.dialect.shared
        try:
            while self._asked:
                names = list(self._asked)[:MOST]
                asked = {name: self._asked.pop(name) for name in names}
                self._is_taken_care_of = not beside or bool(self._asked)
                await self._answer(asked)
        finally:
            self._is_taken_care_of = False

    async def _answer(self, asked: "Mapping[str, asyncio.Future[Row | None]]") -> None:
        try:
            found = await self._found(list(asked))
        except Exception as exc:  # noqa: BLE001 - it is raised where it was asked for
            if len(asked) == 1 or isinstance(exc, StorageUnavailable):
                _refuse(asked, exc)
                return
            # One name is at fault; who asked for another must not hear of it.
            for name, future in asked.items():
                await self._answer({name: future})
        except BaseException:
            _refuse({**asked, **self._asked}, StorageUnavailable("the store is closed", retry_after=1))
            raise
        else:
            for name, future in asked.items():
                future.set_result(found.get(name))

    async def _found(self, names: list[str]) -> Mapping[str, Row]:
        size = next(size for size in SIZES if size >= len(names))
        padded = names + names[-1:] * (size - len(names))
        return {row[0]: row for row in await self._database.read(BY_NAMES[size], *padded)}


def _refuse(asked: "Mapping[str, asyncio.Future[Row | None]]", exc: Exception) -> None:
    for future in asked.values():
        if not future.done():
            future.set_exception(exc)
            # Nobody may be left who waits.
            future.exception()
