"""Brings events to one hook: durable, in order for each account, tried again until taken or too old."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

import structlog

from broker.clock import within
from broker.context import Context
from broker.errors import StorageUnavailable
from broker.http.bodies import event_json
from broker.model import Event, EventKind
from broker.store.events import Delivery

RETRIES = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
"""Seconds after the first failure, the second, …; then every hour."""
KEPT = 3 * 86400.0
"""An alert is given up so long after its event."""
log = structlog.get_logger()
UNTOLD = frozenset({EventKind.RENEWED})
LOOK_EVERY = 1.0
AT_ONCE = 8
PAGE = 200
MOST_WAITING = 1000
"""With so many on their way no more are taken from the events, which wait in their own table."""
LEASE = 60.0
"""Longer than any attempt; one that a crash cut off is made again after this."""
FAILING = 3
"""Failures in a row until `/readyz` names it."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One event, as it is sent."""

    id: str
    """The same at every attempt, so that a receiver knows a repetition."""
    body: bytes
    """The event as JSON."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The receiver has it not, or did not say so."""

    why: str
    """For the log; nothing of a receiver's answer."""
    retry_after: float | None = None
    """Seconds, where the receiver asked for a pause."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The receiver wants nothing any more."""


Outcome = Delivered | Failed | Gone


class Hook(Protocol):
    """One receiver."""

    @property
    def target(self) -> str:
        """A hash of where it leads."""
        ...

    async def deliver(self, alert: Alert) -> Outcome:
        """Try once, within a time limit of its own; raises nothing."""
        ...

    def hurry(self) -> None:
        """The broker stops: end what would take long."""
        ...


def again_after(failures: int, asked: float | None) -> float:
    """Seconds until the next attempt after so many failures; a receiver's wish is heard up to an hour."""
    usual = RETRIES[min(failures, len(RETRIES)) - 1]
    return usual if asked is None else max(usual, min(asked, RETRIES[-1]))


def is_too_old(event: Event, now: float) -> bool:
    return now - event.at > KEPT


def heads(deliveries: Iterable[Delivery], now: float) -> list[Delivery]:
    """What may be tried now: the first of each account, so that an account's story is told in its order."""
    seen: set[str | None] = set()
    first = []
    for delivery in deliveries:
        if delivery.event.account not in seen:
            seen.add(delivery.event.account)
            first.append(delivery)
    # One that is further ahead than any pause was noted by a wrong clock.
    return [delivery for delivery in first if not 0 < delivery.next_at - now <= RETRIES[-1]]


class Dispatcher:
    """The loop of one hook. A slow or dead receiver holds up nothing but its own alerts."""

    def __init__(self, name: str, context: Context) -> None:
        self._name, self._store, self._events = name, context.stores.alerts, context.stores.events
        self._health, self._clock = context.health, context.steady
        self._hook: Hook | None = None
        self._unopened, self._resume = True, False
        self._paused = False
        self._upto = 0
        self._failures = 0

    def use(self, hook: Hook | None, *, resume: bool = False) -> None:
        """Tell `hook` from now on, None: nobody; `resume` lifts a pause, since an operator has seen to it."""
        self._hook, self._unopened, self._resume = hook, True, resume

    def hurry(self) -> None:
        """The broker stops: end the attempts under way that would take long."""
        if self._hook is not None:
            self._hook.hurry()

    async def run(self, stopped: "asyncio.Future[Any]") -> None:
        """Go round until `stopped`; a round that fails is logged, and the next one comes."""
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
        """Take new events and make every attempt that is due; whether there may be more at once."""
        if self._unopened:
            await self._open()
        hook = self._hook
        if hook is None or self._paused:
            return False
        waiting = await self._store.deliveries(self._name)
        if len(waiting) < MOST_WAITING and await self._take_new():
            waiting = await self._store.deliveries(self._name)
        due = heads(waiting, self._clock.now())[:AT_ONCE]
        await asyncio.gather(*(self._attempt(hook, delivery) for delivery in due))
        return bool(due)

    async def _open(self) -> None:
        hook, resume = self._hook, self._resume
        self._failures = 0
        if hook is None:
            await self._store.forget_hook(self._name)
            self._settle_health(None)
        else:
            state = await self._store.open_hook(self._name, hook.target)
            if state.paused_at is not None and resume:
                await self._store.pause_hook(self._name, None)
            self._upto, self._paused = state.upto, state.paused_at is not None and not resume
            self._settle_health(self._is_gone if self._paused else None)
        if hook is self._hook:
            self._unopened = False

    async def _take_new(self) -> bool:
        last, _ = await self._events.event_bounds()
        if last <= self._upto:
            return False
        self._upto = await self._store.spread(
            self._name, upto=self._upto, without=UNTOLD, limit=PAGE, at=self._clock.now()
        )
        return True

    async def _attempt(self, hook: Hook, delivery: Delivery) -> None:
        event, now = delivery.event, self._clock.now()
        if is_too_old(event, now):
            log.error("alert.given_up", hook=self._name, id=event.id, attempts=delivery.attempts)
            await self._store.finish(self._name, event.id)
            return
        if not await self._store.claim(self._name, delivery, now + LEASE):
            return
        outcome = await hook.deliver(alert_of(event))
        match outcome:
            case Delivered():
                await self._store.finish(self._name, event.id)
                log.info("alert.delivered", hook=self._name, id=event.id)
                self._failures = 0
                self._settle_health(None)
            case Failed(why, asked):
                await self._failed(delivery, why, asked)
            case Gone():
                await self._pause(event)
            case _:
                assert_never(outcome)

    async def _failed(self, delivery: Delivery, why: str, asked: float | None) -> None:
        wait, id_ = again_after(delivery.attempts + 1, asked), delivery.event.id
        await self._store.postpone(self._name, id_, self._clock.now() + wait)
        log.warning("alert.failed", hook=self._name, id=id_, why=why, again_in=wait)
        self._failures += 1
        if self._failures >= FAILING:
            self._settle_health(f"the {self._name} for alerts does not take them; see the log")

    async def _pause(self, event: Event) -> None:
        now = self._clock.now()
        await self._store.postpone(self._name, event.id, now)
        await self._store.pause_hook(self._name, now)
        self._paused = True
        log.error("alerts.paused", hook=self._name)
        self._settle_health(self._is_gone)

    @property
    def _is_gone(self) -> str:
        return f"the {self._name} for alerts said 410 Gone and is told nothing; change its address, or reload"

    def _settle_health(self, sentence: str | None) -> None:
        key = f"alerts_{self._name}"
        if sentence is None:
            self._health.clear(key)
        else:
            self._health.raise_problem(key, sentence)


def alert_of(event: Event) -> Alert:
    """The event as it is sent. The time is in its id, because a restored store gives numbers again."""
    body = json.dumps(event_json(event), separators=(",", ":"), ensure_ascii=False)
    return Alert(f"evt_{event.id}_{int(event.at)}", body.encode())
