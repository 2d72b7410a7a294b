"""Shows operators the providers, the events and the metrics, and counts the accounts for them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.context import Context
from broker.errors import NotFound, no_provider
from broker.http.bodies import rfc3339
from broker.keys import Census
from broker.model import Caller, Event, Permission, Reason, Status
from broker.providers.kinds import INSTALL_PAGE, KIT
from broker.single_flight import RecentResult
from broker.store.accounts import AccountStore
from broker.tokens.permit import Permit

SPAN = 6 * 3600.0
"""Seconds. Access tokens that expire in the same span of this length are counted together."""
USED_WITHIN = 86400.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of the accounts that are not removed. Reading them from a large store takes some seconds."""

    counts: Mapping[tuple[str, Status], int]
    """By provider and status."""
    ends: Mapping[int, int]
    """Access tokens that expire in the n-th `SPAN` of the epoch, of accounts that can be renewed."""
    first_expiries: Mapping[str, float]
    """By provider, the first expiry in epoch seconds, of accounts that can be renewed and were used in 24 hours."""


async def read_statistics(store: AccountStore, now: float) -> Statistics:
    """Count the accounts of a store, page by page; raises StorageUnavailable."""
    counts: Counter[tuple[str, Status]] = Counter()
    ends: Counter[int] = Counter()
    first: dict[str, float] = {}
    async for group in store.groups(used_since=now - USED_WITHIN, span=SPAN):
        counts[group.provider, group.status] += group.count
        if group.status is Status.NEEDS_REAUTHORIZATION:
            continue
        ends[group.span] += group.count
        if group.is_used:
            first[group.provider] = min(group.first_expiry, first.get(group.provider, group.first_expiry))
    return Statistics(counts, ends, first)


class Overview:
    """The use cases that look at all accounts: list providers, close a breaker, list events, count expiries."""

    def __init__(self, context: Context, permit: Permit, census: Census) -> None:
        async def read() -> Statistics:
            return await read_statistics(context.stores.accounts, context.steady.now())

        self._context, self._permit = context, permit
        self._statistics = RecentResult(read, context.steady)
        self._rows_by_key = RecentResult(census.totals, context.steady)
        sandbox = context.settings.sandbox
        # In a sandbox Kit's pages are the sandbox's.
        self._kit = f"http://{sandbox.listen}/kit" if sandbox.enabled else KIT
        self._shown: set[tuple[str, Status]] = set()
        """Series that a scrape has seen: they stay at 0 when the last account goes."""

    async def close(self) -> None:
        """Cancel the running queries."""
        await self._statistics.close()
        await self._rows_by_key.close()

    async def providers(self, caller: Caller, *, request_id: str) -> list[dict[str, Any]]:
        """Return each provider with its breaker and the number of its accounts by status."""
        await self._context.authorizer.require_look(caller, "providers.list", request_id=request_id)
        counts = (await self._statistics.get()).counts
        return [self._json(name, counts) for name in sorted(self._context.providers)]

    async def resume(self, caller: Caller, name: str, *, request_id: str) -> dict[str, Any]:
        """Close a provider's breakers, so that its accounts are renewed again; raises NotFound."""
        await self._context.authorizer.require(caller, Permission.ADMIN, None, request_id=request_id)
        if name not in self._context.providers:
            raise NotFound(no_provider(name, self._context.providers))
        self._permit.breaker(name).resume()
        self._context.metrics.provider_open.labels(name).set(0)
        await self._context.authorizer.note(caller, "providers.resume", None, name, request_id=request_id)
        return self._json(name, (await self._statistics.get()).counts)

    async def events(
        self, caller: Caller, *, after: int | None, limit: int, account: str | None, request_id: str
    ) -> list[Event]:
        """Return at most `limit` events: those after the id `after`, or the last ones if it is None."""
        await self._context.authorizer.require(
            caller, Permission.ACCOUNTS, account, request_id=request_id, action="events"
        )
        if after is None:
            return await self._context.stores.events.last_events(limit, account)
        return await self._context.stores.events.events(after, limit, account)

    async def ends(self, caller: Caller, *, count: int, request_id: str) -> tuple[float, list[int]]:
        """Return a start time, and the number of access tokens that expire in each of the next `count` spans."""
        await self._context.authorizer.require_look(caller, "accounts.expiries", request_id=request_id)
        first = int(self._context.steady.now() // SPAN)
        ends = (await self._statistics.get()).ends
        return first * SPAN, [ends.get(span, 0) for span in range(first, first + count)]

    async def metrics_text(self) -> bytes:
        """Return all metrics in Prometheus' text format. Counts from the store may be some seconds old."""
        metrics, now = self._context.metrics, self._context.steady.now()
        statistics = await self._statistics.get()
        for provider, status in self._shown - set(statistics.counts):
            metrics.accounts.labels(provider, status).set(0)
        for (provider, status), count in statistics.counts.items():
            metrics.accounts.labels(provider, status).set(count)
        self._shown |= set(statistics.counts)
        # An alert must not stay for an account that nobody uses any more.
        metrics.seconds_to_first_expiry.clear()
        for provider, at in statistics.first_expiries.items():
            metrics.seconds_to_first_expiry.labels(provider).set(at - now)
        oldest = await self._context.stores.accounts.oldest_intent_at()
        metrics.oldest_intent_seconds.set(0 if oldest is None else max(0.0, now - oldest))
        for name in self._context.providers:
            metrics.provider_open.labels(name)
        metrics.rows_by_key.clear()
        for kid, count in (await self._rows_by_key.get()).items():
            metrics.rows_by_key.labels(kid).set(count)
        return metrics.text()

    def open_breakers(self) -> dict[str, tuple[Reason, float | None]]:
        """Return the reason and the start time of each open breaker that an operator has to close, by provider."""
        found = dict[str, tuple[Reason, float | None]]()
        for name in sorted(self._context.providers):
            breaker = self._permit.breaker(name)
            if breaker.client_refused_since is not None:
                found[name] = Reason.CLIENT_REFUSED, breaker.client_refused_since
            elif breaker.is_mass_refusing(self._context.steady.now()):
                found[name] = Reason.MASS_REFUSAL, breaker.mass_since
        return found

    def _json(self, name: str, counts: Mapping[tuple[str, Status], int]) -> dict[str, Any]:
        provider = self._context.providers[name]
        settings, paused_until = provider.settings, self._permit.breaker(name).paused_until
        reason, since = self.open_breakers().get(name, (None, None))
        is_kit = settings.type == "kit" and settings.app_id is not None
        return {
            "name": name,
            "type": settings.type,
            "client_id": settings.client.client_id,
            "token_url": provider.token_url,
            "install_page": INSTALL_PAGE.format(kit=self._kit, app_id=settings.app_id) if is_kit else None,
            "breaker": "open" if reason else "closed",
            "reason": reason,
            "since": rfc3339(since),
            "paused_until": rfc3339(paused_until if paused_until > self._context.steady.now() else None),
            "what_to_do": reason.advice(None, name) if reason else None,
            "accounts": {str(status): count for (of, status), count in counts.items() if of == name},
        }
