"""Events in the order of their commits, their deliveries to hooks, and what was told already."""

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
# A damaged counter would give a number twice, and so undo every change that has an event.
NEXT_ID = f"""
UPDATE event_ids SET last = 1 + CASE WHEN last BETWEEN {NEWEST_ID} AND {LATEST} THEN last ELSE {NEWEST_ID} END"""


class EventStore(Store):
    """The events, in the order of their commits."""

    @in_transaction
    async def add_events(self, transaction: Transaction, events: Sequence[Event]) -> None:
        await insert_events(transaction, events)

    async def events(self, after: int, limit: int, account: str | None = None) -> list[Event]:
        return await self._rows(
            EVENTS, f"WHERE id > $1 AND {OF_ACCOUNT} ORDER BY id LIMIT $3", after, account, limit
        )

    async def last_events(self, limit: int, account: str | None = None) -> list[Event]:
        return (await self._rows(EVENTS, f"WHERE {OF_ACCOUNT} ORDER BY id DESC LIMIT $1", limit, account))[
            ::-1
        ]

    async def event_bounds(self) -> tuple[int, int]:
        """The newest id that was ever given, and the newest of those that were purged for their age."""
        [(last, purged)] = await self._database.read("SELECT last, purged FROM event_ids")
        return int(number(last)), int(number(purged))

    @in_transaction
    async def purge_events(self, transaction: Transaction, before: float, limit: int) -> int:
        old = f"SELECT id FROM events WHERE at < $1 AND id <= {LATEST} ORDER BY at LIMIT $2"
        rows = await transaction.fetch(old, before, limit)
        if not rows:
            return 0
        newest = max(id_ for (id_,) in rows)
        await transaction.execute("UPDATE event_ids SET purged = $1 WHERE purged < $1", newest)
        return await transaction.execute(f"DELETE FROM events WHERE id IN ({old})", before, limit)


