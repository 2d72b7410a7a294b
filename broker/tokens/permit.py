"""R1: may a renewal start just now? Never rotate what cannot be stored."""

from collections.abc import Callable, Mapping

from broker.config.settings import Rotation
from broker.model import Account, Reason
from broker.providers.oauth2 import OAuth2Provider
from broker.tokens.breakers import ProviderBreaker
from broker.tokens.policy import Hold, is_living, is_misdated, is_pausing
from broker.tokens.schedule import Timings, quarantine, waits_for_expiry

STORE_AGAIN = 2.0


class Permit:
    """Everything that may keep a renewal from starting, asked in one place."""

    def __init__(
        self,
        *,
        providers: Mapping[str, OAuth2Provider],
        timings: Timings,
        store_is_ready: Callable[[], bool],
    ) -> None:
        self._providers = providers
        self._timings = timings
        self._store_is_ready = store_is_ready
        self._breakers: dict[str, ProviderBreaker] = {}
        self._rejected: dict[str, int] = {}
        self.stopping = False
        self.copied_store = False
        """The database is a copy that nobody adopted (R13): serves, renews nothing."""

    def breaker(self, provider: str) -> ProviderBreaker:
        return self._breakers.setdefault(provider, ProviderBreaker(self._timings))

    def mass_refused(self, now: float) -> list[str]:
        """Providers that refuse so many accounts at once that their word is not taken."""
        return [name for name, breaker in self._breakers.items() if breaker.is_mass_dying(now)]

    def hold(self, account: Account, now: float) -> Hold | None:
        """Why this account may not be renewed at `now`; None where it may."""
        return self._broker_hold(now) or self._account_hold(account, now) or self._provider_hold(account, now)

    def enter(self, account: Account, now: float) -> Hold | None:
        """As `hold`, for whoever is about to send: takes the probe of an open breaker."""
        return self.hold(account, now) or self.breaker(account.provider).enter(account.name, now)

    def soonest(self, account: Account, now: float) -> float | None:
        """When an attempt that a person demands may be, None: at once. While the last request's answer is not known,
        the quarantine holds against everybody (R7)."""
        not_before = account.trouble.not_before
        if account.intent is None or not_before is None or not is_pausing(not_before, now):
            return None
        # How long the last attempt lies back is not kept; from now on, a whole quarantine is certainly enough.
        return min(
            not_before, now + quarantine(timed_out=True, grace=self.grace(account), timings=self._timings)
        )

    def note_rejection(self, account: Account) -> None:
        """A caller says that the provider's API refused this generation's access token."""
        self._rejected[account.name] = account.generation

    def is_rejected(self, account: Account) -> bool:
        """Whether a caller said so since the last answer to that."""
        return self._rejected.get(account.name) == account.generation

    def settle_rejection(self, account: Account) -> None:
        """The report was looked into."""
        self._rejected.pop(account.name, None)

    def resume(self) -> None:
        """Close every breaker, because a reload may have mended a refused client."""
        for breaker in self._breakers.values():
            breaker.resume()

    async def forget(self, name: str) -> None:
        """Remember nothing of an account that was purged."""
        self._rejected.pop(name, None)
        for breaker in self._breakers.values():
            breaker.forget(name)

    def shift(self, seconds: float) -> None:
        """The clock was set by so much; what is remembered was noted by the old time."""
        for breaker in self._breakers.values():
            breaker.shift(seconds)

    def rotation(self, account: Account) -> Rotation:
        provider = self._providers.get(account.provider)
        return provider.settings.rotation if provider else Rotation.FAMILY

    def grace(self, account: Account) -> float | None:
        provider = self._providers.get(account.provider)
        return provider.settings.grace if provider else None

    def _broker_hold(self, now: float) -> Hold | None:
        if self.stopping:
            return Hold(None, now + 1)
        if self.copied_store:
            return Hold(Reason.COPIED_STORE, None)
        if not self._store_is_ready():
            return Hold(Reason.STORAGE, now + STORE_AGAIN)
        return None

    def _account_hold(self, account: Account, now: float) -> Hold | None:
        if account.dead or account.frozen:
            return Hold(account.dead or account.frozen, None)
        not_before = account.trouble.not_before
        if is_pausing(not_before, now):
            reason = account.trouble.reason or Reason.PROVIDER_UNAVAILABLE
            return Hold(reason, not_before, detail=account.trouble.detail)
        if waits_for_expiry(
            self.rotation(account),
            account.trouble.ambiguous,
            living=is_living(account, now) and not is_misdated(account, now),
            rejected=self.is_rejected(account),
        ):
            reason = account.trouble.reason or Reason.UNCERTAIN
            return Hold(reason, account.expires_at, detail=account.trouble.detail)
        return None

    def _provider_hold(self, account: Account, now: float) -> Hold | None:
        return self.breaker(account.provider).hold(account.name, now)
