"""Stores events, their deliveries to alert hooks, and the alerts that were already sent."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass

from broker.model import Account, Event, EventKind
from broker.store.database import (
    LATEST,
    Store,
    Table,
    Transaction,
    in_transaction,
    number,
    placeholders,
    values_of,
)
from broker.store.rows import COLUMNS, to_account

EVENTS = Table("events", Event, kind="event")
ID = EVENTS.columns.split(", ").index("id")
ADD_EVENT = f"""
INSERT INTO events ({EVENTS.columns.replace(" id,", "")}, id)
SELECT {placeholders(EVENTS.columns.count(","))}, last FROM event_ids"""
OF_ACCOUNT = f"id <= {LATEST} AND (CAST($2 AS TEXT) IS NULL OR account = $2)"
NEWEST_ID = f"(SELECT COALESCE(MAX(id), 0) FROM events WHERE id <= {LATEST})"
# A damaged counter would assign an id twice, and the conflict would undo every change that has an event.
NEXT_ID = f"""
UPDATE event_ids SET last = 1 + CASE WHEN last BETWEEN {NEWEST_ID} AND {LATEST} THEN last ELSE {NEWEST_ID} END"""


class EventStore(Store):
    """Stores the events in the order of their commits."""

    @in_transaction
    async def add_events(self, transaction: Transaction, events: Sequence[Event]) -> None:
        """Append events that belong to no other change."""
        await insert_events(transaction, events)

    async def events(self, after: int, limit: int, account: str | None = None) -> list[Event]:
        """Return the first events after an id, of one account or of all."""
        where = f"WHERE id > $1 AND {OF_ACCOUNT} ORDER BY id LIMIT $3"
        return await self._rows(EVENTS, where, after, account, limit)

    async def last_events(self, limit: int, account: str | None = None) -> list[Event]:
        """Return the newest events, oldest first, of one account or of all."""
        where = f"WHERE {OF_ACCOUNT} ORDER BY id DESC LIMIT $1"
        return (await self._rows(EVENTS, where, limit, account))[::-1]

    async def event_bounds(self) -> tuple[int, int]:
        """Return the newest id that was ever assigned, and the newest id that was purged because of its age."""
        [(last, purged)] = await self._database.read("SELECT last, purged FROM event_ids")
        return int(number(last)), int(number(purged))

    @in_transaction
    async def purge_events(self, transaction: Transaction, before: float, limit: int) -> int:
        """Delete at most `limit` events from before that time, and return how many."""
        old = f"SELECT id FROM events WHERE at < $1 AND id <= {LATEST} ORDER BY at LIMIT $2"
        rows = await transaction.fetch(old, before, limit)
        if not rows:
            return 0
        newest = max(id_ for (id_,) in rows)
        await transaction.execute("UPDATE event_ids SET purged = $1 WHERE purged < $1", newest)
        return await transaction.execute(f"DELETE FROM events WHERE id IN ({old})", before, limit)


async def insert_events(transaction: Transaction, events: Sequence[Event]) -> None:
    """Append events within the transaction of the change that they report.

    Ids are assigned in the order of the commits: a reader of one id has missed no event with a lower one.
    """
    for event in events:
        values = values_of(event)
        await transaction.execute(NEXT_ID)
        await transaction.execute(ADD_EVENT, *values[:ID], *values[ID + 1 :])


BEGIN = """
INSERT INTO alert_hooks (hook, upto, target) SELECT CAST($1 AS TEXT), last, CAST($2 AS TEXT) FROM event_ids
 WHERE one = 1 ON CONFLICT (hook) DO NOTHING"""
RETARGET = "UPDATE alert_hooks SET target = $2, paused_at = NULL WHERE hook = $1 AND target <> $2"
NEXT = f"{EVENTS.select} WHERE id > $1 AND id <= {LATEST} ORDER BY id LIMIT $2"
MOVE = "UPDATE alert_hooks SET upto = $3 WHERE hook = $1 AND upto = $2"
ADD = """
INSERT INTO alert_deliveries (hook, event_id, attempts, next_at) VALUES ($1, $2, 0, $3)
ON CONFLICT (hook, event_id) DO NOTHING"""
ORPHANS = "DELETE FROM alert_deliveries WHERE hook = $1 AND event_id NOT IN (SELECT id FROM events)"
DAMAGED = f"NOT attempts BETWEEN 0 AND {LATEST} OR NOT next_at BETWEEN 0 AND {LATEST}"
MEND_DELIVERIES = f"UPDATE alert_deliveries SET attempts = 0, next_at = 0 WHERE hook = $1 AND ({DAMAGED})"
MEND_HOOK = f"""
UPDATE alert_hooks SET upto = (SELECT last FROM event_ids WHERE one = 1), paused_at = NULL
 WHERE hook = $1 AND (NOT upto BETWEEN 0 AND {LATEST} OR NOT paused_at BETWEEN 0 AND {LATEST})"""
DELIVERIES = f"""
SELECT d.attempts, d.next_at, {EVENTS.of("e")}
  FROM alert_deliveries d JOIN events e ON e.id = d.event_id
 WHERE d.hook = $1 AND NOT ({DAMAGED}) ORDER BY d.event_id"""
CLAIM = """
UPDATE alert_deliveries SET attempts = attempts + 1, next_at = $4
 WHERE hook = $1 AND event_id = $2 AND attempts = $3"""
MORTAL = f"""
SELECT {COLUMNS} FROM accounts
 WHERE {{which}} AND {{end}} <= $1 AND ({{end}}, name) > ($2, $3) AND removed_at IS NULL AND dead IS NULL
 ORDER BY {{end}}, name LIMIT $4"""
ENDS = {"grant_ends_at": "grant_ends_at IS NOT NULL", "expires_at": "sealed_refresh IS NULL"}
"""The columns with the end of a grant, and the accounts for which each is valid; there is an index for each."""

Span = tuple[float, float]
"""Begin and end, in epoch seconds."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that is to be delivered to a hook."""

    event: Event
    attempts: int
    next_at: float
    """The time of the next attempt, in epoch seconds. While an attempt runs, the time at which it counts as lost."""


