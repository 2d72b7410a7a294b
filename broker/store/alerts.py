"""Hooks, deliveries, standing troubles and foretold ends."""

from collections.abc import Collection, Mapping

from broker.model import Account, Event, EventKind
from broker.store.alerts_interface import Delivery, Foretold, HookState
from broker.store.database import Database, Transaction
from broker.store.events import EVENT
from broker.store.rows import COLUMNS, insert_events, to_account, to_event

BEGIN = """
INSERT INTO alert_hooks (hook, upto, target) SELECT CAST($1 AS TEXT), last, CAST($2 AS TEXT) FROM event_ids
 WHERE one = 1 ON CONFLICT (hook) DO NOTHING"""
RETARGET = "UPDATE alert_hooks SET target = $2, paused_at = NULL WHERE hook = $1 AND target <> $2"
NEXT = f"SELECT {EVENT} FROM events WHERE id > $1 ORDER BY id LIMIT $2"
MOVE = "UPDATE alert_hooks SET upto = $3 WHERE hook = $1 AND upto = $2"
ADD = """
INSERT INTO alert_deliveries (hook, event_id, attempts, next_at) VALUES ($1, $2, 0, $3)
ON CONFLICT (hook, event_id) DO NOTHING"""
ORPHANS = "DELETE FROM alert_deliveries WHERE hook = $1 AND event_id NOT IN (SELECT id FROM events)"
DELIVERIES = f"""
SELECT d.attempts, d.next_at, {", ".join(f"e.{column.strip()}" for column in EVENT.split(","))}
  FROM alert_deliveries d JOIN events e ON e.id = d.event_id WHERE d.hook = $1 ORDER BY d.event_id"""
CLAIM = """
UPDATE alert_deliveries SET attempts = attempts + 1, next_at = $4
 WHERE hook = $1 AND event_id = $2 AND attempts = $3"""
MORTAL = f"""
SELECT {COLUMNS} FROM accounts
 WHERE name > $1 AND removed_at IS NULL AND dead IS NULL
   AND (grant_ends_at <= $2 OR (sealed_refresh IS NULL AND expires_at <= $2) OR refreshed_at <= {{idle}})
 ORDER BY name LIMIT $3"""


class Alerts:
    """The `AlertStore`, on any database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_hook(self, hook: str, target: str) -> HookState:
        async def work(transaction: Transaction) -> HookState:
            await transaction.execute(BEGIN, hook, target)
            await transaction.execute(RETARGET, hook, target)
            sql = "SELECT upto, paused_at FROM alert_hooks WHERE hook = $1"
            [(upto, paused_at)] = await transaction.fetch(sql, hook)
            return HookState(upto, paused_at)

        return await self._database.write(work)

    async def forget_hook(self, hook: str) -> None:
        async def work(transaction: Transaction) -> None:
            await transaction.execute("DELETE FROM alert_deliveries WHERE hook = $1", hook)
            await transaction.execute("DELETE FROM alert_hooks WHERE hook = $1", hook)

        if await self._database.read("SELECT 1 FROM alert_hooks WHERE hook = $1", hook):
            await self._database.write(work)

    async def pause_hook(self, hook: str, at: float | None) -> None:
        sql = "UPDATE alert_hooks SET paused_at = $2 WHERE hook = $1"
        await self._database.write(lambda transaction: transaction.execute(sql, hook, at))

    async def spread(
        self, hook: str, *, upto: int, without: Collection[EventKind], limit: int, at: float
    ) -> int:
        async def work(transaction: Transaction) -> int:
            found = [to_event(row) for row in await transaction.fetch(NEXT, upto, limit)]
            if not found or not await transaction.execute(MOVE, hook, upto, found[-1].id):
                rows = await transaction.fetch("SELECT upto FROM alert_hooks WHERE hook = $1", hook)
                return int(rows[0][0]) if rows else upto
            await transaction.execute(ORPHANS, hook)
            for event in found:
                if event.kind not in without:
                    await transaction.execute(ADD, hook, event.id, at)
            return found[-1].id

        return await self._database.write(work)

    async def deliveries(self, hook: str) -> list[Delivery]:
        rows = await self._database.read(DELIVERIES, hook)
        return [Delivery(to_event(event), attempts, next_at) for attempts, next_at, *event in rows]

    async def claim(self, hook: str, delivery: Delivery, until: float) -> bool:
        values = (hook, delivery.event.id, delivery.attempts, until)
        return await self._database.write(lambda transaction: transaction.execute(CLAIM, *values)) == 1

    async def postpone(self, hook: str, event_id: int, until: float) -> None:
        sql = "UPDATE alert_deliveries SET next_at = $3 WHERE hook = $1 AND event_id = $2"
        await self._database.write(lambda transaction: transaction.execute(sql, hook, event_id, until))

    async def finish(self, hook: str, event_id: int) -> None:
        sql = "DELETE FROM alert_deliveries WHERE hook = $1 AND event_id = $2"
        await self._database.write(lambda transaction: transaction.execute(sql, hook, event_id))

    async def standing(self, replica: str) -> set[tuple[str, str]]:
        sql = "SELECT reason, provider FROM standing_troubles WHERE replica = $1"
        return {(str(reason), str(provider)) for reason, provider in await self._database.read(sql, replica)}

    async def note_standing(self, replica: str, event: Event, *, stands: bool) -> bool:
        sql = (
            """INSERT INTO standing_troubles (replica, reason, provider) VALUES ($1, $2, $3)
               ON CONFLICT (replica, reason, provider) DO NOTHING"""
            if stands
            else "DELETE FROM standing_troubles WHERE replica = $1 AND reason = $2 AND provider = $3"
        )

        async def work(transaction: Transaction) -> bool:
            if not await transaction.execute(sql, replica, event.reason, event.provider or ""):
                return False
            await insert_events(transaction, [event])
            return True

        return await self._database.write(work)

    async def mortal(self, after: str, before: float, idle: Mapping[str, float], limit: int) -> list[Account]:
        cases = " ".join(
            f"WHEN ${4 + 2 * n} THEN CAST(${5 + 2 * n} AS DOUBLE PRECISION)" for n in range(len(idle))
        )
        since = f"CASE provider {cases} ELSE 0.0 END" if idle else "0.0"
        values = [value for pair in idle.items() for value in pair]
        rows = await self._database.read(MORTAL.format(idle=since), after, before, limit, *values)
        return [to_account(row) for row in rows]

    async def foretell(self, ends: Foretold, event: Event) -> bool:
        async def work(transaction: Transaction) -> bool:
            fresh = await transaction.execute(
                """INSERT INTO foretold_ends (account, ends_at, days) VALUES ($1, $2, $3)
                   ON CONFLICT (account, ends_at, days) DO NOTHING""",
                ends.account,
                ends.ends_at,
                ends.days,
            )
            if fresh:
                await insert_events(transaction, [event])
            return fresh == 1

        return await self._database.write(work)

    async def forget_foretold(self, before: float) -> None:
        sql = "DELETE FROM foretold_ends WHERE ends_at < $1"
        await self._database.write(lambda transaction: transaction.execute(sql, before))
