"""Foretells the end of grants that die of age or of idleness, where that is known: 30, 7 and 1 day before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from broker.clock import Clock
from broker.config.settings import RefreshSettings
from broker.model import Account, Event, EventKind, Reason, Status
from broker.store.events import AlertStore, Foretold, Span
from broker.tokens.policy import LAST_USED_WITHIN, next_look, window_opens

log = structlog.get_logger()

DAY = 86400.0
THRESHOLDS = (1, 7, 30)
"""Days before the end, the nearest first."""
IDLE_LIVES: Mapping[str, float] = {"kustomer": 14 * DAY}
"""By the provider's type, after how long without a renewal a grant is said to die. Kit is not known to have such."""
LOOK_EVERY = 3600.0
PAGE = 200
FAILING_FOR = DAY
"""Renewals that fail for so long are not counted on."""
FORGOTTEN_AFTER = 30 * DAY


@dataclass(frozen=True, slots=True)
class End:
    """When a grant will die, and of what."""

    at: float
    reason: Reason


def end_of(account: Account, *, now: float, refresh: RefreshSettings, idle_life: float | None) -> End | None:
    """The end that is to be expected, as far as it is known; None: none."""
    if account.sealed_refresh is None:
        return End(account.expires_at, Reason.NO_REFRESH_TOKEN)
    if account.grant_ends_at is not None and account.grant_ages:
        return End(account.grant_ends_at, Reason.GRANT_AGES)
    idle = account.grant_ends_at
    if idle is None and idle_life is not None:
        idle = account.refreshed_at + idle_life
    if idle is None or _is_renewed_before(account, idle, now=now, refresh=refresh):
        return None
    return End(idle, Reason.GRANT_IDLES)


def _is_renewed_before(account: Account, end: float, *, now: float, refresh: RefreshSettings) -> bool:
    """Whether a renewal, which would move the end, is to be expected in time."""
    since = account.trouble.since
    is_failing = account.status in (Status.UNCERTAIN, Status.REFRESH_FAILING)
    if account.frozen or (is_failing and since is not None and now - since >= FAILING_FOR):
        return False
    used = account.last_used_at
    if used is not None and now - used <= LAST_USED_WITHIN:
        return window_opens(account, refresh.ahead) < end
    if not refresh.background:
        return False
    look = next_look(
        account,
        now=max(now, window_opens(account, refresh.ahead)),
        ahead=refresh.ahead,
        idle_renewal=refresh.idle_renewal,
    )
    return look is not None and look < end


def threshold(end: float, now: float) -> int | None:
    """The nearest threshold that is reached, in days; None: none yet, or all is over."""
    left = end - now
    return next((days for days in THRESHOLDS if 0 < left <= days * DAY), None)


class Forecaster:
    """Looks through the accounts once an hour; each threshold of each end is told once."""

    def __init__(
        self,
        *,
        store: AlertStore,
        clock: Clock,
        refresh: RefreshSettings,
        types: Callable[[], Mapping[str, str]],
    ) -> None:
        self._store, self._clock, self._refresh = store, clock, refresh
        self._types = types
        """The providers' types by their names."""
        self._next_at = float("-inf")

    async def flush(self) -> None:
        """Look, if it is time."""
        if self._clock.monotonic() < self._next_at:
            return
        await self.look()
        self._next_at = self._clock.monotonic() + LOOK_EVERY

    async def look(self) -> None:
        """Foretell whatever is to be foretold now."""
        now = self._clock.now()
        lives = {name: IDLE_LIVES[kind] for name, kind in self._types().items() if kind in IDLE_LIVES}
        ends = now, now + max(THRESHOLDS) * DAY
        async for page in self._store.mortal(ends, self._idle_since(now, lives), PAGE):
            for account in page:
                await self._look_at(account, now, lives.get(account.provider))
        await self._store.forget_foretold(now - FORGOTTEN_AFTER)

    def _idle_since(self, now: float, lives: Mapping[str, float]) -> Mapping[str, Span]:
        """By provider, since when an account must lie unrenewed to be near its end of idleness, and not past it."""
        return {name: (now - life, now - life / 2) for name, life in lives.items()}

    async def _look_at(self, account: Account, now: float, idle_life: float | None) -> None:
        end = end_of(account, now=now, refresh=self._refresh, idle_life=idle_life)
        days = None if end is None else threshold(end.at, now)
        if end is None or days is None:
            return
        event = Event(
            at=now,
            kind=EventKind.REAUTHORIZATION_DUE,
            account=account.name,
            provider=account.provider,
            reason=end.reason,
            generation=account.generation,
            due_at=end.at,
        )
        if await self._store.foretell(Foretold(account.name, end.at, days), event):
            log.warning("account.end_foretold", account=account.name, reason=end.reason, days=days)
