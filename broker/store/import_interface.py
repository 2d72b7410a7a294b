"""The contract of what moving grants from and to other systems needs of the store; as in `interface.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.model import Account, Event, Reason, Ref


@dataclass(frozen=True, slots=True)
class Added:
    """The imported grant is durable, under its name."""


@dataclass(frozen=True, slots=True)
class NameTaken:
    """The row of that name is not the one that was expected, or no longer removed."""


@dataclass(frozen=True, slots=True)
class GrantHeld:
    """The same grant was imported under another name; two accounts of one grant would kill it."""

    by: str


AddOutcome = Added | NameTaken | GrantHeld


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """What an account was imported with."""

    epoch: int
    generation: int
    """The account's, before the first renewal here."""
    grant_hash: str
    """Keyed hash of the refresh token in the import."""


class ImportStore(Protocol):
    """What moving grants from and to other systems needs."""

    async def add(
        self,
        account: Account,
        *,
        expected: Ref | None,
        next_at: float | None,
        grant_hash: str,
        events: Sequence[Event],
    ) -> AddOutcome:
        """Make `account` the row of its name, and remember its grant, in one transaction. `expected` is the removed
        row that it replaces, None where there was none."""
        ...

    async def record(self, name: str) -> ImportRecord | None:
        """What the account of that name was imported with, maybe in an earlier epoch."""
        ...

    async def freeze_idle(self, ref: Ref, reason: Reason, at: float, events: Sequence[Event] = ()) -> bool:
        """Freeze the account while it stands at `ref` and no renewal of it is under way anywhere, nor its outcome
        unknown. One statement: a renewal that comes later is refused by the frozen row."""
        ...
