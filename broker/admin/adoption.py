"""`broker adopt`: an operator says that this copy of the store is the one that renews from now on."""

from collections.abc import Mapping

import structlog

from broker.callers.gate import Gate
from broker.clock import Clock
from broker.config.settings import ProviderSettings, Rotation
from broker.model import Account, Caller, Permission
from broker.observe.health import Health
from broker.store.incarnation import Ownership
from broker.store.interface import AccountQuery, AccountStore
from broker.tokens.permit import Permit
from broker.tokens.policy import window_opens

log = structlog.get_logger()
PAGE = 500
PROBLEM = "copied_store"


class Adoption:
    """The copied-store rule (R13), from start to adoption."""

    def __init__(
        self,
        *,
        incarnation: Ownership,
        accounts: AccountStore,
        permit: Permit,
        gate: Gate,
        clock: Clock,
        health: Health,
        settings: Mapping[str, ProviderSettings],
        ahead: float,
    ) -> None:
        self._incarnation, self._accounts, self._permit, self._gate = incarnation, accounts, permit, gate
        self._clock, self._health, self._settings, self._ahead = clock, health, settings, ahead

    async def begin(self) -> None:
        """At start: own the store, or notice that it is a copy."""
        if not await self._incarnation.is_copy():
            await self._incarnation.begin()
            return
        self._permit.copied_store = True
        self._health.raise_problem(
            PROBLEM, "the store is a copy or an old backup; nothing is renewed until `broker adopt`"
        )
        log.error("store.is_copy")

    async def look_again(self) -> None:
        """Another broker on the same database may have been told that it is the original."""
        if self._permit.copied_store and not await self._incarnation.is_copy():
            self._permit.copied_store = False
            self._health.clear(PROBLEM)
            log.warning("store.adopted_elsewhere")

    async def adopt(self, caller: Caller, *, request_id: str) -> list[str]:
        """Renew from this store from now on; the accounts that probably need their person again.

        These are the accounts of providers that rotate whose renewal was due since the copy was made: the
        original has probably used up their refresh token.
        """
        await self._gate.require(caller, Permission.ADMIN, None, request_id=request_id)
        doubtful = await self._doubtful() if self._permit.copied_store else []
        await self._incarnation.begin()
        self._permit.copied_store = False
        self._health.clear(PROBLEM)
        await self._gate.note(caller, "adopt", None, f"{len(doubtful)} doubtful", request_id=request_id)
        log.warning("store.adopted", doubtful=len(doubtful))
        return doubtful

    async def _doubtful(self) -> list[str]:
        names: list[str] = []
        after = ""
        while page := await self._accounts.find(AccountQuery(after=after, limit=PAGE)):
            names += [account.name for account in page if self._is_doubtful(account)]
            after = page[-1].name
        return names

    def _is_doubtful(self, account: Account) -> bool:
        settings = self._settings.get(account.provider)
        rotates = settings is None or settings.rotation is not Rotation.NONE
        return rotates and not account.dead and self._clock.now() >= window_opens(account, self._ahead)
