"""How an account lies in its row, and how an event does."""

from dataclasses import fields
from operator import attrgetter

from broker.model import Account, Event, EventKind, Intent, Reason, Status, Trouble
from broker.store.database import Row, Transaction

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
PLACEHOLDERS = ", ".join(f"${number}" for number in range(1, len(_ALL) + 1))
ASSIGNMENTS = ", ".join(f"{column} = ${number}" for number, column in enumerate(_ALL, 1))
WIDTH = len(_ALL)

STATUS_SQL = f"""CASE
  WHEN dead IS NOT NULL THEN '{Status.NEEDS_REAUTHORIZATION}'
  WHEN frozen IS NOT NULL THEN '{Status.FROZEN}'
  WHEN ambiguous > 0 THEN '{Status.UNCERTAIN}'
  WHEN trouble IS NOT NULL AND trouble <> '{Reason.REJECTED}' THEN '{Status.REFRESH_FAILING}'
  ELSE '{Status.ACTIVE}' END"""

TROUBLED_SQL = "dead IS NOT NULL OR frozen IS NOT NULL OR ambiguous > 0 OR trouble IS NOT NULL"
"""The condition of the indexes of accounts that are not simply active."""

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


async def insert_events(transaction: Transaction, events: "tuple[Event, ...] | list[Event]") -> None:
    """Append events within somebody's transaction, so that a change and its event are one.

    Numbers are given in the order of the commits: whoever has read up to one has missed none below it.
    """
    for event in events:
        await transaction.execute("UPDATE event_ids SET last = last + 1")
        await transaction.execute(
            """INSERT INTO events (id, at, event, account, provider, reason, generation, subject, due_at, detail, actor)
               SELECT last, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM event_ids""",
            event.at,
            event.kind,
            event.account,
            event.provider,
            event.reason,
            event.generation,
            event.subject,
            event.due_at,
            event.detail,
            event.actor,
        )


def to_event(row: Row) -> Event:
    """The event of a row, whose columns are in the order of `EVENT`."""
    id_, at, kind, *named = row
    account, provider, reason, generation, subject, due_at, detail, actor = named
    return Event(
        at, EventKind.stored(kind), account, provider, reason, generation, id_, subject, due_at, detail, actor
    )
