"""The two kinds of alert hook, a command and a webhook, and the delivery of events to them.

Events are delivered durably, in order for each account, and retried until they are accepted or too old.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import tempfile
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import aiohttp
import structlog

from broker import __version__
from broker.clock import Clock, within
from broker.config.settings import NetworkSettings, WebhookSettings
from broker.context import Context
from broker.errors import StorageUnavailable
from broker.http.bodies import event_json
from broker.model import EventKind
from broker.providers import lifetimes
from broker.providers.network import Resolver, proxy_for, trusting
from broker.store.events import Delivery

log = structlog.get_logger()
RETRIES = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
"""Seconds to wait after the first failure, the second and so on; then an hour each."""
KEPT = 3 * 86400.0
"""Seconds after its event at which an alert is given up."""
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
COMMAND_TIMEOUT = 30.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8"}
"""The command's environment; the broker's own may contain secrets."""
MOST_CAPTURED = 4096
MOST_SAID = 200
WEBHOOK_TIMEOUT = 15.0
USER_AGENT = f"token-broker/{__version__}"


@dataclass(frozen=True, slots=True)
class Alert:
    """An event as it is sent."""

    id: str
    """The same at every attempt, so that a receiver recognizes a repetition."""
    body: bytes
    """The event as JSON."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A failed attempt: the receiver did not confirm the alert."""

    why: str
    """The reason for the log, without any of the receiver's answer."""
    retry_after: float | None = None
    """Seconds, if the receiver asked for a pause."""
    is_for_good: bool = False
    """True if the receiver wants no more alerts."""


class Command:
    """Runs the configured program, without a shell, with JSON on standard input and a time limit."""

    def __init__(self, argv: tuple[str, ...], *, clock: Clock) -> None:
        self._argv, self._clock = argv, clock
        self._running: set[asyncio.subprocess.Process] = set()

    @property
    def target(self) -> str:
        """A hash of the command, by which the store recognizes it."""
        return hashlib.sha256("\0".join(self._argv).encode()).hexdigest()

    async def deliver(self, alert: Alert) -> Failed | None:
        """Run the program once; return None if it succeeded. Does not raise."""
        try:
            # A file and not a pipe, so that a program that does not read its input cannot block the broker.
            with tempfile.TemporaryFile() as body, closing(_Capture()) as stderr:
                body.write(alert.body)
                body.seek(0)
                return await self._run(body, stderr)
        except (OSError, ValueError) as exc:
            return Failed(f"cannot be run ({type(exc).__name__})")

    def hurry(self) -> None:
        """Kill the running programs."""
        for process in self._running:
            _kill(process)

    async def _run(self, body: BinaryIO, stderr: "_Capture") -> Failed | None:
        process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=body,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr.write_end,
            env=ENVIRONMENT,
            cwd="/",
            # Its own group, so that its children end with it.
            start_new_session=True,
        )
        self._running.add(process)
        ended = asyncio.ensure_future(process.wait())
        in_time = False
        try:
            in_time = await within(self._clock, COMMAND_TIMEOUT, ended)
        finally:
            self._running.discard(process)
            if not in_time:
                _kill(process)
                await asyncio.shield(ended)
        if not in_time:
            return Failed(f"ran longer than {COMMAND_TIMEOUT:.0f} s and was killed")
        if process.returncode == 0:
            return None
        words = "".join(letter if letter.isprintable() else " " for letter in stderr.text()).split()
        said = f": {' '.join(words)[:MOST_SAID]}" if words else ""
        return Failed(f"exit {process.returncode}{said}")


class _Capture:
    """A pipe that keeps the first bytes and discards the rest, so that the writer never blocks."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        self._content = bytearray()
        os.set_blocking(self._read_end, False)
        asyncio.get_running_loop().add_reader(self._read_end, self._read)

    def text(self) -> str:
        self._read()
        return self._content.decode("utf-8", "replace")

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self.write_end)
        os.close(self._read_end)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            chunk = os.read(self._read_end, MOST_CAPTURED)
            self._content += chunk[: MOST_CAPTURED - len(self._content)]


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the whole process group, so that what the program started ends with it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


class WebhookClient:
    """The HTTP client for webhooks, which is kept for as long as the broker runs."""

    def __init__(self, network: NetworkSettings | None = None) -> None:
        self._network = network or NetworkSettings()
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, str | None]:
        """Return status and Retry-After. Raises aiohttp.ClientError, OSError, TimeoutError, ValueError."""
        proxy, proxy_headers = proxy_for(url, self._network) or (None, None)
        if self._session is None:
            # A connection for each request, because the unread rest of an answer would precede the next one.
            trusted = trusting(self._network.ca) if self._network.ca else True
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, ssl=trusted, resolver=Resolver()),
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=WEBHOOK_TIMEOUT),
                headers={"User-Agent": USER_AGENT, "Content-Type": "application/json"},
            )
        async with self._session.post(
            url, data=body, headers=headers, allow_redirects=False, proxy=proxy, proxy_headers=proxy_headers
        ) as response:
            return response.status, response.headers.get("Retry-After")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


class Webhook:
    """The receiver at `alerts.webhook_url`.

    As Standard Webhooks (standardwebhooks.com, 1.0.0) requires, requests are signed, redirects are not followed, and
    the bodies of answers are not read.
    """

    def __init__(self, settings: WebhookSettings, *, client: WebhookClient, clock: Clock) -> None:
        self._settings, self._client, self._clock = settings, client, clock

    @property
    def target(self) -> str:
        """A hash of the address, by which the store recognizes it."""
        return hashlib.sha256(self._settings.url.reveal().encode()).hexdigest()

    async def deliver(self, alert: Alert) -> Failed | None:
        """Post the alert once; return None if it was accepted. Does not raise."""
        now = self._clock.now()
        headers = signed_headers(alert, int(now), self._settings.keys)
        try:
            status, retry_after = await self._client.post(self._settings.url.reveal(), alert.body, headers)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            # The messages of these errors can contain the address, which may be secret.
            return Failed("timed out" if isinstance(exc, TimeoutError) else type(exc).__name__)
        if 200 <= status < 300:
            return None
        # Seconds or a date (RFC 9110 10.2.3).
        wait = None if retry_after is None else lifetimes.seconds_until(retry_after.strip(), now)
        return Failed(f"status {status}", None if wait is None else max(0.0, wait), status == 410)

    def hurry(self) -> None:
        """Do nothing: an attempt is short, and if it ends by itself it is not made twice."""


def signed_headers(alert: Alert, at: int, keys: tuple[bytes, ...]) -> dict[str, str]:
    """Return the three headers of an alert, with a signature for each key."""
    signed = f"{alert.id}.{at}.".encode() + alert.body
    signatures = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys]
    return {
        "webhook-id": alert.id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


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
