"""What accounts can be listed by, and the statements that list them."""

from dataclasses import dataclass

from broker.model import Status
from broker.store.rows import COLUMNS, STATUS_SQL, TROUBLED_SQL

SEARCHED = """
lower(name || ' ' || COALESCE(label, '') || ' ' || COALESCE(subject, '') || ' ' || COALESCE(external_id, ''))"""


@dataclass(frozen=True, slots=True)
class AccountQuery:
    """Which accounts to list, in the order of their names."""

    provider: str | None = None
    status: Status | None = None
    subject: str | None = None
    expiring_before: float | None = None
    search: str | None = None
    """Part of a name, a label, a subject or the provider's id, in any case."""
    after: str = ""
    """Names greater than this one."""
    low: str = ""
    """The least name, and the greatest."""
    high: str = "~"
    limit: int = 100
    removed: bool = False


@dataclass(frozen=True, slots=True)
class AccountGroup:
    """Accounts that are alike, removed ones left out."""

    provider: str
    status: Status
    is_used: bool
    """Whether they were used since the time that was asked for."""
    span: int
    """Their access tokens end in the n-th span of the epoch."""
    count: int
    first_expiry: float


_Condition = tuple[str, object]
"""A condition with braces for its value; one whose value is None does not count."""


def find_sql(query: AccountQuery) -> tuple[str, list[object]]:
    """Return the statement that reads the accounts of a query, and its values."""
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
    """Return the statement that counts the rows that an index leaves for a query, up to so many."""
    names, values = _select("name", _by_index(query), rows)
    return f"SELECT COUNT(*), MAX(name) FROM ({names}) AS page", values


def _by_index(query: AccountQuery) -> list[_Condition]:
    """The conditions for which an index says which rows they leave, in the order of the names."""
    indexed: _Condition = "subject = {}", query.subject
    if query.subject is None and query.status is not Status.ACTIVE:
        indexed = f"({TROUBLED_SQL}) AND {STATUS_SQL} = {{}}", query.status
    # One bound each: of two an index would take either.
    least = ("name > {}", query.after) if query.after >= query.low else ("name >= {}", query.low)
    return [indexed, least, ("name <= {}", query.high)]


def _select(columns: str, conditions: list[_Condition], limit: int) -> tuple[str, list[object]]:
    """The statement that reads the first rows in the order of the names, and its values."""
    counting = [(text, value) for text, value in conditions if value is not None]
    where = " AND ".join(text.format(f"${number}") for number, (text, _) in enumerate(counting, 1))
    sql = f"SELECT {columns} FROM accounts WHERE {where} ORDER BY name LIMIT ${len(counting) + 1}"
    return sql, [*(value for _, value in counting), limit]


def _like(search: str) -> str:
    """A pattern for LIKE that holds the text itself, whatever is in it."""
    plain = search.lower().replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"%{plain}%"
