"""The contract of the stores, in prose and types; `tests/store` runs one suite over every implementation.

Every method raises StorageUnavailable when the store cannot do its work just now. A write that returned is
durable. Writes conditioned on a `Ref` change something only while the row still stands at that epoch and
generation, and say whether they did; nothing ever overwrites another generation. Ciphertext is opaque here.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.model import (
    Account,
    CallerKey,
    CallerRecord,
    Event,
    InstallOutcome,
    Intent,
    PendingGrant,
    PendingInstall,
    PendingLogin,
    Reason,
    Ref,
    Spare,
    Status,
    Successor,
    Ticket,
    Trouble,
)


@dataclass(frozen=True, slots=True)
class Committed:
    """The successor is durable and current."""


@dataclass(frozen=True, slots=True)
class GenerationMoved:
    """Another renewal of the same grant won; ours was not written."""


@dataclass(frozen=True, slots=True)
class EpochMoved:
    """The person connected again, or the name was purged; ours belongs to a grant that is gone."""


CommitOutcome = Committed | GenerationMoved | EpochMoved


class TicketSpent(Exception):
    """The install's ticket has connected an account already, or a newer link took its place."""


class IdentityTaken(Exception):
    """Another account has the identity at the provider; the message is its name."""


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


class RefreshStore(Protocol):
    """What renewing a token needs of the store."""

    async def get(self, name: str) -> Account | None:
        """The row of that name, removed ones included."""
        ...

    async def begin(self, ref: Ref, intent: Intent) -> bool:
        """R3: write the intent, which is the lease. False unless the row stands at `ref`, is neither dead, frozen
        nor removed, and no other process holds a lease that has not run out."""
        ...

    async def commit(self, successor: Successor, events: Sequence[Event]) -> CommitOutcome:
        """R6: make the successor current: generation + 1, intent, lease and trouble cleared, death undone.

        Conditioned on the parent alone, not on the lease; removed rows take it too."""
        ...

    async def settle(
        self,
        ref: Ref,
        *,
        trouble: Trouble,
        keep_intent: bool,
        dead: Reason | None,
        next_at: float | None,
        at: float,
        events: Sequence[Event],
        intent: str | None = None,
        free_after: float | None = None,
    ) -> bool:
        """Note how an attempt on `ref` ended without a new token. `dead` ends the account.

        `intent` is the one that must stand there, "" for none: somebody else's attempt is not settled with ours.
        `free_after`: where the intent is kept, its lease is nobody's from now on, and may be had after so many
        seconds (R7's quarantine)."""
        ...

    async def take_over(self, owner: str, at: float, *, replica: str | None = None) -> list[Account]:
        """R10: make the leases of earlier boots ours; the accounts whose renewal they left open, newest first.

        Each of these counts as one ambiguous attempt. `replica`: of that one's earlier boots alone; without it
        all are, which is for a store that this process owns alone."""
        ...

    async def orphaned(self, ref: Ref, intent: str, owner: str, *, at: float, not_before: float) -> bool:
        """Count an attempt whose outcome nobody noted as ambiguous, and free its lease: one of `owner`, or one whose
        lease has run out. False where it is another's and has not, or something else stands there."""
        ...

    async def due(self, now: float, limit: int, *, claim_until: float | None = None) -> list[Account]:
        """Accounts whose `next_at` has come, the earliest first; by index, never a scan. With `claim_until` they
        are due again only then: of several brokers each looks after other accounts."""
        ...

    async def next_due_at(self) -> float | None:
        """The earliest `next_at` of all."""
        ...

    async def schedule(self, ref: Ref, next_at: float | None) -> None:
        """Set when the background looks at the account again."""
        ...

    async def shift_times(self, by: float, *, since: float, until: float) -> None:
        """The clock was set by `by` seconds: move what was noted from `since` to `until` along with it."""
        ...

    async def make_due(self, now: float, *, issued_after: float, paused_until: float) -> None:
        """Let the background look now at accounts whose token was issued later than that, or that wait for longer
        than that: their times were noted by a wrong clock."""
        ...

    async def newest_at(self) -> float | None:
        """When the store was last written to, as far as renewals and events say; None: never."""
        ...

    async def touch(
        self, uses: Mapping[str, tuple[float, float]], callers: Mapping[tuple[str, str], float]
    ) -> None:
        """Note by name when accounts were last handed out, and bring their next look forward to the second
        number: what is used is renewed when its window opens, not only before it would die of idleness.
        `callers`: when each (account, caller) was last served."""
        ...

    async def is_only_account(self, provider: str) -> bool:
        """Whether the provider has one account at most, removed ones left out."""
        ...

    async def add_spare(self, spare: Spare) -> None:
        """Keep a refresh token that is not current; it reopens a dead account. Adding the same id twice keeps one."""
        ...

    async def spares(self, name: str, epoch: int) -> list[Spare]:
        """Spares of that grant, newest first."""
        ...

    async def refuse_spare(self, spare_id: str) -> None:
        """Note that the provider refused it."""
        ...

    async def drop_spare(self, spare_id: str) -> None:
        """Forget a spare that was tried or whose grant is gone."""
        ...


