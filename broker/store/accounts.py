"""The accounts as their management needs them: connect, find, freeze, rename, remove, purge."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from broker.model import Account, Event, InstallOutcome, Reason, Ref, Spare, Status
from broker.store.account_queries import AccountGroup, AccountQuery, find_sql, reach_sql
from broker.store.database import Transaction
from broker.store.events import insert_events
from broker.store.renewals import RefreshStore, insert_spare
from broker.store.rows import (
    ASSIGNMENTS,
    COLUMN_NUMBER,
    COLUMNS,
    PLACEHOLDERS,
    STATUS_SQL,
    WIDTH,
    to_account,
    to_values,
)

USERS = "SELECT caller, last_used_at FROM uses WHERE account = $1 ORDER BY last_used_at DESC, caller"
GONE = "gone"
GROUPED_AT_ONCE = 1000
GROUPS = f"""
SELECT provider, status, used, span, COUNT(*), MIN(expires_at), MAX(name) FROM (
  SELECT name, provider, expires_at,
         CASE WHEN removed_at IS NULL THEN {STATUS_SQL} ELSE '{GONE}' END AS status,
         CASE WHEN last_used_at >= $3 THEN 1 ELSE 0 END AS used,
         {{span}} AS span
    FROM accounts WHERE name > $1 ORDER BY name LIMIT $2) AS page
 GROUP BY provider, status, used, span"""
CUT = "identity_double LIKE 'cut %'"
"""The stored identity has the length to which an earlier version cut, and nobody has confirmed it (0014)."""
OF_IDENTITY = "FROM accounts WHERE provider = $1 AND external_id = $2 AND removed_at IS NULL"
BY_IDENTITY = f"SELECT {COLUMNS} {OF_IDENTITY} AND NOT {CUT} ORDER BY identity_double, name"
MAYBE_CUT = f"SELECT {COLUMNS} {OF_IDENTITY} AND {CUT} ORDER BY name LIMIT 5"
HOLDERS = f"SELECT name {OF_IDENTITY} AND NOT {CUT} ORDER BY identity_double, name"
MARK = "SELECT identity_double FROM accounts WHERE name = $1"
# CROSS, so that SQLite begins with the few that are marked.
DOUBLES = f"""
SELECT a.name, b.name FROM accounts a CROSS JOIN accounts b
 WHERE a.identity_double <> '' AND NOT a.{CUT} AND a.removed_at IS NULL
   AND b.provider = a.provider AND b.external_id = a.external_id AND b.removed_at IS NULL AND NOT b.{CUT}
   AND (b.name < a.name OR b.identity_double = '')
 ORDER BY b.name, a.name LIMIT $1"""
INSERT = f"""
INSERT INTO accounts ({COLUMNS}, next_at, identity_double) VALUES ({PLACEHOLDERS}, ${WIDTH + 1}, ${WIDTH + 2})
    ON CONFLICT (name) DO NOTHING"""
REPLACE = f"""
UPDATE accounts SET {ASSIGNMENTS}, next_at = ${WIDTH + 1},
       identity_double = CASE WHEN external_id = ${COLUMN_NUMBER["external_id"]} AND NOT {CUT} THEN identity_double
                              ELSE '' END
 WHERE name = ${WIDTH + 2} AND epoch = ${WIDTH + 3} AND generation = ${WIDTH + 4}"""
IDENTIFY = """
UPDATE accounts
   SET external_id = COALESCE($3, external_id), label = COALESCE($4, label),
       frozen = COALESCE($5, frozen),
       frozen_since = CASE WHEN CAST($5 AS TEXT) IS NULL THEN frozen_since ELSE CAST($6 AS DOUBLE PRECISION) END,
       identity_double = COALESCE($7, identity_double)
 WHERE name = $1 AND epoch = $2"""
SPEND_TICKET = "UPDATE tickets SET spent_at = $2 WHERE hash = $1 AND spent_at IS NULL"
CONNECTED = f"""
UPDATE installs SET outcome = '{InstallOutcome.CONNECTED}', outcome_account = $2, sealed_verifier = NULL
 WHERE state_hash = $1"""
DROP_GRANT = """
UPDATE installs SET sealed_access = NULL, sealed_refresh = NULL, grant_meta = NULL, next_at = NULL
 WHERE state_hash = $1"""

RENAME_BESIDES = (
    "UPDATE events SET account = $2 WHERE account = $1",
    "UPDATE installs SET outcome_account = $2 WHERE outcome_account = $1",
    "UPDATE plugin_grants SET account = $2 WHERE account = $1",
    "UPDATE uses SET account = $2 WHERE account = $1",
    "UPDATE foretold_ends SET account = $2 WHERE account = $1",
    "UPDATE imports SET account = $2 WHERE account = $1",
)
ITS_INSTALLS = "account = $1 OR outcome_account = $1"
ITS_GRANTS = "SELECT id FROM plugin_grants WHERE account = $1"
PURGE = (
    """DELETE FROM tickets WHERE account = $1
     OR hash IN (SELECT ticket_hash FROM installs WHERE account = $1 OR outcome_account = $1)""",
    f"DELETE FROM installs WHERE {ITS_INSTALLS}",
    "DELETE FROM spares WHERE account = $1",
    # Not by the account's own subject: whoever may manage the account can set that to another person's.
    """DELETE FROM events WHERE account = $1
     OR (account IS NULL AND subject IN (SELECT subject FROM plugin_grants WHERE account = $1))""",
    f"DELETE FROM plugin_codes WHERE grant_id IN ({ITS_GRANTS})",
    f"DELETE FROM plugin_pairs WHERE grant_id IN ({ITS_GRANTS})",
    "DELETE FROM plugin_grants WHERE account = $1",
    "DELETE FROM uses WHERE account = $1",
    "DELETE FROM foretold_ends WHERE account = $1",
    "DELETE FROM imports WHERE account = $1",
    "DELETE FROM accounts WHERE name = $1",
)
"""Everything that names the account or the person behind it; the row itself last, because the others ask it."""


RESTORE = """
UPDATE accounts SET removed_at = NULL,
       next_at = CASE WHEN dead IS NULL AND frozen IS NULL THEN CAST($3 AS DOUBLE PRECISION) ELSE NULL END
 WHERE name = $1 AND removed_at >= $2"""


class TicketSpent(Exception):
    """The install's ticket has connected an account already, or a newer link took its place."""


