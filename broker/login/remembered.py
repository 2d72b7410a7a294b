"""Who has just been asked in this browser: the second half of an install does not ask again."""

import structlog

from broker import oauth
from broker.clock import Clock
from broker.errors import StorageUnavailable
from broker.model import Secret
from broker.store.plugin import PluginStore

log = structlog.get_logger()


class RememberedPeople:
    """People who said yes to a client minutes ago; each is good for one install."""

    def __init__(self, *, store: PluginStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    async def take(self, person: Secret | None) -> str | None:
        """Who it is, once; None where nobody is remembered, or it was too long ago."""
        if person is None:
            return None
        return await self._store.take_person(oauth.hashed(person), self._clock.now())

    async def connected(self, browser_hash: str, subject: str | None, account: str | None) -> None:
        """The install of whoever was taken in this browser has connected an account."""
        if subject is None or account is None:
            return
        try:
            await self._store.join_account(browser_hash, subject, account, self._clock.now())
        except StorageUnavailable:
            # The account is connected, and that counts.
            log.warning("install.halves_not_joined", account=account)
