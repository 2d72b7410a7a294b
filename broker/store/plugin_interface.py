"""The contract of the store of what clients that sign in to us were given; as `interface.py`."""

from collections.abc import Sequence
from typing import Protocol

from broker.model import (
    ConnectCode,
    Event,
    FoundPair,
    PluginCode,
    PluginConsent,
    PluginGrant,
    PluginPair,
    RememberedPerson,
)


class PeopleStore(Protocol):
    """Who has just said yes to a client in this browser."""

    async def take_person(self, person_hash: str, now: float) -> str | None:
        """The person's subject, once and in time."""
        ...

    async def join_account(self, browser_hash: str, subject: str, account: str, at: float) -> None:
        """The account was connected in the same install as the grant that the person, taken in this browser,
        gave: note it there, and end the grants of earlier installs of the same account."""
        ...


class PluginStore(Protocol):
    """What clients that sign in to us were given. Everything that may be had once is taken by one statement."""

    async def begin_consent(self, consent: PluginConsent) -> None: ...

    async def claim_consent(self, consent: PluginConsent) -> bool:
        """Store a question that a browser kept so far. False: that was done before, whatever became of it."""
        ...

    async def is_claimed(self, consent_hash: str) -> bool:
        """Whether `claim_consent` has stored the question, even if it was answered since."""
        ...

    async def consent(self, consent_hash: str, now: float) -> PluginConsent | None:
        """A question that is still open."""
        ...

    async def deny(self, consent_hash: str, now: float) -> bool:
        """Close the question. False: it was closed already."""
        ...

    async def allow(
        self,
        consent_hash: str,
        code: PluginCode,
        person: RememberedPerson,
        *,
        connect_code: str | None,
        now: float,
    ) -> bool:
        """Close the question, spend the connect code of that handle, and store what came of it, all in one.
        False: the question was closed already, or the connect code is spent; then nothing was issued."""
        ...

    async def add_connect_code(self, code: ConnectCode) -> bool:
        """False: the handle is taken."""
        ...

    async def try_connect_code(
        self, consent_hash: str, handle: str, digest: str, now: float
    ) -> ConnectCode | None:
        """The connect code, unspent; None counts a wrong try against it and against the question, and the fifth
        ends either."""
        ...

    async def code(self, code_hash: str) -> PluginCode | None: ...

    async def redeem(self, grant: PluginGrant, pair: PluginPair, events: Sequence[Event]) -> bool:
        """Spend the grant's code and store what it gave. False: it was spent already, or is too old."""
        ...

    async def by_refresh_token(self, refresh_hash: str) -> FoundPair | None: ...

    async def by_access_token(self, access_hash: str) -> FoundPair | None: ...

    async def rotate(self, old: str, pair: PluginPair, sealed: str) -> bool:
        """Let `pair` follow the one of the refresh hash `old`, with the new tokens `sealed` for a replay.
        False: it has a successor already, or the grant was revoked."""
        ...

    async def note_use(self, pair: PluginPair, at: float) -> None:
        """One of the pair's tokens was presented."""
        ...

    async def revoke(self, grant_id: str, at: float, events: Sequence[Event]) -> bool:
        """End a grant and forget its tokens. False: it had ended already."""
        ...

    async def grant(self, grant_id: str) -> PluginGrant | None: ...

    async def grants(self, *, subject: str | None, now: float, after: str, limit: int) -> list[PluginGrant]:
        """Living grants in the order of their ids."""
        ...