class IdentityTaken(Exception):
    """Another account has the identity at the provider; the message is its name."""


class _NameTaken(Exception):
    """Somebody connected an account under the new name while another was being renamed to it."""


class AccountStore(RefreshStore):
    """The accounts, as the use cases that manage them need them."""

    async def find(self, query: AccountQuery) -> list[Account]:
        """The first accounts of a query, `limit` at most; it may have to read any number of rows for them."""
        sql, values = find_sql(query)
        return await self._read(sql, *values)

    async def reach(self, query: AccountQuery, rows: int) -> tuple[int, str]:
        """How many rows `find` has to read for the query, counted up to so many, and the last one's name."""
        sql, values = reach_sql(query, rows)
        [(count, last)] = await self._database.read(sql, *values)
        return int(count), last or ""

    async def groups(
        self, *, used_since: float, span: float, at_once: int = GROUPED_AT_ONCE
    ) -> AsyncIterator[AccountGroup]:
        """All accounts by what they are alike in; a group comes again for every page of the table."""
        sql = GROUPS.format(span=self._database.dialect.floor.format("expires_at / $4"))
        after = ""
        while rows := await self._database.read(sql, after, at_once, used_since, span):
            for provider, status, used, at, count, first, _ in rows:
                if status != GONE:
                    yield AccountGroup(provider, Status.stored(status), bool(used), int(at), count, first)
            after = max(str(row[-1]) for row in rows)

    async def users(self, name: str) -> list[tuple[str, float]]:
        """Which callers were handed the account's tokens, and when last; the latest first."""
        return [(str(caller), float(at)) for caller, at in await self._database.read(USERS, name)]

    async def by_identity(self, provider: str, external_id: str) -> Account | None:
        """The account, not removed, that belongs to that identity."""
        return next(iter(await self._read(BY_IDENTITY, provider, external_id)), None)

    async def maybe_cut(self, provider: str, start: str) -> list[Account]:
        """Accounts, not removed, whose identity an earlier version may have cut to `start`; `by_identity` finds none
        of them until `identify` has stored the whole value."""
        return await self._read(MAYBE_CUT, provider, start)

    async def doubles(self, limit: int) -> list[tuple[str, str]]:
        """Pairs of accounts that share one identity since before that was refused."""
        return [(str(older), str(name)) for name, older in await self._database.read(DOUBLES, limit)]

    async def connect(
        self,
        account: Account,
        *,
        expected: Ref | None,
        next_at: float | None,
        grant: str | None,
        events: Sequence[Event],
        keep_grant: bool = False,
    ) -> bool:
        """Make `account` with its new grant the row of its name. `expected` is the row it was built from, None where
        there was none. False if that has changed meanwhile, or another account has the identity: read again, decide
        and seal again.

        `grant` is the install that it came with: in the same transaction its ticket is spent, its outcome noted, and
        its grant forgotten unless `keep_grant`. Raises TicketSpent, and then nothing was changed."""

        async def work(transaction: Transaction, account: Account) -> bool:
            if await _identity_holder(transaction, account) is not None:
                return False
            if not await put_account(transaction, account, next_at, expected=expected):
                return False
            # A new grant ends whatever the old one left behind.
            await transaction.execute(
                "DELETE FROM spares WHERE account = $1 AND epoch < $2", account.name, account.epoch
            )
            if grant is not None:
                await _end_install(transaction, grant, account, keep_grant=keep_grant)
            await insert_events(transaction, events)
            await transaction.tell(account.name)
            return True

        return await self._keys.write([account], work)

    async def identify(
        self,
        ref: Ref,
        *,
        external_id: str | None,
        label: str | None,
        at: float,
        grant: str,
        events: Sequence[Event] = (),
        if_frozen: Sequence[Event] = (),
    ) -> bool:
        """Pin a late identity to the grant `ref` belongs to (whatever its generation), and forget `grant`. False:
        another account has the identity, so this one was frozen as its duplicate, and `if_frozen` is told in place of
        `events`. One of `maybe_cut` is pinned and goes on all the same; where another has the identity, they are
        `doubles`."""

        async def work(transaction: Transaction) -> bool:
            rows = await transaction.fetch(f"SELECT {COLUMNS} FROM accounts WHERE name = $1", ref.name)
            pinned, mark, frozen = external_id, None, None
            if rows and external_id is not None:
                identified = replace(to_account(rows[0]), external_id=external_id)
                is_double = await _identity_holder(transaction, identified) is not None
                if _is_cut(await _mark(transaction, ref.name)):
                    # It was served before this was known, so it goes on; `broker check` lists it.
                    mark = ref.name if is_double else ""
                elif is_double:
                    pinned, frozen = None, Reason.DUPLICATE_IDENTITY
            await transaction.execute(IDENTIFY, ref.name, ref.epoch, pinned, label, frozen, at, mark)
            await transaction.execute(DROP_GRANT, grant)
            await insert_events(transaction, if_frozen if frozen else events)
            await transaction.tell(ref.name)
            return frozen is None

        return await self._database.write(work)

    async def freeze(self, name: str, reason: Reason | None, at: float, events: Sequence[Event] = ()) -> bool:
        """Freeze with a reason, or unfreeze with None. False: no such account."""
        sql = """UPDATE accounts SET frozen = $2,
                      frozen_since = CASE WHEN CAST($2 AS TEXT) IS NULL THEN NULL ELSE CAST($3 AS DOUBLE PRECISION) END,
                      next_at = CASE WHEN CAST($2 AS TEXT) IS NULL AND dead IS NULL THEN CAST($3 AS DOUBLE PRECISION)
                                     ELSE NULL END
                WHERE name = $1 AND removed_at IS NULL"""
        return await self._update(name, sql, name, reason, at, events=events)

    async def relabel(self, name: str, *, label: str | None, subject: str | None) -> bool:
        sql = "UPDATE accounts SET label = $2, subject = $3 WHERE name = $1 AND removed_at IS NULL"
        return await self._update(name, sql, name, label, subject)

    async def rename(
        self,
        ref: Ref,
        renamed: Account,
        *,
        spares: Sequence[Spare],
        next_at: float | None,
        old_name_hash: str,
    ) -> bool:
        """Move the row at `ref` to its new name, its tokens and `spares` sealed anew. False if the row has moved on,
        has an intent, or the new name is taken. The old name keeps a record of its generations under its hash."""

        async def work(transaction: Transaction, renamed: Account, *spares: Spare) -> bool:
            if await transaction.fetch(MARK, renamed.name):
                return False
            mark = await _mark(transaction, ref.name)
            sql = "DELETE FROM accounts WHERE name = $1 AND epoch = $2 AND generation = $3 AND intent_id IS NULL"
            changed = await transaction.execute(sql, ref.name, ref.epoch, ref.generation)
            if not changed:
                return False
            if not await transaction.execute(INSERT, *to_values(renamed), next_at, mark):
                raise _NameTaken
            await transaction.execute("DELETE FROM spares WHERE account = $1", ref.name)
            # What tells of the account goes with it, so that a purge finds it under the new name.
            for sql in RENAME_BESIDES:
                await transaction.execute(sql, ref.name, renamed.name)
            for spare in spares:
                await insert_spare(transaction, spare)
            await _remember_name(transaction, old_name_hash, ref.epoch, ref.generation)
            await transaction.tell(ref.name)
            await transaction.tell(renamed.name)
            return True

        try:
            return await self._keys.write([renamed, *spares], work)
        except _NameTaken:
            return False

    async def remove(self, name: str, at: float, events: Sequence[Event]) -> bool:
        async def work(transaction: Transaction) -> bool:
            sql = "UPDATE accounts SET removed_at = $2, next_at = NULL WHERE name = $1 AND removed_at IS NULL"
            changed = await transaction.execute(sql, name, at)
            if changed:
                await insert_events(transaction, events)
                await transaction.tell(name)
            return changed == 1

        return await self._database.write(work)

    async def restore(self, name: str, since: float, at: float, events: Sequence[Event] = ()) -> bool:
        """Undo a removal that is not older than `since`. Raises IdentityTaken."""

        async def work(transaction: Transaction) -> bool:
            rows = await transaction.fetch(f"SELECT {COLUMNS} FROM accounts WHERE name = $1", name)
            if (
                rows
                and not _is_cut(await _mark(transaction, name))
                and (holder := await _identity_holder(transaction, to_account(rows[0]))) is not None
            ):
                raise IdentityTaken(holder)
            restored = await transaction.execute(RESTORE, name, since, at)
            if restored:
                await insert_events(transaction, events)
                await transaction.tell(name)
            return restored == 1

        return await self._database.write(work)

    async def purge(self, name: str, name_hash: str) -> bool:
        """Forget the row, its spares, events, tickets and installs, but for its last epoch and generation under
        `name_hash`."""

        async def work(transaction: Transaction) -> bool:
            # Changes nothing, but from here on nobody commits a generation that would not be remembered.
            await transaction.execute("UPDATE accounts SET name = name WHERE name = $1", name)
            rows = await transaction.fetch("SELECT epoch, generation FROM accounts WHERE name = $1", name)
            for epoch, generation in rows:
                await _remember_name(transaction, name_hash, epoch, generation)
            for sql in PURGE:
                await transaction.execute(sql, name)
            await transaction.tell(name)
            return bool(rows)

        return await self._database.write(work)

    async def scrub(self) -> bool:
        """Take what was purged out of the store's files too. False: it could not be done just now; ask again."""
        return await self._database.scrub()

    async def purged(self, name_hash: str) -> tuple[int, int] | None:
        """Last epoch and generation of a purged name."""
        rows = await self._database.read(
            "SELECT epoch, generation FROM purged_names WHERE name_hash = $1", name_hash
        )
        return (rows[0][0], rows[0][1]) if rows else None

    async def removed_before(self, at: float, limit: int) -> list[str]:
        rows = await self._database.read(
            "SELECT name FROM accounts WHERE removed_at IS NOT NULL AND removed_at < $1 LIMIT $2", at, limit
        )
        return [name for (name,) in rows]