class AlertStore(Store):
    """Stores alert hooks, their deliveries, standing problems, and the ends of grants that were announced.

    A cursor derives the deliveries from the table of events, so that every durable event is delivered, unless its
    account was purged in the meantime.
    """

    @in_transaction
    async def open_hook(self, transaction: Transaction, hook: str, target: str) -> tuple[int, float | None]:
        """Return the id up to which events became deliveries, and since when the hook is paused, if it is.

        A new hook starts with future events. `target` is a hash of the hook's address; a new one ends a pause.
        """
        await transaction.execute(BEGIN, hook, target)
        await transaction.execute(RETARGET, hook, target)
        await transaction.execute(MEND_DELIVERIES, hook)
        await transaction.execute(MEND_HOOK, hook)
        [row] = await transaction.fetch("SELECT upto, paused_at FROM alert_hooks WHERE hook = $1", hook)
        upto, paused_at = row
        return upto, paused_at

    async def forget_hook(self, hook: str) -> None:
        """Delete a hook that is no longer configured, with its deliveries."""

        async def work(transaction: Transaction) -> None:
            await transaction.execute("DELETE FROM alert_deliveries WHERE hook = $1", hook)
            await transaction.execute("DELETE FROM alert_hooks WHERE hook = $1", hook)

        if await self._database.read("SELECT 1 FROM alert_hooks WHERE hook = $1", hook):
            await self._database.write(work)

    async def pause_hook(self, hook: str, at: float | None) -> None:
        """Pause deliveries to the hook, or resume them with None."""
        await self._execute("UPDATE alert_hooks SET paused_at = $2 WHERE hook = $1", hook, at)

    @in_transaction
    async def spread(
        self,
        transaction: Transaction,
        hook: str,
        *,
        upto: int,
        without: Collection[EventKind],
        limit: int,
        at: float,
    ) -> int:
        """Make deliveries of at most `limit` events after `upto`, and return the new position of the cursor.

        If another broker has moved the cursor, nothing is done, so that no event is delivered twice.
        """
        found = [EVENTS.read(row) for row in await transaction.fetch(NEXT, upto, limit)]
        if not found or not await transaction.execute(MOVE, hook, upto, found[-1].id):
            rows = await transaction.fetch("SELECT upto FROM alert_hooks WHERE hook = $1", hook)
            return int(rows[0][0]) if rows else upto
        await transaction.execute(ORPHANS, hook)
        for event in found:
            if event.kind not in without:
                await transaction.execute(ADD, hook, event.id, at)
        return found[-1].id

    async def deliveries(self, hook: str) -> list[Delivery]:
        """Return all deliveries of a hook in the order of the events."""
        rows = await self._database.read(DELIVERIES, hook)
        return [Delivery(EVENTS.read(event), attempts, next_at) for attempts, next_at, *event in rows]

    async def claim(self, hook: str, delivery: Delivery, until: float) -> bool:
        """Claim the next attempt durably; True for exactly one of several brokers."""
        return await self._execute(CLAIM, hook, delivery.event.id, delivery.attempts, until) == 1

    async def postpone(self, hook: str, event_id: int, until: float) -> None:
        """Set when the delivery is tried next."""
        sql = "UPDATE alert_deliveries SET next_at = $3 WHERE hook = $1 AND event_id = $2"
        await self._execute(sql, hook, event_id, until)

    async def finish(self, hook: str, event_id: int) -> None:
        """Delete a delivery that has arrived or was given up."""
        sql = "DELETE FROM alert_deliveries WHERE hook = $1 AND event_id = $2"
        await self._execute(sql, hook, event_id)

    async def standing(self, replica: str) -> set[tuple[str, str]]:
        """Return the problems (reason, provider) that this replica reported and has not reported as recovered."""
        sql = "SELECT reason, provider FROM standing_troubles WHERE replica = $1"
        return {(str(reason), str(provider)) for reason, provider in await self._database.read(sql, replica)}

    async def note_standing(self, replica: str, event: Event, *, stands: bool) -> bool:
        """Store that a problem began or is over, with its event. False, and no event, if that is stored already."""
        sql = (
            """INSERT INTO standing_troubles (replica, reason, provider) VALUES ($1, $2, $3)
               ON CONFLICT (replica, reason, provider) DO NOTHING"""
            if stands
            else "DELETE FROM standing_troubles WHERE replica = $1 AND reason = $2 AND provider = $3"
        )
        return await self._note(event, sql, replica, event.reason, event.provider or "")

    async def mortal(self, ends: Span, idle: Mapping[str, Span], limit: int) -> AsyncIterator[list[Account]]:
        """Yield pages of accounts whose grant may end soon; an account may be in two pages, and no table is scanned.

        These are accounts whose known end is in `ends`, and accounts of a provider in `idle` whose last renewal was
        in that provider's span. Accounts that are removed or need re-authorization are left out.
        """
        walks = [(which, end, ends, list[str]()) for end, which in ENDS.items()]
        walks += [("provider = $5", "refreshed_at", since, [name]) for name, since in idle.items()]
        for which, end, span, values in walks:
            sql, after, name = MORTAL.format(which=which, end=end), span[0], ""
            while rows := await self._database.read(sql, span[1], after, name, limit, *values):
                page = [to_account(row) for row in rows]
                yield page
                after, name = getattr(page[-1], end), page[-1].name

    async def foretell(self, event: Event, days: int) -> bool:
        """Add an event about the end of a grant; False if it was added before for this many days before that end."""
        sql = """INSERT INTO foretold_ends (account, ends_at, days) VALUES ($1, $2, $3)
                 ON CONFLICT (account, ends_at, days) DO NOTHING"""
        return await self._note(event, sql, event.account, event.due_at, days)

    async def forget_foretold(self, before: float) -> None:
        """Delete the records of ends that were before that time."""
        await self._execute("DELETE FROM foretold_ends WHERE ends_at < $1", before)

    @in_transaction
    async def _note(self, transaction: Transaction, event: Event, sql: str, *values: object) -> bool:
        """Run a statement, and add the event if the statement changed a row."""
        if not await transaction.execute(sql, *values):
            return False
        await insert_events(transaction, [event])
        return True
