"""What one provider's answers say about the provider itself (R9). No I/O; time is passed in."""

from collections import OrderedDict
from dataclasses import dataclass, field

from broker.model import Reason, Ref
from broker.tokens.policy import Hold
from broker.tokens.schedule import Timings

MASS_ACCOUNTS = 3
MASS_SHARE = 0.2
COUNTED_FOR = 24
"""Windows without a refusal after which a grant counts anew; retries come several times a window."""


@dataclass(slots=True)
class ProviderBreaker:
    """Pause, client refusal and mass refusal of one provider."""

    timings: Timings
    paused_until: float = 0.0
    client_refused_since: float | None = None
    _refused: list[str] = field(default_factory=list)
    """Accounts whose client was refused since the last success, in order, each once."""
    _next_probe_at: float = 0.0
    _tried: "_Times" = field(default_factory=OrderedDict)
    _dying: "_Times" = field(default_factory=OrderedDict)
    """When each was first refused, for as long as the window is open on that."""
    _counted: "_Times" = field(default_factory=OrderedDict)
    """When each was last refused: who is refused again and again is not newly refused, and counts once."""
    mass_since: float | None = None

    def hold(self, account: str, now: float) -> Hold | None:
        """Why this account may not be renewed just now, as far as its provider goes."""
        if self.paused_until > now:
            return Hold(Reason.PROVIDER_PAUSED, self.paused_until)
        if self.client_refused_since is not None and now < (probe_at := self._probe_at(account)):
            return Hold(Reason.CLIENT_REFUSED, probe_at)
        return None

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
        self.tried(ref, now)
        return was_open

    def tried(self, ref: Ref, now: float) -> None:
        """Note an attempt that the provider answered about the grant."""
        _note(self._tried, ref, now)
        # Every renewal comes by here, and no refusal may ever come.
        _forget(self._tried, now - self.timings.mass_window)

    def refused(self, ref: Ref, now: float) -> bool:
        """Note `invalid_grant`; True if that opened the mass breaker: then nobody is declared dead."""
        self.tried(ref, now)
        if ref not in self._counted:
            _note(self._dying, ref, now)
        _note(self._counted, ref, now)
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
        if self.mass_since is not None and not self._dying:
            self.mass_since = None
        return self.mass_since is not None

    def shift(self, seconds: float) -> None:
        """The clock was set by so much."""
        self.paused_until += seconds
        self._next_probe_at += seconds
        self.client_refused_since = _shifted(self.client_refused_since, seconds)
        self.mass_since = _shifted(self.mass_since, seconds)
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
        self.paused_until = 0.0
        self.client_refused_since = self.mass_since = None
        self._refused.clear()
        self._tried.clear()
        self._dying.clear()
        self._counted.clear()

    def _probe_at(self, account: str) -> float:
        """Accounts that were not refused go first; a refused one may try if none of those turns up."""
        return self._next_probe_at + (self.timings.probe / 5 if account in self._refused else 0.0)

    def _forget_old(self, now: float) -> None:
        window = self.timings.mass_window
        _forget(self._tried, now - window)
        _forget(self._dying, now - window)
        _forget(self._counted, now - COUNTED_FOR * window)


_Times = OrderedDict[Ref, float]
"""When something was last said of each, the longest ago first."""


def _shifted(at: float | None, seconds: float) -> float | None:
    return None if at is None else at + seconds


def _note(times: _Times, ref: Ref, now: float) -> None:
    times[ref] = now
    times.move_to_end(ref)


def _forget(times: _Times, before: float) -> None:
    while times and next(iter(times.values())) < before:
        times.popitem(last=False)
