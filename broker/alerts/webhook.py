"""Webhooks as Standard Webhooks (standardwebhooks.com, 1.0.0) wants them: signed, no redirects, answers unread."""

import base64
import hashlib
import hmac

import aiohttp

from broker import __version__
from broker.alerts.interface import Alert, Delivered, Failed, Gone, Outcome
from broker.clock import Clock
from broker.config.settings import NetworkSettings, WebhookSettings
from broker.providers import lives
from broker.providers.network import Resolver, proxy_for, trusting

TIMEOUT = 15.0
USER_AGENT = f"token-broker/{__version__}"


class WebhookClient:
    """The HTTP client for webhooks; it lives as long as the broker."""

    def __init__(self, network: NetworkSettings | None = None) -> None:
        self._network = network or NetworkSettings()
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, str | None]:
        """Status and Retry-After. Raises aiohttp.ClientError, OSError, TimeoutError, ValueError."""
        proxy, proxy_headers = proxy_for(url, self._network) or (None, None)
        async with self._open().post(
            url,
            data=body,
            headers=headers,
            allow_redirects=False,
            proxy=proxy,
            proxy_headers=proxy_headers,
        ) as response:
            return response.status, response.headers.get("Retry-After")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # A connection each: the unread rest of an answer must not meet the next request.
            trusted = trusting(self._network.ca) if self._network.ca else True
            connector = aiohttp.TCPConnector(force_close=True, ssl=trusted, resolver=Resolver())
            self._session = aiohttp.ClientSession(
                connector=connector,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                headers={"User-Agent": USER_AGENT, "Content-Type": "application/json"},
            )
        return self._session


class Webhook:
    """The receiver at `alerts.webhook_url`."""

    def __init__(self, settings: WebhookSettings, *, client: WebhookClient, clock: Clock) -> None:
        self._settings, self._client, self._clock = settings, client, clock

    @property
    def target(self) -> str:
        return hashlib.sha256(self._settings.url.reveal().encode()).hexdigest()

    async def deliver(self, alert: Alert) -> Outcome:
        now = self._clock.now()
        headers = signed_headers(alert, int(now), self._settings.keys)
        try:
            status, retry_after = await self._client.post(self._settings.url.reveal(), alert.body, headers)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            # The texts of these errors can quote the address, which may be secret.
            return Failed("timed out" if isinstance(exc, TimeoutError) else type(exc).__name__)
        if 200 <= status < 300:
            return Delivered()
        return Gone() if status == 410 else Failed(f"status {status}", _seconds(retry_after, now))

    def hurry(self) -> None:
        """An attempt is short; that it ends by itself is what keeps it from being made twice."""


def signed_headers(alert: Alert, at: int, keys: tuple[bytes, ...]) -> dict[str, str]:
    """The three headers; a signature for each key."""
    signed = f"{alert.id}.{at}.".encode() + alert.body
    signatures = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys]
    return {
        "webhook-id": alert.id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _seconds(retry_after: str | None, now: float) -> float | None:
    """Retry-After is seconds or a date (RFC 9110 10.2.3)."""
    if retry_after is None:
        return None
    seconds = lives.seconds_until(retry_after.strip(), now)
    return None if seconds is None else max(0.0, seconds)
