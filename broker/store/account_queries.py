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


def find_sql(query: AccountQuery) -> tuple[str, list[object]]:
    """Return the statement that reads the accounts of a query, and its values."""
    conditions = _by_index(query)
    conditions.add("(removed_at IS NULL) = (CAST({} AS BIGINT) = 0)", int(query.removed))
    if query.provider is not None:
        conditions.add("provider = {}", query.provider)
    if query.status is not None:
        conditions.add(f"{STATUS_SQL} = {{}}", query.status)
    if query.expiring_before is not None:
        conditions.add("expires_at <= {}", query.expiring_before)
    if query.search is not None:
        conditions.add(f"{SEARCHED} LIKE {{}} ESCAPE '!'", _like(query.search))
    return conditions.select(COLUMNS, query.limit)


def reach_sql(query: AccountQuery, rows: int) -> tuple[str, list[object]]:
    """Return the statement that counts the rows that an index leaves for a query, up to so many."""
    names, values = _by_index(query).select("name", rows)
    return f"SELECT COUNT(*), MAX(name) FROM ({names}) AS page", values


class _Conditions:
    """The conditions of a query of accounts, and their values."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._values: list[object] = []

    def add(self, text: str, value: object) -> None:
        self._values.append(value)
        self._texts.append(text.format(f"${len(self._values)}"))

    def select(self, columns: str, limit: int) -> tuple[str, list[object]]:
        """The statement that reads the first rows in the order of the names, and its values."""
        where, number = " AND ".join(self._texts), len(self._values) + 1
        sql = f"SELECT {columns} FROM accounts WHERE {where} ORDER BY name LIMIT ${number}"
        return sql, [*self._values, limit]


def _by_index(query: AccountQuery) -> _Conditions:
    """The conditions for which an index says which rows they leave, in the order of the names."""
    conditions = _Conditions()
    if query.subject is not None:
        conditions.add("subject = {}", query.subject)
    elif query.status not in {None, Status.ACTIVE}:
        conditions.add(f"({TROUBLED_SQL}) AND {STATUS_SQL} = {{}}", query.status)
    # One bound each: of two an index would take either.
    if query.after >= query.low:
        conditions.add("name > {}", query.after)
    else:
        conditions.add("name >= {}", query.low)
    conditions.add("name <= {}", query.high)
    return conditions


def _like(search: str) -> str:
    """A pattern for LIKE that holds the text itself, whatever is in it."""
    plain = search.lower().replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"%{plain}%"