async def insert_events(transaction: Transaction, events: Sequence[Event]) -> None:
    """Append events within somebody's transaction, so that a change and its event are one.

    Numbers are given in the order of the commits: whoever has read up to one has missed none below it.
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
"""By the column that tells when a grant ends, of which accounts it does; each has an index of just these."""


Span = tuple[float, float]
"""From when until when, epoch seconds."""


@dataclass(frozen=True, slots=True)
class HookState:
    """How far one hook is."""

    upto: int
    """Events up to this id have become deliveries."""
    paused_at: float | None
    """Since when it is told nothing, because it said that it wants nothing."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one hook."""

    event: Event
    attempts: int
    next_at: float
    """When it may be tried next, epoch seconds; while an attempt runs, when that counts as lost."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """An end of a grant, as it is told once."""

    account: str
    ends_at: float
    days: int
    """The threshold: so many days before."""


class AlertStore(Store):
    """Hooks, their deliveries, standing troubles and foretold ends.

    Deliveries are derived from the table of events by a cursor: an event that is durable is told, and one whose
    account was purged meanwhile is not.
    """

    @in_transaction
    async def open_hook(self, transaction: Transaction, hook: str, target: str) -> HookState:
        """The hook as it stands; a new one begins with what happens from now on. `target` is a hash of where it
        leads: another one than before lifts a pause."""
        await transaction.execute(BEGIN, hook, target)
        await transaction.execute(RETARGET, hook, target)
        await transaction.execute(MEND_DELIVERIES, hook)
        await transaction.execute(MEND_HOOK, hook)
        [row] = await transaction.fetch("SELECT upto, paused_at FROM alert_hooks WHERE hook = $1", hook)
        return HookState(*row)

    async def forget_hook(self, hook: str) -> None:
        """It is configured no more: its deliveries go with it."""
        if await self._database.read("SELECT 1 FROM alert_hooks WHERE hook = $1", hook):
            await self._forget_hook(hook)

    @in_transaction
    async def _forget_hook(self, transaction: Transaction, hook: str) -> None:
        await transaction.execute("DELETE FROM alert_deliveries WHERE hook = $1", hook)
        await transaction.execute("DELETE FROM alert_hooks WHERE hook = $1", hook)

    async def pause_hook(self, hook: str, at: float | None) -> None:
        """Tell it nothing from now on; None: again."""
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
        """Make the next events behind `upto` deliveries, `limit` at most, and move the cursor in the same
        transaction; how far it is now. Another process that was faster wins, and nothing is doubled."""
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
        """All of a hook, in the order of the events."""
        rows = await self._database.read(DELIVERIES, hook)
        return [Delivery(EVENTS.read(event), attempts, next_at) for attempts, next_at, *event in rows]

    async def claim(self, hook: str, delivery: Delivery, until: float) -> bool:
        """Take the next attempt, durably: True for exactly one of several processes."""
        values = (hook, delivery.event.id, delivery.attempts, until)
        return await self._execute(CLAIM, *values) == 1

    async def postpone(self, hook: str, event_id: int, until: float) -> None:
        sql = "UPDATE alert_deliveries SET next_at = $3 WHERE hook = $1 AND event_id = $2"
        await self._execute(sql, hook, event_id, until)

    async def finish(self, hook: str, event_id: int) -> None:
        """It arrived, or was given up."""
        sql = "DELETE FROM alert_deliveries WHERE hook = $1 AND event_id = $2"
        await self._execute(sql, hook, event_id)

    async def standing(self, replica: str) -> set[tuple[str, str]]:
        """Troubles (reason, provider) that this replica told of and has not called over."""
        sql = "SELECT reason, provider FROM standing_troubles WHERE replica = $1"
        return {(str(reason), str(provider)) for reason, provider in await self._database.read(sql, replica)}

    async def note_standing(self, replica: str, event: Event, *, stands: bool) -> bool:
        """Note that a trouble began or is over, with its event; False, and no event, where that was noted before."""
        sql = (
            """INSERT INTO standing_troubles (replica, reason, provider) VALUES ($1, $2, $3)
               ON CONFLICT (replica, reason, provider) DO NOTHING"""
            if stands
            else "DELETE FROM standing_troubles WHERE replica = $1 AND reason = $2 AND provider = $3"
        )
        return await self._note(event, sql, replica, event.reason, event.provider or "")

    async def mortal(self, ends: Span, idle: Mapping[str, Span], limit: int) -> AsyncIterator[list[Account]]:
        """Living accounts, so many at a time, whose end is known and lies in `ends`, or whose provider is in `idle`
        and who were last renewed in the span there; by index, never a scan. One may come twice."""
        walks = [(which, end, ends, list[str]()) for end, which in ENDS.items()]
        walks += [("provider = $5", "refreshed_at", since, [name]) for name, since in idle.items()]
        for which, end, span, values in walks:
            sql, after, name = MORTAL.format(which=which, end=end), span[0], ""
            while rows := await self._database.read(sql, span[1], after, name, limit, *values):
                page = [to_account(row) for row in rows]
                yield page
                after, name = getattr(page[-1], end), page[-1].name

    async def foretell(self, ends: Foretold, event: Event) -> bool:
        """Tell of it, once; False where it was told before."""
        sql = """INSERT INTO foretold_ends (account, ends_at, days) VALUES ($1, $2, $3)
                 ON CONFLICT (account, ends_at, days) DO NOTHING"""
        return await self._note(event, sql, *values_of(ends))

    async def forget_foretold(self, before: float) -> None:
        """Forget what was foretold of ends before then."""
        await self._execute("DELETE FROM foretold_ends WHERE ends_at < $1", before)

    @in_transaction
    async def _note(self, transaction: Transaction, event: Event, sql: str, *values: object) -> bool:
        """Run a statement, and where it changes something, add the event."""
        if not await transaction.execute(sql, *values):
            return False
        await insert_events(transaction, [event])
        return True
