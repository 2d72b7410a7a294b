"""The accounts as their management needs them: connect, find, freeze, rename, remove, purge."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from broker.model import Account, Event, InstallOutcome, Reason, Ref, Spare, Status
from broker.store.account_queries import AccountGroup, AccountQuery, find_sql, reach_sql
from broker.store.database import LATEST, Transaction, in_transaction, last_of, number, text
from broker.store.events import insert_events
from broker.store.plugin import join_account
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
EXPIRY = f"(CASE WHEN expires_at BETWEEN 0 AND {LATEST} THEN expires_at ELSE 0 END)"
GROUPS = f"""
SELECT provider, status, used, span, COUNT(*), MIN(expires_at), MAX(name) FROM (
  SELECT name, provider, {EXPIRY} AS expires_at,
         CASE WHEN removed_at IS NULL THEN {STATUS_SQL} ELSE '{GONE}' END AS status,
         CASE WHEN last_used_at >= $3 THEN 1 ELSE 0 END AS used,
         {{span}} AS span
    FROM accounts WHERE name > $1 AND name < '~' ORDER BY name LIMIT $2) AS page
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

FREEZE = """
UPDATE accounts SET frozen = $2,
       frozen_since = CASE WHEN CAST($2 AS TEXT) IS NULL THEN NULL ELSE CAST($3 AS DOUBLE PRECISION) END,
       next_at = CASE WHEN CAST($2 AS TEXT) IS NULL AND dead IS NULL THEN CAST($3 AS DOUBLE PRECISION) ELSE NULL END
 WHERE name = $1 AND removed_at IS NULL"""
