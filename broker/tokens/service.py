"""Hands out tokens: the use case behind `GET /token/{account}` and `POST /token/{account}/refresh`."""

import time
from collections import deque
from dataclasses import dataclass, replace
from typing import assert_never

from broker.clock import within
from broker.context import Context
from broker.errors import (
    BrokerError,
    InvalidRequest,
    NeedsReauthorization,
    Overloaded,
    ProviderUnavailable,
    RateLimited,
    StorageUnavailable,
    no_provider,
    require_account_name,
)
from broker.model import Account, Caller, Permission, Reason, Secret, window_opens
from broker.providers.outcomes import IdentityOutcome
from broker.store.renewals import RefreshStore
from broker.tokens.cache import Decrypted, TokenCache
from broker.tokens.flight import FlightEnd, Flights, NotRenewed, Renewed, Waiters
from broker.tokens.permit import Permit
from broker.tokens.policy import (
    Decision,
    Hold,
    Refuse,
    Serve,
    ServeAndRenew,
    Wait,
    believed,
    decide,
    is_valid,
    is_young,
    refusal,
    unchecked,
)

REJECTIONS_WINDOW = 600.0
REJECTIONS_MOST = 2
FORCED_EVERY = 60.0
MOST_POLLS = 20_000
"""Long polls at the same time."""
MOST_RENEWALS = 2
"""Renewals that one request waits for."""
SOON = (Reason.REFUSED_ONCE, Reason.UNCERTAIN, Reason.UNREADABLE)
"""Reasons that the next attempt settles within seconds. A caller waits for it within its patience."""


@dataclass(frozen=True, slots=True)
class Handout:
    """A token as it is handed out to a caller."""

    account: Account
    access_token: Secret
    expires_in: int
    """Whole seconds for which the caller may cache the token."""
    expires_at: float
    warning: str | None


class Uses:
    """Last-used timestamps that are not yet written to the store: by account, and by account and caller."""

    def __init__(self, store: RefreshStore) -> None:
        self._store = store
        self._accounts: dict[str, tuple[float, float]] = {}
        self._callers: dict[tuple[str, str], float] = {}

    def note(self, name: str, caller: str, now: float, opens: float) -> None:
        """Record that a token was handed out whose renewal window opens at `opens`."""
        self._accounts[name] = (now, max(now, opens))
        self._callers[name, caller] = now

    async def flush(self) -> None:
        """Write all timestamps to the store, or keep them for the next time if it accepts no writes."""
        accounts, self._accounts = self._accounts, {}
        callers, self._callers = self._callers, {}
        try:
            await self._store.touch(accounts, callers)
        except StorageUnavailable:
            self._accounts, self._callers = accounts | self._accounts, callers | self._callers

    def forget(self, name: str) -> None:
        """Drop the timestamps of an account that was purged."""
        self._accounts.pop(name, None)
        self._callers = {key: at for key, at in self._callers.items() if key[0] != name}