async def put_account(
    transaction: Transaction,
    account: Account,
    next_at: float | None,
    *,
    expected: Ref | None,
    replace_sql: str = REPLACE,
) -> bool:
    """Make `account` the row of its name, in the place of the row at `expected`, or of none."""
    if expected is None:
        return await transaction.execute(INSERT, *to_values(account), next_at, "") == 1
    key = (expected.name, expected.epoch, expected.generation)
    return await transaction.execute(replace_sql, *to_values(account), next_at, *key) == 1


async def _identity_holder(transaction: Transaction, account: Account) -> str | None:
    """Return the other account that has this one's identity, unless this one shares it already.

    Accounts that share one since before the index was made go on doing so; no new pair may come about.
    """
    if account.external_id is None:
        return None
    # Whoever else is about to give the identity to an account waits here, and then finds what was decided.
    await transaction.alone(f"identity {account.provider} {account.external_id}")
    names = [str(name) for (name,) in await transaction.fetch(HOLDERS, account.provider, account.external_id)]
    return None if account.name in names else next(iter(names), None)


async def _mark(transaction: Transaction, name: str) -> str:
    """What leaves the account apart from the index of identities: nothing, a double's name, or that of a cut one."""
    return "".join([str(mark) for (mark,) in await transaction.fetch(MARK, name)])


def _is_cut(mark: str) -> bool:
    return mark.startswith("cut ")


async def _end_install(
    transaction: Transaction, state_hash: str, account: Account, *, keep_grant: bool
) -> None:
    """Note that the install connected `account`, and spend its ticket. Raises TicketSpent."""
    rows = await transaction.fetch("SELECT ticket_hash FROM installs WHERE state_hash = $1", state_hash)
    ticket = rows[0][0] if rows else None
    if ticket is not None and not await transaction.execute(SPEND_TICKET, ticket, account.refreshed_at):
        raise TicketSpent
    await transaction.execute(CONNECTED, state_hash, account.name)
    if not keep_grant:
        await transaction.execute(DROP_GRANT, state_hash)


async def _remember_name(transaction: Transaction, name_hash: str, epoch: int, generation: int) -> None:
    sql = """INSERT INTO purged_names (name_hash, epoch, generation) VALUES ($1, $2, $3)
           ON CONFLICT (name_hash) DO UPDATE SET epoch = excluded.epoch, generation = excluded.generation"""
    await transaction.execute(sql, name_hash, epoch, generation)
