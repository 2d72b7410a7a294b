"""Stores grants that are imported from another system or exported to one."""

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


class GrantHeld(Exception):
    """The same grant was imported under another name, which is the message; two accounts of one grant would end it."""


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """The grant that an account was imported with."""

    epoch: int
    generation: int
    """The account's generation before its first renewal here."""
    grant_hash: str
    """Keyed hash of the imported refresh token."""


IMPORTS = Table("imports", ImportRecord)


class ImportStore(Store):
    """Stores accounts for the use cases that import and export grants."""

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
    ) -> bool:
        """Store `account` as the row of its name and remember its grant, in one transaction.

        `expected` is the removed row that it replaces, None if there was none. Returns False if the row has changed
        since or is not removed any more. Raises GrantHeld.
        """

        async def work(transaction: Transaction, account: Account) -> bool:
            if held := await transaction.fetch(HOLDER, grant_hash, account.name):
                raise GrantHeld(str(held[0][0]))
            if not await put_account(
                transaction, account, next_at, expected=expected, replace_sql=REMOVED_ONLY
            ):
                return False
            await transaction.execute(REMEMBER, account.name, account.epoch, account.generation, grant_hash)
            # A new grant makes the spares of a removed one useless.
            await transaction.execute("DELETE FROM spares WHERE account = $1", account.name)
            await insert_events(transaction, events)
            await transaction.notify(account.name)
            return True

        return await self._keys.write([account], work)

    async def record(self, name: str) -> ImportRecord | None:
        """Return the grant that the account was last imported with, perhaps in an earlier epoch."""
        return await self._row(IMPORTS, "WHERE account = $1", name)

    @in_transaction
    async def freeze_idle(
        self, transaction: Transaction, ref: Ref, reason: Reason, at: float, events: Sequence[Event] = ()
    ) -> bool:
        """Freeze the account if it is at `ref`, no renewal of it runs anywhere and none has an unknown outcome.

        This is one statement, so that a later renewal finds the account frozen. Returns whether it was frozen.
        """
        await transaction.notify(ref.name)
        if not await transaction.execute(FREEZE_IDLE, ref.name, ref.epoch, ref.generation, reason, at):
            return False
        await insert_events(transaction, events)
        return True
