"""How an account is stored in its row, and reads of many rows in one statement."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from operator import attrgetter

from broker.errors import StorageUnavailable
from broker.model import Account, Intent, Reason, Status, Trouble
from broker.store.database import Row, placeholders

# In the order of the fields, so that a row becomes an account without looking at names.
_PLAIN = (
    "name",
    "provider",
    "epoch",
    "generation",
    "client_id",
    "sealed_access",
    "sealed_refresh",
    "token_type",
    "scope",
    "issued_at",
    "expires_at",
    "refreshed_at",
    "created_at",
    "external_id",
    "label",
    "subject",
    "org",
    "last_used_at",
)
_STATE = ("frozen", "frozen_since", "dead", "dead_since", "removed_at")
_LAST = ("unusable", "grant_ends_at", "grant_ages")
_INTENT = ("intent_id", "intent_generation", "intent_at", "lease_owner", "lease_until")
_TROUBLE = (
    "trouble",
    "trouble_since",
    "attempts",
    "not_before",
    "ambiguous",
    "refusals",
    "first_refused_at",
    "unusual",
    "detail",
)
_ALL = (*_PLAIN, *_STATE, *_LAST, *_INTENT, *_TROUBLE)

COLUMNS = ", ".join(_ALL)
PLACEHOLDERS = placeholders(len(_ALL))
ASSIGNMENTS = ", ".join(f"{column} = ${number}" for number, column in enumerate(_ALL, 1))
COLUMN_NUMBER = {column: number for number, column in enumerate(_ALL, 1)}
WIDTH = len(_ALL)

STATUS_SQL = f"""CASE
  WHEN dead IS NOT NULL THEN '{Status.NEEDS_REAUTHORIZATION}'
  WHEN frozen IS NOT NULL THEN '{Status.FROZEN}'
  WHEN ambiguous > 0 THEN '{Status.UNCERTAIN}'
  WHEN trouble IS NOT NULL AND trouble <> '{Reason.REJECTED}' THEN '{Status.REFRESH_FAILING}'
  ELSE '{Status.ACTIVE}' END"""

TROUBLED_SQL = "dead IS NOT NULL OR frozen IS NOT NULL OR ambiguous > 0 OR trouble IS NOT NULL"
"""The condition of the indexes of accounts that are not simply active."""

MOST_NAMES = 64
"""Names in one statement."""
SIZES = (1, 4, 16, MOST_NAMES)
"""Of statements, so that the database has few to prepare."""
BY_NAMES = {size: f"SELECT {COLUMNS} FROM accounts WHERE name IN ({placeholders(size)})" for size in SIZES}
"""`name` is the first column."""

_Asked = Mapping[str, "list[asyncio.Future[Account | None]]"]

assert tuple(field.name for field in fields(Account)) == (*_PLAIN, *_STATE, "intent", "trouble", *_LAST)  # noqa: S101 - a new field must get a column

_plain_values = attrgetter(*_PLAIN)
_trouble_values = attrgetter(*(field.name for field in fields(Trouble)))
_UNTROUBLED = Trouble()
_NO_TROUBLE = _trouble_values(_UNTROUBLED)


def to_account(row: Row) -> Account:
    """The account of one row of `COLUMNS`."""
    # By position: this is most of what reading an account costs.
    frozen, frozen_since, dead, dead_since, removed_at, unusable, grant_ends_at, grant_ages = row[18:26]
    values = (
        *row[:18],
        None if frozen is None else Reason.stored(frozen),
        frozen_since,
        None if dead is None else Reason.stored(dead),
        dead_since,
        removed_at,
        None if row[26] is None else Intent(*row[26:31]),
        _to_trouble(row[31:]),
        bool(unusable),
        grant_ends_at,
        bool(grant_ages),
    )
    return Account(*values)


def _to_trouble(values: Row) -> Trouble:
    if tuple(values) == _NO_TROUBLE:
        return _UNTROUBLED
    reason, *others = values
    others[6] = bool(others[6])
    return Trouble(None if reason is None else Reason.stored(reason), *others)


def to_values(account: Account) -> tuple[object, ...]:
    """The values of `COLUMNS` for an account."""
    intent, trouble = account.intent, account.trouble
    return (
        *_plain_values(account),
        account.frozen,
        account.frozen_since,
        account.dead,
        account.dead_since,
        account.removed_at,
        int(account.unusable),
        account.grant_ends_at,
        int(account.grant_ages),
        *((intent.id, intent.generation, intent.at, intent.owner, intent.until) if intent else (None,) * 5),
        *trouble_values(trouble),
    )


def trouble_values(trouble: Trouble) -> tuple[object, ...]:
    """The values of the trouble columns."""
    *values, unusual, detail = _trouble_values(trouble)
    return (*values, int(unusual), detail)


class GatheredReads:
    """Reads accounts: together what is asked for in one turn of the loop, or while a read is under way."""

    def __init__(self, read: Callable[..., Awaitable[list[Account]]], *, shared: bool) -> None:
        self._read = read
        """Reads the accounts of a statement and its values."""
        self._shared = shared
        """Whether the database answers several reads at once: there nobody waits behind one that is under way."""
        self._asked: dict[str, list[asyncio.Future[Account | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_taken_care_of = False
        """Whether a task will yet come back for what is asked."""

    async def account(self, name: str) -> Account | None:
        """The account of that name as it is from now on; None where there is none. Raises StorageUnavailable."""
        asked: asyncio.Future[Account | None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(name, []).append(asked)
        if not self._is_taken_care_of:
            self._is_taken_care_of = True
            task = asyncio.create_task(self._read_all(), name="store-reader")
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        return await asked

    async def _read_all(self) -> None:
        while self._asked:
            names = list(self._asked)[:MOST_NAMES]
            asked = {name: self._asked.pop(name) for name in names}
            self._is_taken_care_of = not self._shared or bool(self._asked)
            await self._answer(asked)
        self._is_taken_care_of = False

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            # So a loop that breaks down ends every task: nobody may wait for a read that never comes.
            self._is_taken_care_of = False
            left, self._asked = self._asked, {}
            _refuse(left, _closed())

    async def _answer(self, asked: "_Asked") -> None:
        try:
            found = await self._found(list(asked))
        except Exception as exc:  # noqa: BLE001 - it is raised where it was asked for
            if len(asked) == 1 or isinstance(exc, StorageUnavailable):
                _refuse(asked, exc)
                return
            # One name is at fault; who asked for another must not hear of it.
            for name, futures in asked.items():
                await self._answer({name: futures})
        except asyncio.CancelledError:
            _refuse(asked, _closed())
            raise
        else:
            for name, futures in asked.items():
                for future in futures:
                    # Who asked may have given up.
                    if not future.done():
                        future.set_result(found.get(name))

    async def _found(self, names: list[str]) -> Mapping[str, Account]:
        size = next(size for size in SIZES if size >= len(names))
        padded = names + names[-1:] * (size - len(names))
        return {account.name: account for account in await self._read(BY_NAMES[size], *padded)}


def _refuse(asked: "_Asked", exc: Exception) -> None:
    for futures in asked.values():
        for future in futures:
            if not future.done():
                future.set_exception(exc)
                # Who asked may give up before it hears of this.
                future.exception()


def _closed() -> StorageUnavailable:
    return StorageUnavailable("the store is closed", retry_after=1)
