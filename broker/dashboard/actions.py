"""What an operator does at the dashboard; each is confirmed on the page, and audited under the operator's name."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from broker.accounts.service import AccountService
from broker.admin.overview import Overview
from broker.clock import Clock
from broker.errors import BrokerError, NotFound
from broker.installs.service import InstallService
from broker.model import Caller
from broker.times import span
from broker.tokens.service import TokenService
from broker.wire import rfc3339


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it, in a sentence; perhaps a link to send."""

    sentence: str
    good: bool = True
    link: str | None = None
    gone: bool = False
    """There is no account page to show any more."""


class Actions:
    """Renew, freeze, unfreeze, remove, restore, reconnect; and close a breaker."""

    def __init__(
        self,
        *,
        accounts: AccountService,
        tokens: TokenService,
        installs: InstallService,
        overview: Overview,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._accounts, self._tokens, self._installs, self._overview = accounts, tokens, installs, overview
        self._by_word: Mapping[str, Callable[[Caller, str, str], Awaitable[Done]]] = {
            "renew": self._renew,
            "freeze": self._freeze,
            "unfreeze": self._unfreeze,
            "remove": self._remove,
            "restore": self._restore,
            "reconnect": self._reconnect,
        }

    async def act(self, actor: Caller, name: str, word: str, *, request_id: str) -> Done:
        """Do it; what the broker refuses is told, not raised. Raises NotFound for a word that is none."""
        action = self._by_word.get(word)
        if action is None:
            raise NotFound
        try:
            return await action(actor, name, request_id)
        except BrokerError as exc:
            return Done(exc.detail, good=False)

    async def resume(self, actor: Caller, provider: str, *, request_id: str) -> None:
        """Close a provider's breakers."""
        await self._overview.resume(actor, provider, request_id=request_id)

    async def _renew(self, actor: Caller, name: str, request_id: str) -> Done:
        handout = await self._tokens.override(actor, name, request_id=request_id)
        return Done(f"Renewed: generation {handout.account.generation}.")

    async def _freeze(self, actor: Caller, name: str, request_id: str) -> Done:
        account = await self._accounts.freeze(actor, name, request_id=request_id)
        left = account.expires_at - self._clock.now()
        if left < 1:
            return Done("Frozen: it is renewed no more, and its token has expired.")
        return Done(f"Frozen: it is renewed no more. Its token is handed out for another {span(left)}.")

    async def _unfreeze(self, actor: Caller, name: str, request_id: str) -> Done:
        await self._accounts.unfreeze(actor, name, request_id=request_id)
        return Done("It is renewed again.")

    async def _remove(self, actor: Caller, name: str, request_id: str) -> Done:
        await self._accounts.remove(actor, name, purge=False, revoke=False, request_id=request_id)
        return Done(f"{name} is removed. For 30 days it can be restored.", gone=True)

    async def _restore(self, actor: Caller, name: str, request_id: str) -> Done:
        await self._accounts.restore(actor, name, request_id=request_id)
        return Done("It is restored.")

    async def _reconnect(self, actor: Caller, name: str, request_id: str) -> Done:
        account = await self._accounts.show(actor, name, request_id=request_id)
        url, expires_at = await self._installs.create(
            actor,
            provider=account.provider,
            account=name,
            org=account.org,
            return_to=None,
            replace_identity=False,
            request_id=request_id,
        )
        until = rfc3339(expires_at)
        return Done(f"Send this link to the person; it works once, until {until}.", link=url)
