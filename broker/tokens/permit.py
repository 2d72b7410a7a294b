"""R1 and R9: may a renewal start just now? Never rotate what cannot be stored. No I/O; time is passed in."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from broker.config.settings import Rotation
from broker.model import Account, Reason, Ref
from broker.providers.oauth2 import OAuth2Provider
from broker.tokens.policy import Hold, is_living, is_misdated, is_pausing
from broker.tokens.schedule import Timings, quarantine, waits_for_expiry

STORE_AGAIN = 2.0
MASS_ACCOUNTS = 3
MASS_SHARE = 0.2
COUNTED_FOR = 24
"""Windows without a refusal after which a grant counts anew; retries come several times a window."""

_Times = OrderedDict[Ref, float]
"""When something was last said of each grant, the longest ago first."""


@dataclass(slots=True)
class ProviderBreaker:
    """The state of one provider, as its answers tell it: pause, client refusal and mass refusal (R9)."""

    timings: Timings
    paused_until: float = 0.0
    client_refused_since: float | None = None
    mass_since: float | None = None
    _refused: list[str] = field(default_factory=list)
    """Accounts whose client was refused since the last success, in order, each once."""
    _next_probe_at: float = 0.0
    _tried: _Times = field(default_factory=OrderedDict)
    _dying: _Times = field(default_factory=OrderedDict)
    """When each was first refused, until a window has passed since."""
    _counted: _Times = field(default_factory=OrderedDict)
    """When each was last refused: a grant that is refused again and again is not newly refused, and counts once."""

    def hold(self, account: str, now: float) -> Hold | None:
        """Why this account may not be renewed just now, as far as its provider goes."""
        if self.paused_until > now:
            return Hold(Reason.PROVIDER_PAUSED, self.paused_until)
        if self.client_refused_since is None:
            return None
        # Accounts that were not refused go first; a refused one may try if none of those turns up.
        probe_at = self._next_probe_at + (self.timings.probe / 5 if account in self._refused else 0.0)
        return Hold(Reason.CLIENT_REFUSED, probe_at) if now < probe_at else None

    def enter(self, account: str, now: float) -> Hold | None:
        """As `hold`, and where the breaker is open the caller's attempt is the probe: the next has to wait."""
        hold = self.hold(account, now)
        if hold is None and self.client_refused_since is not None:
            self._next_probe_at = now + self.timings.probe
        return hold

    def pause(self, until: float) -> None:
        """The provider wants to be left alone."""
        self.paused_until = max(self.paused_until, until)

    def client_refused(self, account: str, now: float, *, only_account: bool) -> bool:
        """Note a refusal of our client; True if that opened the breaker.

        Two different accounts in a row open it, or the only one twice: one alone may be an org that has not
        installed the app.
        """
        again = account in self._refused
        if not again:
            self._refused.append(account)
        self._next_probe_at = now + self.timings.probe
        if self.client_refused_since is not None or not (len(self._refused) >= 2 or (again and only_account)):
            return False
        self.client_refused_since = now
        return True

    def succeeded(self, ref: Ref, now: float) -> bool:
        """Note a success; True if that closed the client breaker."""
        was_open = self.client_refused_since is not None
        self.client_refused_since = None
        self._refused.clear()
        self._note(self._tried, ref, now)
        # Every renewal comes by here, and no refusal may ever come.
        self._forget_old(now)
        return was_open

    def refused(self, ref: Ref, now: float) -> bool:
        """Note `invalid_grant`; True if that opened the mass breaker: then nobody is declared dead."""
        self._note(self._tried, ref, now)
        if ref not in self._counted:
            self._note(self._dying, ref, now)
        self._note(self._counted, ref, now)
        self._forget_old(now)
        many = len(self._dying) >= MASS_ACCOUNTS and len(self._dying) > MASS_SHARE * len(self._tried)
        if not many or self.mass_since is not None:
            return False
        self.mass_since = now
        return True

    def is_mass_dying(self, now: float) -> bool:
        """Whether so many are refused that the provider's word is not taken.

        Closes one window after the last newly refused; those refused before are then believed at their next refusal.
        """
        self._forget_old(now)
        if not self._dying:
            self.mass_since = None
        return self.mass_since is not None

    def shift(self, seconds: float) -> None:
        """The clock was set by so much."""
        self.paused_until += seconds
        self._next_probe_at += seconds
        if self.client_refused_since is not None:
            self.client_refused_since += seconds
        if self.mass_since is not None:
            self.mass_since += seconds
        for times in (self._tried, self._dying, self._counted):
            times.update({ref: at + seconds for ref, at in times.items()})

    def forget(self, account: str) -> None:
        """Remember nothing of this account."""
        self._refused = [name for name in self._refused if name != account]
        for times in (self._tried, self._dying, self._counted):
            for ref in [ref for ref in times if ref.name == account]:
                del times[ref]

    def resume(self) -> None:
        """Close everything by hand."""
        self.paused_until, self.client_refused_since, self.mass_since = 0.0, None, None
        for remembered in (self._refused, self._tried, self._dying, self._counted):
            remembered.clear()

    def _note(self, times: _Times, ref: Ref, now: float) -> None:
        times[ref] = now
        times.move_to_end(ref)

    def _forget_old(self, now: float) -> None:
        window = self.timings.mass_window
        for times, kept in (
            (self._tried, window),
            (self._dying, window),
            (self._counted, COUNTED_FOR * window),
        ):
            while times and next(iter(times.values())) < now - kept:
                times.popitem(last=False)


class Permit:
    """Everything that may keep a renewal from starting, asked in one place."""

    def __init__(
        self,
        *,
        providers: Mapping[str, OAuth2Provider],
        timings: Timings,
        store_is_ready: Callable[[], bool],
    ) -> None:
        self._providers, self._timings, self._store_is_ready = providers, timings, store_is_ready
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
        if self.stopping:
            return Hold(None, now + 1)
        if self.copied_store:
            return Hold(Reason.COPIED_STORE, None)
        if not self._store_is_ready():
            return Hold(Reason.STORAGE, now + STORE_AGAIN)
        if account.dead or account.frozen:
            return Hold(account.dead or account.frozen, None)
        trouble = account.trouble
        if is_pausing(trouble.not_before, now):
            reason = trouble.reason or Reason.PROVIDER_UNAVAILABLE
            return Hold(reason, trouble.not_before, detail=trouble.detail)
        if waits_for_expiry(
            self.rotation(account),
            trouble.ambiguous,
            living=is_living(account, now) and not is_misdated(account, now),
            rejected=self.is_rejected(account),
        ):
            return Hold(trouble.reason or Reason.UNCERTAIN, account.expires_at, detail=trouble.detail)
        return self.breaker(account.provider).hold(account.name, now)

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
        wait = quarantine(timed_out=True, grace=self.grace(account), timings=self._timings)
        return min(not_before, now + wait)

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
