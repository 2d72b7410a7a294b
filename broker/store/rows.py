"""Converts accounts to rows and back, and reads many accounts in one statement."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any

from broker.errors import StorageUnavailable
from broker.model import Account, Intent, Reason, Status, Trouble
from broker.store.database import LATEST, Row, answer, closed, placeholders, text, values_of

# In the order of the fields, so that a row is converted by position.
_OWN = tuple(field.name for field in fields(Account) if field.name not in {"intent", "trouble"})
_INTENT = ("intent_id", "intent_generation", "intent_at", "lease_owner", "lease_until")
_TROUBLE = ("trouble", "trouble_since", *(field.name for field in fields(Trouble)[2:]))
_ALL = (*_OWN, *_INTENT, *_TROUBLE)
_COUNTS = frozenset(
    {"epoch", "generation", "unusable", "grant_ages", "intent_generation"}
    | {"attempts", "ambiguous", "refusals", "unusual"}
)
_TIMES = frozenset(one for one in _ALL if one.endswith(("_at", "_since", "_before", "_until")))
_NEEDED_TIMES = frozenset({"issued_at", "expires_at", "refreshed_at", "created_at"})

COLUMNS = ", ".join(_ALL)
PLACEHOLDERS = placeholders(len(_ALL))
ASSIGNMENTS = ", ".join(f"{column} = ${number}" for number, column in enumerate(_ALL, 1))
COLUMN_NUMBER = {column: number for number, column in enumerate(_ALL, 1)}
WIDTH = len(_ALL)
DAMAGED_SQL = " OR ".join(f"NOT {one} BETWEEN 0 AND {LATEST}" for one in _ALL if one in _COUNTS | _TIMES)
"""The condition of rows with damaged numbers; in SQLite any text is greater than every number."""

STATUS_SQL = f"""CASE
  WHEN dead IS NOT NULL THEN '{Status.NEEDS_REAUTHORIZATION}'
  WHEN frozen IS NOT NULL THEN '{Status.FROZEN}'
  WHEN ambiguous > 0 THEN '{Status.UNCERTAIN}'
  WHEN trouble IS NOT NULL AND trouble <> '{Reason.REJECTED}' THEN '{Status.REFRESH_FAILING}'
  ELSE '{Status.ACTIVE}' END"""

TROUBLED_SQL = "dead IS NOT NULL OR frozen IS NOT NULL OR ambiguous > 0 OR trouble IS NOT NULL"
"""The condition of the indexes of accounts that are not simply active."""

MOST_NAMES = 64
"""The largest number of names in one statement."""
SIZES = (1, 4, 16, MOST_NAMES)
"""Numbers of names for which there are statements: few, so that the database prepares few."""
BY_NAMES = {size: f"SELECT {COLUMNS} FROM accounts WHERE name IN ({placeholders(size)})" for size in SIZES}
"""`name` is the first column."""

_Asked = Mapping[str, "list[asyncio.Future[Account | None]]"]

_own_values = attrgetter(*_OWN)
_numbers = itemgetter(*(number for number, one in enumerate(_ALL) if one in _COUNTS | _TIMES))
_UNTROUBLED = Trouble()
_NO_TROUBLE = values_of(_UNTROUBLED)


def to_account(row: Row) -> Account:
    """Convert a row of `COLUMNS`; a damaged row becomes an account that needs re-authorization."""
    # SQLite stores anything in any column, both databases store infinity, and disks fail.
    is_whole = _fit(tuple(map(type, row)))
    if is_whole:
        numbers = [*filter(None, _numbers(row))]
        # The sum finds NaN, which has no order. A sum is rarely greater than LATEST; then each number is checked.
        is_whole = min(numbers, default=0) >= 0 and (
            sum(numbers) <= LATEST or all(0 <= number <= LATEST for number in numbers)
        )
    if not is_whole:
        readable = {column: _legal(column, value) for column, value in zip(_ALL, row, strict=True)}
        if not readable["issued_at"] or not readable["expires_at"]:
            # A token whose times are not known counts as expired.
            readable |= {"issued_at": 0.0, "expires_at": 0.0}
        readable |= dict.fromkeys(_INTENT) | {"dead": Reason.RECORD_DAMAGED, "dead_since": None}
        row = list(readable.values())
    # By position: this is most of the time that reading an account takes.
    frozen, frozen_since, dead, dead_since, removed_at, unusable, grant_ends_at, grant_ages = row[18:26]
    trouble = _UNTROUBLED
    if tuple(row[31:]) != _NO_TROUBLE:
        reason, *others = row[31:]
        others[6] = bool(others[6])
        trouble = Trouble(None if reason is None else Reason.stored(reason), *others)
    values = (
        *row[:18],
        None if frozen is None else Reason.stored(frozen),
        frozen_since,
        None if dead is None else Reason.stored(dead),
        dead_since,
        removed_at,
        None if row[26] is None else Intent(*row[26:31]),
        trouble,
        bool(unusable),
        grant_ends_at,
        bool(grant_ages),
    )
    return Account(*values)


def is_damaged(account: Account) -> bool:
    """Return whether the account's row is damaged and that is not noted yet, so that it has no `dead_since`."""
    return account.dead is Reason.RECORD_DAMAGED and account.dead_since is None