REMEMBER_NAME = """
INSERT INTO purged_names (name_hash, epoch, generation) VALUES ($1, $2, $3)
ON CONFLICT (name_hash) DO UPDATE SET epoch = excluded.epoch, generation = excluded.generation"""
RENAMED_WITH_IT = (
    ("events", "account"),
    ("installs", "outcome_account"),
    ("plugin_grants", "account"),
    ("uses", "account"),
    ("foretold_ends", "account"),
    ("imports", "account"),
)
ITS_INSTALLS = "account = $1 OR outcome_account = $1"
ITS_GRANTS = "SELECT id FROM plugin_grants WHERE account = $1"
ITS_SUBJECTS = "SELECT subject FROM plugin_grants WHERE account = $1"
PURGED_WITH_IT = (
    ("tickets", f"account = $1 OR hash IN (SELECT ticket_hash FROM installs WHERE {ITS_INSTALLS})"),
    ("installs", ITS_INSTALLS),
    ("spares", "account = $1"),
    # Not by the account's own subject: whoever may manage the account can set that to another person's.
    ("events", f"account = $1 OR (account IS NULL AND subject IN ({ITS_SUBJECTS}))"),
    ("plugin_codes", f"grant_id IN ({ITS_GRANTS})"),
    ("plugin_pairs", f"grant_id IN ({ITS_GRANTS})"),
    ("plugin_grants", "account = $1"),
    ("uses", "account = $1"),
    ("foretold_ends", "account = $1"),
    ("imports", "account = $1"),
    ("accounts", "name = $1"),
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
        return int(count), text(last) or ""

    async def groups(
        self, *, used_since: float, span: float, at_once: int = GROUPED_AT_ONCE
    ) -> AsyncIterator[AccountGroup]:
        """All accounts by what they are alike in; a group comes again for every page of the table."""
        sql = GROUPS.format(span=self._database.dialect.floor.format(f"{EXPIRY} / $4"))
        after, read = "", at_once
        while read >= at_once:
            rows = await self._database.read(sql, after, at_once, used_since, span)
            for provider, status, used, at, count, first, _ in rows:
                if status != GONE:
                    yield AccountGroup(
                        text(provider), Status.stored(status), bool(used), int(at), count, first
                    )
            after, read = last_of(rows), sum(row[4] for row in rows)

    async def users(self, name: str) -> list[tuple[str, float]]:
        """Which callers were handed the account's tokens, and when last; the latest first."""
        return [(text(caller), number(at)) for caller, at in await self._database.read(USERS, name)]

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

    @in_transaction
    async def identify(
        self,
        transaction: Transaction,
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

    async def freeze(self, name: str, reason: Reason | None, at: float, events: Sequence[Event] = ()) -> bool:
        """Freeze with a reason, or unfreeze with None. False: no such account."""
        return await self._update(name, FREEZE, name, reason, at, events=events)

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
            if not await transaction.execute(sql, ref.name, ref.epoch, ref.generation):
                return False
            if not await transaction.execute(INSERT, *to_values(renamed), next_at, mark):
                raise _NameTaken
            await transaction.execute("DELETE FROM spares WHERE account = $1", ref.name)
            # What tells of the account goes with it, so that a purge finds it under the new name.
            for table, column in RENAMED_WITH_IT:
                sql = f"UPDATE {table} SET {column} = $2 WHERE {column} = $1"
                await transaction.execute(sql, ref.name, renamed.name)
            for spare in spares:
                await insert_spare(transaction, spare)
            await transaction.execute(REMEMBER_NAME, old_name_hash, ref.epoch, ref.generation)
            await transaction.tell(ref.name)
            await transaction.tell(renamed.name)
            return True

        try:
            return await self._keys.write([renamed, *spares], work)
        except _NameTaken:
            return False

    async def remove(self, name: str, at: float, events: Sequence[Event]) -> bool:
        sql = "UPDATE accounts SET removed_at = $2, next_at = NULL WHERE name = $1 AND removed_at IS NULL"
        return await self._update(name, sql, name, at, events=events)

    @in_transaction
    async def restore(
        self, transaction: Transaction, name: str, since: float, at: float, events: Sequence[Event] = ()
    ) -> bool:
        """Undo a removal that is not older than `since`. Raises IdentityTaken."""
        if not _is_cut(await _mark(transaction, name)):
            for row in await transaction.fetch(f"SELECT {COLUMNS} FROM accounts WHERE name = $1", name):
                if (holder := await _identity_holder(transaction, to_account(row))) is not None:
                    raise IdentityTaken(holder)
        if not await transaction.execute(RESTORE, name, since, at):
            return False
        await insert_events(transaction, events)
        await transaction.tell(name)
        return True

    @in_transaction
    async def purge(self, transaction: Transaction, name: str, name_hash: str) -> bool:
        """Forget the row, its spares, events, tickets and installs, but for its last epoch and generation under
        `name_hash`."""
        # Changes nothing, but from here on nobody commits a generation that would not be remembered.
        await transaction.execute("UPDATE accounts SET name = name WHERE name = $1", name)
        rows = await transaction.fetch("SELECT epoch, generation FROM accounts WHERE name = $1", name)
        for epoch, generation in rows:
            await transaction.execute(REMEMBER_NAME, name_hash, epoch, generation)
        for table, which in PURGED_WITH_IT:
            await transaction.execute(f"DELETE FROM {table} WHERE {which}", name)
        await transaction.tell(name)
        return bool(rows)

    async def scrub(self) -> bool:
        """Take what was purged out of the store's files too. False: it could not be done just now; ask again."""
        return await self._database.scrub()

    async def purged(self, name_hash: str) -> tuple[int, int] | None:
        """Last epoch and generation of a purged name."""
        sql = "SELECT epoch, generation FROM purged_names WHERE name_hash = $1"
        return next(((row[0], row[1]) for row in await self._database.read(sql, name_hash)), None)

    async def removed_before(self, at: float, limit: int) -> list[str]:
        sql = "SELECT name FROM accounts WHERE removed_at IS NOT NULL AND removed_at < $1 LIMIT $2"
        return [name for (name,) in await self._database.read(sql, at, limit)]


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
    """Note that the install connected `account`, also at the plugin's grant of the same install, and spend its ticket.

    Raises TicketSpent.
    """
    sql = "SELECT ticket_hash, browser_hash, subject FROM installs WHERE state_hash = $1"
    for ticket, browser, subject in await transaction.fetch(sql, state_hash):
        if ticket is not None and not await transaction.execute(SPEND_TICKET, ticket, account.refreshed_at):
            raise TicketSpent
        if subject is not None:
            await join_account(transaction, browser, subject, account.name, account.refreshed_at)
    await transaction.execute(CONNECTED, state_hash, account.name)
    if not keep_grant:
        await transaction.execute(DROP_GRANT, state_hash)
