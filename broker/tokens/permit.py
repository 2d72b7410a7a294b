"""R1 and R9: decides whether a renewal may start now. Never rotate what cannot be stored. No I/O; time is passed in."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from broker.config.settings import Rotation
from broker.model import Account, Reason, Ref
from broker.providers.oauth2 import OAuth2Provider
from broker.tokens.policy import Hold, is_misdated, is_pausing, is_valid
from broker.tokens.schedule import Timings, quarantine, waits_for_expiry

STORE_AGAIN = 2.0
MASS_ACCOUNTS = 3
MASS_SHARE = 0.2
COUNTED_FOR = 24
"""Windows without a refusal after which a grant counts as newly refused. Retries come several times a window."""

_Times = OrderedDict[Ref, float]
"""The time of the last event of each grant, oldest first."""


@dataclass(slots=True)
class ProviderBreaker:
    """The circuit breaker of one provider: its pause, its refusals of our client, and mass refusals (R9)."""

    timings: Timings
    paused_until: float = 0.0
    client_refused_since: float | None = None
    mass_since: float | None = None
    _refused: list[str] = field(default_factory=list)
    """Accounts whose client was refused since the last success, in order, each once."""
    _next_probe_at: float = 0.0
    _tried: _Times = field(default_factory=OrderedDict)
    _newly_refused: _Times = field(default_factory=OrderedDict)
    """The time when each grant was first refused, kept for one window."""
    _last_refused: _Times = field(default_factory=OrderedDict)
    """The time when each grant was last refused. A grant that is refused again and again counts once."""

    def hold(self, account: str, now: float) -> Hold | None:
        """Return why the provider's state keeps this account from being renewed, or None."""
        if self.paused_until > now:
            return Hold(Reason.PROVIDER_PAUSED, self.paused_until)
        if self.client_refused_since is None:
            return None
        # Accounts that were not refused go first; a refused one may try if none of those turns up.
        probe_at = self._next_probe_at + (self.timings.probe / 5 if account in self._refused else 0.0)
        return Hold(Reason.CLIENT_REFUSED, probe_at) if now < probe_at else None

    def enter(self, account: str, now: float) -> Hold | None:
        """Return what `hold` returns. If the breaker is open and lets the account pass, its attempt is the probe, and
        the next probe has to wait."""
        hold = self.hold(account, now)
        if hold is None and self.client_refused_since is not None:
            self._next_probe_at = now + self.timings.probe
        return hold

    def pause(self, until: float) -> None:
        """Send the provider nothing before `until`, as it asked for."""
        self.paused_until = max(self.paused_until, until)

    def client_refused(self, account: str, now: float, *, only_account: bool) -> bool:
        """Record that the provider refused our client; return True if that opened the breaker.

        Two different accounts in a row open it, or the only one twice: one alone may be an organisation that has not
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
        """Record a successful renewal; return True if that closed the client breaker."""
        was_open = self.client_refused_since is not None
        self.client_refused_since = None
        self._refused.clear()
        self._note(self._tried, ref, now)
        # Also here, because `refused` may never be called.
        self._drop_old(now)
        return was_open

    def refused(self, ref: Ref, now: float) -> bool:
        """Record an `invalid_grant`; return True if that opened the mass-refusal breaker, so that no grant is ended."""
        self._note(self._tried, ref, now)
        if ref not in self._last_refused:
            self._note(self._newly_refused, ref, now)
        self._note(self._last_refused, ref, now)
        self._drop_old(now)
        count = len(self._newly_refused)
        if count < MASS_ACCOUNTS or count <= MASS_SHARE * len(self._tried) or self.mass_since is not None:
            return False
        self.mass_since = now
        return True

    def is_mass_refusing(self, now: float) -> bool:
        """Return whether the provider refuses so many grants that its refusals are not believed.

        It ends one window after the last newly refused grant. Grants refused before are then believed to be revoked at
        their next refusal.
        """
        self._drop_old(now)
        if not self._newly_refused:
            self.mass_since = None
        return self.mass_since is not None

    def shift(self, seconds: float) -> None:
        """Move every recorded time, because the clock was set by so many seconds."""
        self.paused_until += seconds
        self._next_probe_at += seconds
        if self.client_refused_since is not None:
            self.client_refused_since += seconds
        if self.mass_since is not None:
            self.mass_since += seconds
        for times in (self._tried, self._newly_refused, self._last_refused):
            times.update({ref: at + seconds for ref, at in times.items()})

    def forget(self, account: str) -> None:
        """Drop everything recorded about an account."""
        self._refused = [name for name in self._refused if name != account]
        for times in (self._tried, self._newly_refused, self._last_refused):
            for ref in [ref for ref in times if ref.name == account]:
                del times[ref]

    def resume(self) -> None:
        """Close the breaker by hand and end the pause."""
        self.paused_until, self.client_refused_since, self.mass_since = 0.0, None, None
        for recorded in (self._refused, self._tried, self._newly_refused, self._last_refused):
            recorded.clear()

    def _note(self, times: _Times, ref: Ref, now: float) -> None:
        times[ref] = now
        times.move_to_end(ref)

    def _drop_old(self, now: float) -> None:
        window = self.timings.mass_window
        kept = ((self._tried, 1), (self._newly_refused, 1), (self._last_refused, COUNTED_FOR))
        for times, windows in kept:
            while times and next(iter(times.values())) < now - windows * window:
                times.popitem(last=False)


class Permit:
    """Everything that may keep a renewal from starting, checked in one place."""

    def __init__(
        self,
        *,
        providers: Mapping[str, OAuth2Provider],
        timings: Timings,
        store_is_ready: Callable[[], bool],
    ) -> None:
        self._providers, self.timings, self._store_is_ready = providers, timings, store_is_ready
        self._breakers: dict[str, ProviderBreaker] = {}
        self._rejected: dict[str, int] = {}
        self.stopping = False
        self.copied_store = False
        """The database is a copy that no operator has adopted: valid tokens are served, nothing is renewed (R13)."""

    def breaker(self, provider: str) -> ProviderBreaker:
        """Return the provider's circuit breaker."""
        return self._breakers.setdefault(provider, ProviderBreaker(self.timings))

    def mass_refusing(self, now: float) -> list[str]:
        """Return the providers that refuse so many grants together that their refusals are treated as a mistake."""
        return [name for name, breaker in self._breakers.items() if breaker.is_mass_refusing(now)]

    def hold(self, account: Account, now: float) -> Hold | None:
        """Return why this account may not be renewed at `now`, or None if it may."""
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
            valid=is_valid(account, now) and not is_misdated(account, now),
            rejected=self.is_rejected(account),
        ):
            return Hold(trouble.reason or Reason.UNCERTAIN, account.expires_at, detail=trouble.detail)
        return self.breaker(account.provider).hold(account.name, now)

    def enter(self, account: Account, now: float) -> Hold | None:
        """Return what `hold` returns, for a caller that is about to send: it takes the probe of an open breaker."""
        return self.hold(account, now) or self.breaker(account.provider).enter(account.name, now)

    def soonest(self, account: Account, now: float) -> float | None:
        """Return when an attempt that an operator asks for may start; None: immediately.

        While the outcome of the last request is unknown, the quarantine holds for operators too (R7).
        """
        not_before = account.trouble.not_before
        if account.intent is None or not_before is None or not is_pausing(not_before, now):
            return None
        # The time of the last attempt is not stored; a whole quarantine from now on is certainly long enough.
        wait = quarantine(timed_out=True, grace=self.grace(account), timings=self.timings)
        return min(not_before, now + wait)

    def note_rejection(self, account: Account) -> None:
        """Record a caller's report that the provider's API rejected this generation's access token."""
        self._rejected[account.name] = account.generation

    def is_rejected(self, account: Account) -> bool:
        """Return whether this generation was reported as rejected and the report is not settled."""
        return self._rejected.get(account.name) == account.generation

    def settle_rejection(self, account: Account) -> None:
        """Drop the report, because it was investigated."""
        self._rejected.pop(account.name, None)

    def resume(self) -> None:
        """Close every breaker, because a reload may have corrected a refused client."""
        for breaker in self._breakers.values():
            breaker.resume()

    async def forget(self, name: str) -> None:
        """Drop everything recorded about an account that was purged."""
        self._rejected.pop(name, None)
        for breaker in self._breakers.values():
            breaker.forget(name)

    def shift(self, seconds: float) -> None:
        """Move every recorded time, because the clock was set by so many seconds."""
        for breaker in self._breakers.values():
            breaker.shift(seconds)

    def rotation(self, account: Account) -> Rotation:
        """Return how the account's provider rotates refresh tokens; the strictest way if it is not configured."""
        provider = self._providers.get(account.provider)
        return provider.settings.rotation if provider else Rotation.FAMILY

    def grace(self, account: Account) -> float | None:
        """Return for how many seconds the provider still accepts a rotated refresh token; None if that is unknown."""
        provider = self._providers.get(account.provider)
        return provider.settings.grace if provider else None
