"""How an account lies in its row, and how an event does."""

from dataclasses import fields

from broker.model import Account, Event, EventKind, Intent, Reason, Status, Trouble
from broker.store.database import Row, Transaction

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
    "grant_ends_at",
)
_STATE = ("frozen", "frozen_since", "dead", "dead_since", "removed_at", "unusable", "grant_ages")
_INTENT = ("intent_id", "intent_generation", "intent_at", "lease_owner", "lease_until")
_TROUBLE = ("trouble", "trouble_since", "attempts", "not_before", "ambiguous", "refusals", "first_refused_at")
_ALL = (*_PLAIN, *_STATE, *_INTENT, *_TROUBLE)

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

assert {field.name for field in fields(Account)} == {*_PLAIN, *_STATE, "intent", "trouble"}  # noqa: S101 - a new field must get a column


def to_account(row: Row) -> Account:
    """The account of one row of `COLUMNS`."""
    values = dict(zip(_ALL, row, strict=True))
    plain = {name: values[name] for name in _PLAIN}
    return Account(
        **plain,
        frozen=_reason(values["frozen"]),
        frozen_since=values["frozen_since"],
        dead=_reason(values["dead"]),
        dead_since=values["dead_since"],
        removed_at=values["removed_at"],
        unusable=bool(values["unusable"]),
        grant_ages=bool(values["grant_ages"]),
        intent=None if values["intent_id"] is None else Intent(*(values[name] for name in _INTENT)),
        trouble=Trouble(_reason(values["trouble"]), *(values[name] for name in _TROUBLE[1:])),
    )


def to_values(account: Account) -> tuple[object, ...]:
    """The values of `COLUMNS` for an account."""
    intent, trouble = account.intent, account.trouble
    return (
        *(getattr(account, name) for name in _PLAIN),
        account.frozen,
        account.frozen_since,
        account.dead,
        account.dead_since,
        account.removed_at,
        int(account.unusable),
        int(account.grant_ages),
        *((intent.id, intent.generation, intent.at, intent.owner, intent.until) if intent else (None,) * 5),
        *trouble_values(trouble),
    )


def trouble_values(trouble: Trouble) -> tuple[object, ...]:
    """The values of the seven trouble columns."""
    return tuple(getattr(trouble, field.name) for field in fields(Trouble))


def _reason(word: str | None) -> Reason | None:
    return None if word is None else Reason(word)


async def insert_events(transaction: Transaction, events: "tuple[Event, ...] | list[Event]") -> None:
    """Append events within somebody's transaction, so that a change and its event are one.

    Numbers are given in the order of the commits: whoever has read up to one has missed none below it.
    """
    for event in events:
        await transaction.execute("UPDATE event_ids SET last = last + 1")
        await transaction.execute(
            """INSERT INTO events (id, at, event, account, provider, reason, generation, subject, due_at)
               SELECT last, $1, $2, $3, $4, $5, $6, $7, $8 FROM event_ids""",
            event.at,
            event.kind,
            event.account,
            event.provider,
            event.reason,
            event.generation,
            event.subject,
            event.due_at,
        )


def to_event(row: Row) -> Event:
    """The event of a row (id, at, event, account, provider, reason, generation, subject, due_at)."""
    id_, at, kind, account, provider, reason, generation, subject, due_at = row
    return Event(at, EventKind(kind), account, provider, reason, generation, id_, subject, due_at)
