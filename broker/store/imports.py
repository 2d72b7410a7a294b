"""Grants that come from another system, and those that go to one."""

from collections.abc import Sequence
from dataclasses import dataclass

from broker.model import Account, Event, Reason, Ref
from broker.store.accounts import REPLACE, put_account
from broker.store.database import Database, Store, Table, Transaction, in_transaction
from broker.store.events import insert_events
from broker.store.keys import RecordKeys

REMOVED_ONLY = f"{REPLACE} AND removed_at IS NOT NULL"
HOLDER = """
SELECT i.account FROM imports i JOIN accounts a ON a.name = i.account AND a.epoch = i.epoch
 WHERE i.grant_hash = $1 AND i.account <> $2 AND a.removed_at IS NULL"""
REMEMBER = """
INSERT INTO imports (account, epoch, generation, grant_hash) VALUES ($1, $2, $3, $4)
ON CONFLICT (account) DO UPDATE
   SET epoch = excluded.epoch, generation = excluded.generation, grant_hash = excluded.grant_hash"""
FREEZE_IDLE = """
UPDATE accounts SET frozen = $4, frozen_since = COALESCE(frozen_since, $5), next_at = NULL
 WHERE name = $1 AND epoch = $2 AND generation = $3
   AND intent_id IS NULL AND ambiguous = 0 AND dead IS NULL AND removed_at IS NULL"""


@dataclass(frozen=True, slots=True)
class Added:
    """The imported grant is durable, under its name."""


@dataclass(frozen=True, slots=True)
class NameTaken:
    """The row of that name is not the one that was expected, or no longer removed."""


@dataclass(frozen=True, slots=True)
class GrantHeld:
    """The same grant was imported under another name; two accounts of one grant would kill it."""

    by: str


AddOutcome = Added | NameTaken | GrantHeld


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """What an account was imported with."""

    epoch: int
    generation: int
    """The account's, before the first renewal here."""
    grant_hash: str
    """Keyed hash of the refresh token in the import."""


IMPORTS = Table("imports", ImportRecord)


class ImportStore(Store):
    """The accounts, as the use cases that import and export grants need them."""

    def __init__(self, database: Database, *, keys: RecordKeys) -> None:
        super().__init__(database)
        self._keys = keys

    async def add(
        self,
        account: Account,
        *,
        expected: Ref | None,
        next_at: float | None,
        grant_hash: str,
        events: Sequence[Event],
    ) -> AddOutcome:
        """Make `account` the row of its name, and remember its grant, in one transaction. `expected` is the removed
        row that it replaces, None where there was none."""

        async def work(transaction: Transaction, account: Account) -> AddOutcome:
            if held := await transaction.fetch(HOLDER, grant_hash, account.name):
                return GrantHeld(str(held[0][0]))
            if not await put_account(
                transaction, account, next_at, expected=expected, replace_sql=REMOVED_ONLY
            ):
                return NameTaken()
            await transaction.execute(REMEMBER, account.name, account.epoch, account.generation, grant_hash)
            # A new grant ends whatever a removed one left behind.
            await transaction.execute("DELETE FROM spares WHERE account = $1", account.name)
            await insert_events(transaction, events)
            await transaction.notify(account.name)
            return Added()

        return await self._keys.write([account], work)

    async def record(self, name: str) -> ImportRecord | None:
        """What the account of that name was imported with, maybe in an earlier epoch."""
        return await self._row(IMPORTS, "WHERE account = $1", name)

    @in_transaction
    async def freeze_idle(
        self, transaction: Transaction, ref: Ref, reason: Reason, at: float, events: Sequence[Event] = ()
    ) -> bool:
        """Freeze the account while it stands at `ref` and no renewal of it is under way anywhere, nor its outcome
        unknown. One statement: a renewal that comes later is refused by the frozen row."""
        await transaction.notify(ref.name)
        values = (ref.name, ref.epoch, ref.generation, reason, at)
        if not await transaction.execute(FREEZE_IDLE, *values):
            return False
        await insert_events(transaction, events)
        return True
