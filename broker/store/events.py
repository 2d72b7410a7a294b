"""What happened, in order."""

from collections.abc import Sequence

from broker.model import Event, EventKind
from broker.store.database import Database, Row, Transaction

EVENT = "id, at, event, account, provider, reason, generation, subject, due_at, detail, actor"


class EventStore:
    """The events, in the order of their commits."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_events(self, events: Sequence[Event]) -> None:
        await self._database.write(lambda transaction: insert_events(transaction, events))

    async def events(self, after: int, limit: int, account: str | None = None) -> list[Event]:
        rows = await self._database.read(
            f"""SELECT {EVENT} FROM events
                 WHERE id > $1 AND (CAST($2 AS TEXT) IS NULL OR account = $2) ORDER BY id LIMIT $3""",
            after,
            account,
            limit,
        )
        return [to_event(row) for row in rows]

    async def last_events(self, limit: int, account: str | None = None) -> list[Event]:
        rows = await self._database.read(
            f"""SELECT {EVENT} FROM events
                 WHERE CAST($1 AS TEXT) IS NULL OR account = $1 ORDER BY id DESC LIMIT $2""",
            account,
            limit,
        )
        return [to_event(row) for row in reversed(rows)]

    async def event_bounds(self) -> tuple[int, int]:
        """The newest id that was ever given, and the newest of those that were purged for their age."""
        [(last, purged)] = await self._database.read("SELECT last, purged FROM event_ids")
        return int(last), int(purged)

    async def purge_events(self, before: float, limit: int) -> int:
        async def work(transaction: Transaction) -> int:
            old = "SELECT id FROM events WHERE at < $1 ORDER BY at LIMIT $2"
            rows = await transaction.fetch(old, before, limit)
            if not rows:
                return 0
            newest = max(id_ for (id_,) in rows)
            sql = "UPDATE event_ids SET purged = $1 WHERE purged < $1"
            await transaction.execute(sql, newest)
            return await transaction.execute(f"DELETE FROM events WHERE id IN ({old})", before, limit)

        return await self._database.write(work)


async def insert_events(transaction: Transaction, events: Sequence[Event]) -> None:
    """Append events within somebody's transaction, so that a change and its event are one.

    Numbers are given in the order of the commits: whoever has read up to one has missed none below it.
    """
    for event in events:
        await transaction.execute("UPDATE event_ids SET last = last + 1")
        await transaction.execute(
            """INSERT INTO events (id, at, event, account, provider, reason, generation, subject, due_at, detail, actor)
               SELECT last, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM event_ids""",
            event.at,
            event.kind,
            event.account,
            event.provider,
            event.reason,
            event.generation,
            event.subject,
            event.due_at,
            event.detail,
            event.actor,
        )


def to_event(row: Row) -> Event:
    """The event of a row, whose columns are in the order of `EVENT`."""
    id_, at, kind, *named = row
    account, provider, reason, generation, subject, due_at, detail, actor = named
    return Event(
        at, EventKind.stored(kind), account, provider, reason, generation, id_, subject, due_at, detail, actor
    )