class TokenService:
    """Hands out valid access tokens, and starts their renewal when they need it."""

    def __init__(
        self, context: Context, *, cache: TokenCache, flights: Flights, permit: Permit, waiters: Waiters
    ) -> None:
        self._context, self._settings = context, context.settings.refresh
        self._cache, self._flights, self._permit = cache, flights, permit
        self._waiters, self._clock, self._store = waiters, context.steady, context.stores.accounts
        self.uses = Uses(self._store)
        self._rejections: dict[str, deque[float]] = {}
        self._forced: dict[str, float] = {}
        self._polls = 0

    async def get(self, caller: Caller, name: str, *, min_ttl: float, request_id: str) -> Handout:
        """Return the account's token, renewed first if necessary. Raises a BrokerError that says why there is none."""
        began = time.perf_counter()
        try:
            await self._authorize(caller, Permission.TOKEN, name, request_id)
            decrypted = await self._read(name, or_kept=True)
            if min_ttl > decrypted.account.life / 2:
                most = int(decrypted.account.life / 2)
                raise InvalidRequest(f"min_ttl may be at most half of the token's lifetime, {most} here")
            return await self._hand_out(caller, decrypted, request_id, min_ttl=min_ttl)
        finally:
            self._context.metrics.token_requests.observe(time.perf_counter() - began)

    async def wait(self, caller: Caller, name: str, *, known: str, seconds: float, request_id: str) -> None:
        """Wait until the account's generation is not `known`, its status changes, or its token expires.

        Returns as well when the broker stops and after so many seconds. Raises what `get` raises.
        """
        await self._authorize(caller, Permission.TOKEN, name, request_id)
        if self._polls >= MOST_POLLS:
            raise Overloaded("too many requests wait for a change already; ask without wait", retry_after=5)
        deadline, first = self._clock.monotonic() + seconds, None
        self._polls += 1
        try:
            while not self._waiters.stopping:
                change = self._waiters.change_of(name)
                account, now = (await self._read(name, or_kept=True)).account, self._clock.now()
                if first is None:
                    first = account
                    if str(first.generation) != known:
                        return
                    # Inside the window a plain request would start a renewal, so this one does too.
                    if now >= window_opens(first, self._settings.ahead) and not self._permit.hold(first, now):
                        self._flights.begin_spaced(first.ref)
                if (account.ref, account.status) != (first.ref, first.status) or not is_valid(account, now):
                    return
                left = min(deadline - self._clock.monotonic(), account.expires_at - 1 - now)
                if left <= 0:
                    return
                await within(self._context.clock, left, change)
        finally:
            self._polls -= 1

    async def rejected(self, caller: Caller, name: str, generation: int, *, request_id: str) -> Handout:
        """Return a newer token, because the provider answered 401 to that generation.

        The account is renewed once, however many callers report it. Raises RateLimited if the token is too fresh.
        """
        await self._authorize(caller, Permission.TOKEN, name, request_id)
        decrypted = await self._read(name, or_kept=True)
        if generation != decrypted.account.generation:
            return await self._hand_out(caller, decrypted, request_id)
        decrypted = await self._read(name)
        account, now = decrypted.account, self._clock.now()
        self._permit.note_rejection(account)
        if not self._flights.is_running(account.ref) and now < window_opens(account, self._settings.ahead):
            await self._allow_rejection(account, now)
        return await self._hand_out(caller, decrypted, request_id, newer_than=account.generation)

    async def test(self, caller: Caller, name: str, *, request_id: str) -> tuple[Account, IdentityOutcome]:
        """Ask the provider for which account the token is. Raises what `get` raises. Needs the permission `manage`."""
        await self._authorize(caller, Permission.MANAGE, name, request_id)
        handout = await self._hand_out(caller, await self._read(name, or_kept=True), request_id)
        account = handout.account
        provider = self._context.providers.get(account.provider)
        if provider is None:
            raise InvalidRequest(no_provider(account.provider, self._context.providers))
        return account, await provider.identify(handout.access_token, org=account.org)

    async def force(self, caller: Caller, name: str, *, request_id: str) -> Handout:
        """Renew the account whatever the token's age, at most once a minute. Needs the permission `refresh`."""
        await self._authorize(caller, Permission.REFRESH, name, request_id)
        decrypted, now = await self._read(name), self._clock.monotonic()
        last = self._forced.get(name)
        if last is not None and now - last < FORCED_EVERY:
            raise RateLimited(
                "a renewal was forced less than a minute ago", retry_after=last + FORCED_EVERY - now
            )
        self._forced[name] = now
        generation = decrypted.account.generation
        return await self._hand_out(caller, decrypted, request_id, newer_than=generation)

    async def override(self, caller: Caller, name: str, *, request_id: str) -> Handout:
        """Renew the account for an operator, also one that needs re-authorization or waits (R8).

        The quarantine of an attempt with an unknown outcome still holds.
        """
        await self._authorize(caller, Permission.REFRESH, name, request_id)
        decrypted = await self._read(name)
        account = decrypted.account
        if not account.frozen and not self._flights.is_running(account.ref):
            now = self._clock.now()
            soonest = self._permit.soonest(account, now)
            await self._store.settle(
                account.ref,
                trouble=replace(account.trouble, not_before=soonest),
                keep_intent=True,
                next_at=now if soonest is None else soonest,
                at=now,
            )
            self._permit.note_rejection(account)
            decrypted = await self._read(name)
        generation = decrypted.account.generation
        return await self._hand_out(caller, decrypted, request_id, newer_than=generation)

    def hold(self, account: Account) -> Hold | None:
        """Return why the account may not be renewed now, or None if it may."""
        return self._permit.hold(account, self._clock.now())

    async def forget(self, name: str) -> None:
        """Drop everything recorded about an account that was purged."""
        self.uses.forget(name)
        self._rejections.pop(name, None)
        self._forced.pop(name, None)

    async def _authorize(self, caller: Caller, permission: Permission, name: str, request_id: str) -> None:
        require_account_name(name)
        action = "token.refresh" if permission is Permission.REFRESH else None
        await self._context.authorizer.require(caller, permission, name, request_id=request_id, action=action)

    async def _read(self, name: str, *, or_kept: bool = False) -> Decrypted:
        """Read the account's row. `or_kept`: a cache entry will do if the store cannot be read."""
        try:
            return await self._cache.read(name)
        except StorageUnavailable:
            kept = self._cache.kept(name) if or_kept else None
            if kept is None:
                raise
            return kept

    async def _hand_out(
        self,
        caller: Caller,
        decrypted: Decrypted,
        request_id: str,
        *,
        min_ttl: float = 0.0,
        newer_than: int | None = None,
    ) -> Handout:
        """Decide, wait for renewals within the patience, and hand out the token.

        `newer_than`: renew the account first, because a token of this generation is not wanted.
        """
        ahead = self._settings.ahead
        deadline = self._clock.monotonic() + self._settings.patience
        ended: FlightEnd | None = None
        renewals = 0
        while True:
            account, now = decrypted.account, self._clock.now()
            hold = self._hold_after(account, now, ended, renewals)
            left, paced = deadline - self._clock.monotonic(), self._settings.background
            if account.generation == newer_than:
                decision: Decision = Refuse(refusal(account, hold, now)) if hold else Wait()
            else:
                decision = decide(account, now=now, ahead=ahead, min_ttl=min_ttl, hold=hold, paced=paced)
            match decision:
                case Serve() as serve:
                    final = unchecked(serve, now) if decrypted.unchecked else serve
                    return await self._serve(caller, decrypted, final, request_id)
                case ServeAndRenew():
                    self._flights.begin_spaced(account.ref)
                    return await self._serve(caller, decrypted, Serve(1, now + 1), request_id)
                case Wait():
                    ended = await self._flights.join(account.ref, left)
                    ended = ended or NotRenewed(Hold(Reason.PROVIDER_UNAVAILABLE, self._clock.now() + 1))
                    renewals += newer_than is None
                    if isinstance(ended, Renewed):
                        # Also if there was nothing to renew, as for a token without a stated expiry.
                        newer_than = None
                case Refuse(error):
                    if not await self._settles_within(hold, left):
                        raise self._counted(account, error)
                    ended = None
                case unexpected:
                    assert_never(unexpected)
            row = ended.account if isinstance(ended, Renewed) else None
            if row is not None and row.removed_at is None:
                decrypted = self._cache.decrypted(row)
            else:
                decrypted = await self._read(account.name, or_kept=True)

    def _hold_after(
        self, account: Account, now: float, ended: FlightEnd | None, renewals: int
    ) -> Hold | None:
        """Return why no renewal may start, given how the last one ended and how many this request has awaited."""
        if hold := self._permit.hold(account, now):
            return hold
        if isinstance(ended, NotRenewed):
            return ended.hold
        if self._flights.is_full_for(account.ref):
            return Hold(None, now + 1, is_busy=True)
        # A provider that issues tokens which are already expired must not be asked for ever.
        return Hold(Reason.PROVIDER_DECLINED, now + 1) if renewals >= MOST_RENEWALS else None

    async def _settles_within(self, hold: Hold | None, patience: float) -> bool:
        """Wait for the next attempt and return True if it starts within the patience and is likely to succeed."""
        if hold is None or hold.reason not in SOON or hold.until is None:
            return False
        wait = max(0.0, hold.until - self._clock.now())
        if wait >= patience:
            return False
        await self._clock.sleep(wait)
        return True

    async def _serve(self, caller: Caller, decrypted: Decrypted, serve: Serve, request_id: str) -> Handout:
        now = self._clock.now()
        account, token = believed(decrypted.account, now), decrypted.access_token
        if token is None:
            raise ProviderUnavailable
        issued = account.name, account.generation, decrypted.fingerprint
        await self._context.authorizer.handed_out(
            caller, *issued, request_id=request_id, client=caller.address
        )
        self.uses.note(account.name, caller.name, now, window_opens(account, self._settings.ahead))
        self._context.metrics.token_requests.count(account.provider, "warned" if serve.warning else "served")
        return Handout(account, token, serve.expires_in, serve.expires_at, serve.warning)

    async def _allow_rejection(self, account: Account, now: float) -> None:
        """Raise RateLimited if renewing is no use, because the provider rejects fresh tokens too."""
        recent, at = self._rejections.setdefault(account.name, deque(maxlen=16)), self._clock.monotonic()
        while recent and at - recent[0] > REJECTIONS_WINDOW:
            recent.popleft()
        if not is_young(account, now) and len(recent) < REJECTIONS_MOST:
            recent.append(at)
            return
        young_for = account.issued_at + min(60.0, account.life / 4) - now
        wait = recent[0] + REJECTIONS_WINDOW - at if len(recent) >= REJECTIONS_MOST else young_for
        if account.trouble.reason is None:
            trouble = replace(account.trouble, reason=Reason.REJECTED, since=now)
            at = window_opens(account, self._settings.ahead)
            await self._store.settle(account.ref, trouble=trouble, keep_intent=True, next_at=at, at=now)
        raise RateLimited(
            "the provider rejects a token that is fresh; another renewal would change nothing",
            reason=Reason.REJECTED,
            retry_after=max(1.0, wait),
        )

    def _counted(self, account: Account, error: BrokerError) -> BrokerError:
        if isinstance(error, NeedsReauthorization):
            url = self._context.settings.server.internal_url
            error.members["reconnect_url"] = f"{url}/dashboard/accounts/{account.name}"
        self._context.metrics.token_requests.count(account.provider, error.code)
        return error
