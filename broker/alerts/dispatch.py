"""Delivers events to one hook: durably, in order for each account, retried until accepted or too old."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import structlog

from broker.alerts.hooks import Alert, Command, Webhook
from broker.clock import within
from broker.context import Context
from broker.errors import StorageUnavailable
from broker.http.bodies import event_json
from broker.model import EventKind
from broker.store.events import Delivery

RETRIES = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
"""Seconds to wait after the first failure, the second and so on; then an hour each."""
KEPT = 3 * 86400.0
"""Seconds after its event at which an alert is given up."""
log = structlog.get_logger()
UNTOLD = frozenset({EventKind.RENEWED})
LOOK_EVERY = 1.0
AT_ONCE = 8
PAGE = 200
MOST_WAITING = 1000
"""With this many pending deliveries no more are made; the events wait in their own table."""
LEASE = 60.0
"""Seconds after which an attempt that a crash interrupted is made again; longer than any attempt."""
FAILING = 3
"""Number of consecutive failures after which `/readyz` reports the hook."""
GONE = "the {} for alerts answered 410 Gone and is paused; change its address, or reload"


def heads(deliveries: Iterable[Delivery], now: float) -> list[Delivery]:
    """Select the deliveries to attempt now: the oldest of each account, so that its events arrive in order."""
    seen: set[str | None] = set()
    first = []
    for delivery in deliveries:
        if delivery.event.account not in seen:
            seen.add(delivery.event.account)
            first.append(delivery)
    # A time further ahead than the longest wait was noted by a wrong clock.
    return [delivery for delivery in first if not 0 < delivery.next_at - now <= RETRIES[-1]]


class Dispatcher:
    """The delivery loop of one hook. A slow or broken receiver delays only its own alerts."""

    def __init__(self, name: str, context: Context) -> None:
        self._name, self._store, self._events = name, context.stores.alerts, context.stores.events
        self._health, self._clock = context.health, context.steady
        self._hook: Command | Webhook | None = None
        self._unopened, self._resume = True, False
        self._paused = False
        self._upto = 0
        self._failures = 0

    def use(self, hook: Command | Webhook | None, *, resume: bool = False) -> None:
        """Deliver to `hook` from now on, or to nobody; `resume` ends a pause, because an operator asked for it."""
        self._hook, self._unopened, self._resume = hook, True, resume

    def hurry(self) -> None:
        """End running attempts that would take long, because the broker stops."""
        if self._hook is not None:
            self._hook.hurry()

    async def run(self, stopped: "asyncio.Future[Any]") -> None:
        """Repeat `round` until `stopped`; a failed round is logged."""
        while not stopped.done():
            busy = False
            try:
                busy = await self.round()
            except StorageUnavailable:
                pass
            except Exception as exc:
                log.error("alerts.round_failed", hook=self._name, exc_info=exc)
            if not busy:
                await within(self._clock, LOOK_EVERY, stopped)

    async def round(self) -> bool:
        """Take new events and make every attempt that is due; return whether there may be more immediately."""
        if self._unopened:
            await self._open()
        hook = self._hook
        if hook is None or self._paused:
            return False
        waiting = await self._store.deliveries(self._name)
        if len(waiting) < MOST_WAITING and (await self._events.event_bounds())[0] > self._upto:
            at = self._clock.now()
            self._upto = await self._store.spread(
                self._name, upto=self._upto, without=UNTOLD, limit=PAGE, at=at
            )
            waiting = await self._store.deliveries(self._name)
        due = heads(waiting, self._clock.now())[:AT_ONCE]
        await asyncio.gather(*(self._attempt(hook, delivery) for delivery in due))
        return bool(due)

    async def _open(self) -> None:
        hook, resume = self._hook, self._resume
        self._failures, is_paused = 0, False
        if hook is None:
            await self._store.forget_hook(self._name)
        else:
            self._upto, paused_at = await self._store.open_hook(self._name, hook.target)
            if paused_at is not None and resume:
                await self._store.pause_hook(self._name, None)
            self._paused = is_paused = paused_at is not None and not resume
        self._report(GONE if is_paused else None)
        if hook is self._hook:
            self._unopened = False

    async def _attempt(self, hook: Command | Webhook, delivery: Delivery) -> None:
        event, now = delivery.event, self._clock.now()
        if now - event.at > KEPT:
            log.error("alert.given_up", hook=self._name, id=event.id, attempts=delivery.attempts)
            await self._store.finish(self._name, event.id)
            return
        if not await self._store.claim(self._name, delivery, now + LEASE):
            return
        # Its id has the time too, because a restored store assigns event ids again.
        body = json.dumps(event_json(event), separators=(",", ":"), ensure_ascii=False)
        failed = await hook.deliver(Alert(f"evt_{event.id}_{int(event.at)}", body.encode()))
        if failed is None:
            await self._store.finish(self._name, event.id)
            log.info("alert.delivered", hook=self._name, id=event.id)
            self._failures = 0
            self._report(None)
        elif failed.is_for_good:
            now = self._clock.now()
            await self._store.postpone(self._name, event.id, now)
            await self._store.pause_hook(self._name, now)
            self._paused = True
            log.error("alerts.paused", hook=self._name)
            self._report(GONE)
        else:
            wait = RETRIES[min(delivery.attempts + 1, len(RETRIES)) - 1]
            if failed.retry_after is not None:
                # A receiver may ask for a pause of up to an hour.
                wait = max(wait, min(failed.retry_after, RETRIES[-1]))
            await self._store.postpone(self._name, event.id, self._clock.now() + wait)
            log.warning("alert.failed", hook=self._name, id=event.id, why=failed.why, again_in=wait)
            self._failures += 1
            if self._failures >= FAILING:
                self._report("the {} for alerts does not accept them; see the log")

    def _report(self, problem: str | None) -> None:
        """Set or clear the hook's problem in `/readyz`."""
        if problem is None:
            self._health.clear(f"alerts_{self._name}")
        else:
            self._health.raise_problem(f"alerts_{self._name}", problem.format(self._name))