class AccountStore(RefreshStore, Protocol):
    """What looking after accounts needs besides."""

    async def find(self, query: AccountQuery) -> list[Account]:
        """The first accounts of a query, `limit` at most; it may have to read any number of rows for them."""
        ...

    async def reach(self, query: AccountQuery, rows: int) -> tuple[int, str]:
        """How many rows `find` has to read for the query, counted up to so many, and the last one's name."""
        ...

    def groups(self, *, used_since: float, span: float) -> AsyncIterator[AccountGroup]:
        """All accounts by what they are alike in; a group comes again for every page of the table."""
        ...

    async def damaged(self, limit: int) -> list[str]:
        """Accounts whose refresh token could not be decrypted when it was needed, by name."""
        ...

    async def oldest_intent_at(self) -> float | None:
        """When the oldest renewal without an outcome was begun."""
        ...

    async def users(self, name: str) -> list[tuple[str, float]]:
        """Which callers were handed the account's tokens, and when last; the latest first."""
        ...

    async def by_identity(self, provider: str, external_id: str) -> Account | None:
        """The account, not removed, that belongs to that identity."""
        ...

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
        ...

    async def doubles(self, limit: int) -> list[tuple[str, str]]:
        """Pairs of accounts that share one identity since before that was refused."""
        ...

    async def identify(
        self,
        ref: Ref,
        *,
        external_id: str | None,
        label: str | None,
        at: float,
        grant: str,
    ) -> bool:
        """Pin a late identity to the grant `ref` belongs to (whatever its generation), and forget `grant`. False:
        another account has the identity, so this one was frozen as its duplicate."""
        ...

    async def freeze(self, name: str, reason: Reason | None, at: float, events: Sequence[Event] = ()) -> bool:
        """Freeze with a reason, or unfreeze with None. False: no such account."""
        ...

    async def relabel(self, name: str, *, label: str | None, subject: str | None) -> bool: ...

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
        ...

    async def remove(self, name: str, at: float, events: Sequence[Event]) -> bool: ...

    async def restore(self, name: str, since: float, at: float, events: Sequence[Event] = ()) -> bool:
        """Undo a removal that is not older than `since`. Raises IdentityTaken."""
        ...

    async def purge(self, name: str, name_hash: str) -> bool:
        """Forget the row, its spares, events, tickets and installs, but for its last epoch and generation under
        `name_hash`."""
        ...

    async def scrub(self) -> bool:
        """Take what was purged out of the store's files too. False: it could not be done just now; ask again."""
        ...

    async def purged(self, name_hash: str) -> tuple[int, int] | None:
        """Last epoch and generation of a purged name."""
        ...

    async def removed_before(self, at: float, limit: int) -> list[str]: ...


