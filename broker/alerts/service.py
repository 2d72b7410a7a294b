"""Alerts: the delivery loops of the hooks, events about the broker's own problems, and forecasts of grants that end."""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from broker.alerts.hooks import Command, Dispatcher, Webhook, WebhookClient
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
"""Days before the end at which it is announced, the nearest first."""
IDLE_LIVES: Mapping[str, float] = {"kustomer": 14 * DAY}
"""By provider type, the time without renewal after which a grant expires. Kit documents no such time."""
FORECAST_EVERY = 3600.0
PAGE = 200
FAILING_FOR = DAY
"""Seconds of failing renewals after which no successful one is expected."""
FORGOTTEN_AFTER = 30 * DAY
TOLD: frozenset[str] = frozenset({Incident.COMMIT_RETAINED, Incident.AUDIT_WAITING, Reason.COPIED_STORE})
WATCH_EVERY = 1.0
STOP_WITHIN = 5.0


def end_of(
    account: Account, *, now: float, refresh: RefreshSettings, idle_life: float | None
) -> tuple[float, Reason] | None:
    """Return when and why the account's grant will end, or None if no end is expected."""
    if account.sealed_refresh is None:
        return (account.expires_at, Reason.NO_REFRESH_TOKEN)
    if account.grant_ends_at is not None and account.grant_ages:
        return (account.grant_ends_at, Reason.GRANT_AGES)
    idle = account.grant_ends_at
    if idle is None and idle_life is not None:
        idle = account.refreshed_at + idle_life
    if idle is None or _is_renewed_before(account, idle, now=now, refresh=refresh):
        return None
    return (idle, Reason.GRANT_IDLES)


def _is_renewed_before(account: Account, end: float, *, now: float, refresh: RefreshSettings) -> bool:
    """Return whether a renewal, which postpones the end, is expected before it."""
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
    """Return the nearest threshold that is reached, in days; None if none is reached yet or the end has passed."""
    left = end - now
    return next((days for days in THRESHOLDS if 0 < left <= days * DAY), None)


class Forecaster:
    """Announces the end of grants that expire from age or disuse, 30, 7 and 1 day before, if the end is known.

    It examines the accounts once an hour, and announces each end once for each threshold.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._store, self._clock = context, context.stores.alerts, context.steady
        self._next_at = float("-inf")

    async def flush(self) -> None:
        """Examine the accounts if an hour has passed."""
        if self._clock.monotonic() < self._next_at:
            return
        await self.look()
        self._next_at = self._clock.monotonic() + FORECAST_EVERY

    async def look(self) -> None:
        """Announce every end that is due for an announcement now."""
        now, settings = self._clock.now(), self._context.settings
        lives = {
            name: IDLE_LIVES[one.type] for name, one in settings.providers.items() if one.type in IDLE_LIVES
        }
        ends = now, now + max(THRESHOLDS) * DAY
        # Accounts whose last renewal is in this span are near the end from disuse, and not past it.
        idle_since: Mapping[str, Span] = {name: (now - life, now - life / 2) for name, life in lives.items()}
        async for page in self._store.mortal(ends, idle_since, PAGE):
            for account in page:
                idle_life = lives.get(account.provider)
                found = end_of(account, now=now, refresh=settings.refresh, idle_life=idle_life)
                if found is None or (days := threshold(found[0], now)) is None:
                    continue
                kind, (end, reason), generation = EventKind.REAUTHORIZATION_DUE, found, account.generation
                event = Event(now, kind, account.name, account.provider, reason, generation, due_at=end)
                if await self._store.foretell(event, days):
                    log.warning("account.end_foretold", account=account.name, reason=reason, days=days)
        await self._store.forget_foretold(now - FORGOTTEN_AFTER)


class StandingTroubles:
    """Makes events `broker_degraded` and `broker_recovered` of problems of the broker itself.

    They are made on transitions only, also across restarts, and wait in memory until they can be stored.
    """

    def __init__(self, context: Context, permit: Permit) -> None:
        self._replica, self._permit = context.replica, permit
        self._store, self._clock = context.stores.alerts, context.steady
        self._standing: set[tuple[str, str]] = set()
        self._waiting: list[Event] = []
        self._has_looked_back = False
        context.health.listen(self._heard)

    async def flush(self) -> None:
        """Store the new events in their order."""
        refused = set(self._permit.mass_refusing(self._clock.now()))
        before = {provider for reason, provider in self._standing if reason == Reason.MASS_REFUSAL}
        for provider in sorted(refused ^ before):
            self._turn(Reason.MASS_REFUSAL, provider, provider in refused)
        try:
            if not self._has_looked_back:
                # A problem that an earlier start reported and this one does not find is over.
                for reason, provider in sorted(await self._store.standing(self._replica) - self._standing):
                    self._waiting.insert(0, self._turned(reason, provider, False))
                self._has_looked_back = True
            while self._waiting:
                event = self._waiting[0]
                is_degraded = event.kind is EventKind.BROKER_DEGRADED
                await self._store.note_standing(self._replica, event, stands=is_degraded)
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
    """Delivers alerts in the background, without delaying other work of the broker."""

    def __init__(self, context: Context, permit: Permit) -> None:
        self._context, self._client = context, WebhookClient(context.settings.network)
        self.webhook, self.command = Dispatcher("webhook", context), Dispatcher("command", context)
        self.standing, self.forecaster = StandingTroubles(context, permit), Forecaster(context)
        self._stopping = asyncio.Event()
        self.use(context.settings.alerts)

    def use(self, settings: AlertSettings, *, resume: bool = False) -> None:
        """Deliver alerts as these settings say; `resume` ends the pause of a hook that answered 410."""
        webhook, command = settings.webhook, settings.command
        # The machine's clock, because receivers compare the timestamp with their own.
        sender = Webhook(webhook, client=self._client, clock=self._context.clock) if webhook else None
        self.webhook.use(sender, resume=resume)
        self.command.use(Command(command, clock=self._context.steady) if command else None, resume=resume)

    async def close(self) -> None:
        """Close the connections to the webhook."""
        await self._client.close()

    async def run(self) -> None:
        """Run until `stop` is called or the task is cancelled."""
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            async with asyncio.TaskGroup() as tasks:
                for loop in (self.webhook.run(stopped), self.command.run(stopped), self._watch(stopped)):
                    tasks.create_task(loop)
        finally:
            stopped.cancel()

    async def stop(self, running: "asyncio.Task[None]") -> None:
        """End the task `running`; attempts in progress get a few seconds to end, so that none is made twice."""
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