def damaged_columns(row: Row) -> list[str]:
    """Return the columns of a damaged row that have an invalid value."""
    return [column for column, value in zip(_ALL, row, strict=True) if _legal(column, value) != value]


def changed_values(account: Account, columns: Collection[str]) -> dict[str, object]:
    """Return the values to store for these damaged columns, and for the columns that end a renewal or an account.

    A damaged encrypted token is deleted.
    """
    changed = {*columns, *_INTENT, "dead", "dead_since", "removed_at"}
    values = {
        column: value for column, value in zip(_ALL, to_values(account), strict=True) if column in changed
    }
    return values | dict.fromkeys(changed & {"sealed_access", "sealed_refresh"})


@lru_cache(1024)
def _fit(types: Sequence[type]) -> bool:
    found = dict(zip(_ALL, types, strict=True))
    intent = {found[column] for column in ("intent_generation", "intent_at", "lease_until")}
    return all(type_ in _types(column) for column, type_ in found.items()) and not (
        found["intent_id"] is str and type(None) in intent
    )


def _types(column: str) -> tuple[type, ...]:
    if column in _COUNTS:
        return int, type(None)
    return (float, int, type(None)) if column in _TIMES else (str, type(None))


def _legal(column: str, value: Any) -> object:
    """Return the value if it is valid in the column, or else a valid replacement."""
    if value is None or column not in _COUNTS | _TIMES:
        return text(value)
    if type(value) in _types(column) and 0 <= value <= LATEST:
        return value
    if column in {"epoch", "generation"}:
        # Higher than every real one, because a lower one would look like an old copy of the store.
        return LATEST
    return 0 if column in _COUNTS else 0.0 if column in _NEEDED_TIMES else None


def to_values(account: Account) -> tuple[object, ...]:
    """Return the values of `COLUMNS` for an account."""
    own = (int(value) if isinstance(value, bool) else value for value in _own_values(account))
    intent = (None,) * len(_INTENT) if account.intent is None else values_of(account.intent)
    return (*own, *intent, *values_of(account.trouble))


class GatheredReads:
    """Reads accounts, combining requests that arrive in one turn of the event loop or during another read."""

    def __init__(self, read: Callable[..., Awaitable[list[Account]]], *, shared: bool) -> None:
        self._read = read
        """Reads accounts, given a statement and its values."""
        self._shared = shared
        """True if the database does several reads at the same time, so that no request waits for another read."""
        self._asked: dict[str, list[asyncio.Future[Account | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_scheduled = False
        """True if a task is about to read the accounts in `_asked`."""

    async def account(self, name: str) -> Account | None:
        """Read the account of that name; None if there is none. Raises StorageUnavailable."""
        asked: asyncio.Future[Account | None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(name, []).append(asked)
        if not self._is_scheduled:
            self._is_scheduled = True
            task = asyncio.create_task(self._read_all(), name="store-reader")
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        return await asked

    async def _read_all(self) -> None:
        while self._asked:
            names = list(self._asked)[:MOST_NAMES]
            asked = {name: self._asked.pop(name) for name in names}
            self._is_scheduled = not self._shared or bool(self._asked)
            await self._read_names(asked)
        self._is_scheduled = False

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            # A loop that breaks down cancels every task, and no caller may wait for ever.
            self._is_scheduled = False
            left, self._asked = self._asked, {}
            _answer(left, {}, closed())

    async def _read_names(self, asked: "_Asked") -> None:
        names = list(asked)
        size = next(size for size in SIZES if size >= len(names))
        try:
            rows = await self._read(BY_NAMES[size], *names, *names[-1:] * (size - len(names)))
        except Exception as exc:  # noqa: BLE001 - it is raised where it was asked for
            if len(asked) == 1 or isinstance(exc, StorageUnavailable):
                _answer(asked, {}, exc)
                return
            # One name is at fault; requests for the others must not get its error.
            for name, futures in asked.items():
                await self._read_names({name: futures})
        except asyncio.CancelledError:
            _answer(asked, {}, closed())
            raise
        else:
            _answer(asked, {account.name: account for account in rows})


def _answer(asked: "_Asked", found: Mapping[str, Account], error: Exception | None = None) -> None:
    for name, futures in asked.items():
        for future in futures:
            answer(future, found.get(name), error)