class InstallStore(Protocol):
    """Tickets, trips to a provider, grants that wait for their identity, sign-ins under way."""

    async def add_ticket(self, ticket: Ticket) -> None:
        """One live ticket an account: an older one of the same account is forgotten."""
        ...

    async def ticket(self, ticket_hash: str) -> Ticket | None: ...

    async def begin_install(self, install: PendingInstall) -> None:
        """Store an install. Of one ticket only the newest 32 that have not come back are kept."""
        ...

    async def claim_install(self, install: PendingInstall) -> bool:
        """Store an install that a browser kept so far, with its state taken. False: that was done before."""
        ...

    async def install(self, state_hash: str) -> PendingInstall | None:
        """The install; one whose grant waits for its identity has the outcome IDENTITY_PENDING."""
        ...

    async def take_install(self, state_hash: str, at: float) -> bool:
        """Take the state, once: True for exactly one caller, also under a race and after a restart."""
        ...

    async def hold_grant(self, grant: PendingGrant) -> None:
        """Seal a new grant durably with its install, before anything else is asked."""
        ...

    async def held_grants(
        self, due_before: float, limit: int, *, claim_until: float | None = None
    ) -> list[PendingGrant]:
        """Grants whose identity is to be asked for again; `claim_until` as for `due`."""
        ...

    async def retry_grant(self, state_hash: str, next_at: float | None) -> None: ...

    async def finish_install(
        self,
        state_hash: str,
        outcome: InstallOutcome,
        *,
        account: str | None,
        spend: bool,
        drop_grant: bool,
        at: float,
    ) -> None:
        """Note how the trip ended; `spend` its ticket; `drop_grant` forgets the held tokens."""
        ...

    async def begin_login(self, login: PendingLogin) -> None: ...

    async def take_login(self, challenge_hash: str, now: float) -> PendingLogin | None:
        """Take a sign-in, once, while it has not expired."""
        ...

    async def logins(self, purpose: str, challenge_hash: str | None = None) -> list[PendingLogin]:
        """Those of one purpose, all or the one with that hash, also expired ones; they stay."""
        ...

    async def end_logins(self, purpose: str, challenge_hash: str | None = None) -> int:
        """Forget them; how many they were."""
        ...

    async def claim(self, hash_: str, expires_at: float) -> bool:
        """Use up, once, something that a browser kept for us: True for exactly one caller until it is purged."""
        ...

    async def purge_expired(self, before: float, limit: int) -> int:
        """Forget what ended before; at most `limit` of each kind. How many it were."""
        ...


class CallerStore(Protocol):
    """Callers with keys."""

    async def add_caller(self, caller: CallerRecord, key: CallerKey) -> bool:
        """False: the name is taken."""
        ...

    async def add_key(self, key: CallerKey, *, expire_others_at: float) -> bool:
        """Give a caller another key; its others work until `expire_others_at` at the longest, at most one of them.
        False: no such caller."""
        ...

    async def callers(self) -> list[CallerRecord]: ...

    async def by_key(self, key_id: str) -> tuple[CallerRecord, CallerKey] | None: ...

    async def remove_caller(self, name: str) -> bool: ...

    async def touch_keys(self, uses: Mapping[str, float]) -> None: ...

    async def touch_callers(self, uses: Mapping[str, float]) -> None:
        """When callers that the configuration names were last used, by name."""
        ...

    async def caller_uses(self) -> dict[str, float]: ...


class EventStore(Protocol):
    """What happened, in order."""

    async def add_events(self, events: Sequence[Event]) -> None: ...

    async def events(self, after: int, limit: int, account: str | None = None) -> list[Event]: ...

    async def last_events(self, limit: int, account: str | None = None) -> list[Event]: ...

    async def event_bounds(self) -> tuple[int, int]:
        """The newest id that was ever given, and the newest of those that were purged for their age."""
        ...

    async def purge_events(self, before: float, limit: int) -> int: ...
