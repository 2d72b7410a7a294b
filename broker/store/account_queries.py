"""Queries that list accounts, and the statements for them."""

from dataclasses import dataclass

from broker.model import Status
from broker.store.rows import COLUMNS, STATUS_SQL, TROUBLED_SQL

SEARCHED = """
lower(name || ' ' || COALESCE(label, '') || ' ' || COALESCE(subject, '') || ' ' || COALESCE(external_id, ''))"""


@dataclass(frozen=True, slots=True)
class AccountQuery:
    """Conditions of the accounts to list, in the order of their names."""

    provider: str | None = None
    status: Status | None = None
    subject: str | None = None
    expiring_before: float | None = None
    search: str | None = None
    """Part of a name, label, subject or provider id, case-insensitive."""
    after: str = ""
    """List names greater than this one: where the previous page ended."""
    low: str = ""
    """The lowest name to list; `high` is the highest."""
    high: str = "~"
    limit: int = 100
    removed: bool = False


@dataclass(frozen=True, slots=True)
class AccountGroup:
    """The number of accounts with the same provider, status, use and time of expiry; removed ones are left out."""

    provider: str
    status: Status
    is_used: bool
    """True if they were used since the given time."""
    span: int
    """The number of the time span since the epoch in which their access tokens expire."""
    count: int
    first_expiry: float


_Condition = tuple[str, object]
"""A condition with braces for its value. It is left out if the value is None."""


def find_sql(query: AccountQuery) -> tuple[str, list[object]]:
    """Return the statement that reads the accounts of a query, and the values for it."""
    conditions: list[_Condition] = [
        *_by_index(query),
        ("(removed_at IS NULL) = (CAST({} AS BIGINT) = 0)", int(query.removed)),
        ("provider = {}", query.provider),
        (f"{STATUS_SQL} = {{}}", query.status),
        ("expires_at <= {}", query.expiring_before),
        (f"{SEARCHED} LIKE {{}} ESCAPE '!'", None if query.search is None else _like(query.search)),
    ]
    return _select(COLUMNS, conditions, query.limit)


def reach_sql(query: AccountQuery, rows: int) -> tuple[str, list[object]]:
    """Return the statement that counts the rows an index finds for a query, up to `rows`, and the values for it."""
    names, values = _select("name", _by_index(query), rows)
    return f"SELECT COUNT(*), MAX(name) FROM ({names}) AS page", values


def _by_index(query: AccountQuery) -> list[_Condition]:
    """Return the conditions that an index answers in the order of the names."""
    indexed: _Condition = "subject = {}", query.subject
    if query.subject is None and query.status is not Status.ACTIVE:
        indexed = f"({TROUBLED_SQL}) AND {STATUS_SQL} = {{}}", query.status
    # Only one lower bound: given two, the database might use the worse one for the index.
    least = ("name > {}", query.after) if query.after >= query.low else ("name >= {}", query.low)
    return [indexed, least, ("name <= {}", query.high)]


def _select(columns: str, conditions: list[_Condition], limit: int) -> tuple[str, list[object]]:
    counting = [(text, value) for text, value in conditions if value is not None]
    where = " AND ".join(text.format(f"${number}") for number, (text, _) in enumerate(counting, 1))
    sql = f"SELECT {columns} FROM accounts WHERE {where} ORDER BY name LIMIT ${len(counting) + 1}"
    return sql, [*(value for _, value in counting), limit]


def _like(search: str) -> str:
    """Return a LIKE pattern that finds the text itself, with its wildcards escaped."""
    plain = search.lower().replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"%{plain}%"
