"""The two kinds of alert hook: a command that is run for each event, and a webhook that is called."""

import asyncio
import base64
import hashlib
import hmac
import os
import signal
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import BinaryIO

import aiohttp

from broker import __version__
from broker.clock import Clock, within
from broker.config.settings import NetworkSettings, WebhookSettings
from broker.providers import lifetimes
from broker.providers.network import Resolver, proxy_for, trusting

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
    """Whether the receiver wants no more alerts."""


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
