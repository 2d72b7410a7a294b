"""What a database driver must offer; the stores are written once on top of it.

SQL is written as both databases read it: `$1, $2` for parameters, `ON CONFLICT`, no dialect.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = Sequence[Any]


class Transaction(Protocol):
    """Statements that become durable together, or not at all."""

    async def execute(self, sql: str, *values: object) -> int:
        """Run one statement; the number of rows it changed."""
        ...

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        """Run one statement; its rows."""
        ...


Work = Callable[[Transaction], Awaitable[T]]


class Database(Protocol):
    """One durable store. Every method raises StorageUnavailable when it cannot do its work."""

    async def read(self, sql: str, *values: object) -> list[Row]:
        """Rows as the last finished write left them."""
        ...

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction of its own and return its result once it is durable.

        Writes happen one after another, in the order of the calls. `work` must do nothing but talk to its
        transaction: it may share a commit with others. When it raises, its changes are undone and the error
        reaches the caller. A caller that is cancelled cancels only its own waiting.
        """
        ...

    async def scrub(self) -> bool:
        """Take what was deleted out of the store's files too. False: somebody reads just now; ask again."""
        ...

    async def close(self) -> None:
        """Finish what was written and let go of the store."""
        ...
