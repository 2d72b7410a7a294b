"""Everything that tells: the loops of the hooks, the watch over standing troubles, the forecast of ends."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from broker.alerts.dispatch import Dispatcher
from broker.alerts.hooks import Command, Webhook, WebhookClient
from broker.clock import within
from broker.config.settings import AlertSettings, RefreshSettings
from broker.context import Context
from broker.errors import StorageUnavailable
from broker.model import Account, Event, EventKind, Incident, Reason, Status, window_opens
from broker.store.events import Span
from broker.tokens.permit import Permit
from broker.tokens.policy import LAST_USED_WITHIN, next_look

log = structlog.get_logger()

DAY = 86400.0
THRESHOLDS = (1, 7, 30)
"""Days before the end, the nearest first."""
IDLE_LIVES: Mapping[str, float] = {"kustomer": 14 * DAY}
"""By the provider's type, after how long without a renewal a grant is said to die. Kit is not known to have such."""
FORECAST_EVERY = 3600.0
PAGE = 200
FAILING_FOR = DAY
"""Renewals that fail for so long are not counted on."""
FORGOTTEN_AFTER = 30 * DAY
TOLD: frozenset[str] = frozenset({Incident.COMMIT_RETAINED, Incident.AUDIT_WAITING, Reason.COPIED_STORE})
WATCH_EVERY = 1.0
STOP_WITHIN = 5.0


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
    ahead, idle = refresh.ahead, refresh.idle_renewal
    look = next_look(account, now=max(now, window_opens(account, ahead)), ahead=ahead, idle_renewal=idle)
    return look is not None and look < end


def threshold(end: float, now: float) -> int | None:
    """The nearest threshold that is reached, in days; None: none yet, or all is over."""
    left = end - now
    return next((days for days in THRESHOLDS if 0 < left <= days * DAY), None)


class Forecaster:
    """Foretells the end of grants that die of age or of idleness, where that is known: 30, 7 and 1 day before.

    It looks through the accounts once an hour; each threshold of each end is told once.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._store, self._clock = context, context.stores.alerts, context.steady
        self._next_at = float("-inf")

    async def flush(self) -> None:
        """Look, if it is time."""
        if self._clock.monotonic() < self._next_at:
            return
        await self.look()
        self._next_at = self._clock.monotonic() + FORECAST_EVERY

    async def look(self) -> None:
        """Foretell whatever is to be foretold now."""
        now = self._clock.now()
        providers = self._context.settings.providers
        lives = {name: IDLE_LIVES[one.type] for name, one in providers.items() if one.type in IDLE_LIVES}
        ends = now, now + max(THRESHOLDS) * DAY
        # Since when an account must lie unrenewed to be near its end of idleness, and not past it.
        idle_since: Mapping[str, Span] = {name: (now - life, now - life / 2) for name, life in lives.items()}
        async for page in self._store.mortal(ends, idle_since, PAGE):
            for account in page:
                await self._look_at(account, now, lives.get(account.provider))
        await self._store.forget_foretold(now - FORGOTTEN_AFTER)

    async def _look_at(self, account: Account, now: float, idle_life: float | None) -> None:
        end = end_of(account, now=now, refresh=self._context.settings.refresh, idle_life=idle_life)
        days = None if end is None else threshold(end.at, now)
        if end is None or days is None:
            return
        kind, generation = EventKind.REAUTHORIZATION_DUE, account.generation
        event = Event(now, kind, account.name, account.provider, end.reason, generation, due_at=end.at)
        if await self._store.foretell(event, days):
            log.warning("account.end_foretold", account=account.name, reason=end.reason, days=days)


class StandingTroubles:
    """Turns standing problems of the broker itself into `broker_degraded` and `broker_recovered`.

    On transitions only, over restarts too; they wait in memory until the store takes them.
    """

    def __init__(self, context: Context, permit: Permit) -> None:
        self._replica, self._permit = context.replica, permit
        self._store, self._clock = context.stores.alerts, context.steady
        self._standing: set[tuple[str, str]] = set()
        self._waiting: list[Event] = []
        self._has_looked_back = False
        context.health.listen(self._heard)

    async def flush(self) -> None:
        """Store what has happened since, in its order."""
        refused = set(self._permit.mass_refusing(self._clock.now()))
        before = {provider for reason, provider in self._standing if reason == Reason.MASS_REFUSAL}
        for provider in sorted(refused ^ before):
            self._turn(Reason.MASS_REFUSAL, provider, provider in refused)
        try:
            if not self._has_looked_back:
                # What an earlier start told of and this one does not find is over.
                for reason, provider in sorted(await self._store.standing(self._replica) - self._standing):
                    self._waiting.insert(0, self._turned(reason, provider, False))
                self._has_looked_back = True
            while self._waiting:
                event = self._waiting[0]
                stands = event.kind is EventKind.BROKER_DEGRADED
                await self._store.note_standing(self._replica, event, stands=stands)
                self._waiting.pop(0)
        except StorageUnavailable:
            return

    def _heard(self, key: str, standing: bool) -> None:
        if key in TOLD:
            self._turn(key, "", standing)

    def _turn(self, reason: str, provider: str, stands: bool) -> None:
        (self._standing.add if stands else self._standing.discard)((reason, provider))
        self._waiting.append(self._turned(reason, provider, stands))

    def _turned(self, reason: str, provider: str, stands: bool) -> Event:
        kind = EventKind.BROKER_DEGRADED if stands else EventKind.BROKER_RECOVERED
        return Event(self._clock.now(), kind, provider=provider or None, reason=reason)


class Alerts:
    """Runs beside the broker's other work, and holds none of it up."""

    def __init__(self, context: Context, permit: Permit) -> None:
        self._context, self._client = context, WebhookClient(context.settings.network)
        self.webhook, self.command = Dispatcher("webhook", context), Dispatcher("command", context)
        self.standing, self.forecaster = StandingTroubles(context, permit), Forecaster(context)
        self._stopping = asyncio.Event()
        self.use(context.settings.alerts)

    def use(self, settings: AlertSettings, *, resume: bool = False) -> None:
        """Send alerts where these settings say; `resume` ends the pause of a hook that was given up."""
        webhook, command = settings.webhook, settings.command
        # The machine's clock: receivers compare the timestamp with their own.
        sender = Webhook(webhook, client=self._client, clock=self._context.clock) if webhook else None
        self.webhook.use(sender, resume=resume)
        self.command.use(Command(command, clock=self._context.steady) if command else None, resume=resume)

    async def close(self) -> None:
        """Close the connections to the webhook."""
        await self._client.close()

    async def run(self) -> None:
        """Until `stop`, or until cancelled."""
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            async with asyncio.TaskGroup() as tasks:
                for loop in (self.webhook.run(stopped), self.command.run(stopped), self._watch(stopped)):
                    tasks.create_task(loop)
        finally:
            stopped.cancel()

    async def stop(self, running: "asyncio.Task[None]") -> None:
        """End `running`: attempts under way may end, for a few seconds, so that none is made twice."""
        self._stopping.set()
        for hook in (self.webhook, self.command):
            hook.hurry()
        await within(self._context.steady, STOP_WITHIN, running)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self.standing.flush()

    async def _watch(self, stopped: "asyncio.Future[Any]") -> None:
        while not stopped.done():
            for look in (self.standing.flush, self.forecaster.flush):
                try:
                    await look()
                except StorageUnavailable:
                    continue
                except Exception as exc:
                    log.error("alerts.watch_failed", exc_info=exc)
            await within(self._context.steady, WATCH_EVERY, stopped)
