"""Records how a failed attempt ended: R7's quarantine, R9's pauses, the backoff, rejections, and their events."""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from broker import oauth
from broker.context import Context
from broker.model import Account, Event, EventKind, Reason, Secret, Status, Successor, Trouble
from broker.providers.oauth2 import OAuth2Provider
from broker.providers.outcomes import NO_ENDPOINT, Ambiguous, IdentityUnknown, cause_of
from broker.tokens.flight import FlightEnd, NotRenewed, Renewed
from broker.tokens.permit import Permit
from broker.tokens.policy import Hold, is_valid
from broker.tokens.schedule import (
    Step,
    Watch,
    backoff,
    quarantine,
    settle_after,
    unknown_error_after,
)

log = structlog.get_logger()
REPORTS_WITHIN = 86400.0
"""Seconds between two reports of a rejected token within which they count together."""
DAMAGED_AGAIN = 60.0
"""Seconds until a record that could not be decrypted is tried again."""


class Setbacks:
    """Records how an attempt ended without a new token, and when the next one may start."""

    def __init__(self, context: Context, permit: Permit, watch: Watch) -> None:
        self._store, self._clock = context.stores.accounts, context.steady
        self._permit, self._timings, self._watch = permit, permit.timings, watch

    async def uncertain(self, account: Account, outcome: Ambiguous) -> FlightEnd:
        """R7: the outcome is unknown. Keep the intent, and send the same token again after the quarantine."""
        now, grace, count = self._clock.now(), self._permit.grace(account), account.trouble.ambiguous + 1
        wait = settle_after(count, timed_out=outcome.timed_out, grace=grace, timings=self._timings)
        trouble = since_trouble(account, outcome.reason, now, cause_of(outcome))
        if outcome.reason is Reason.UNKNOWN_ERROR and wait >= self._timings.settle_most:
            wait = unknown_error_after(now - (trouble.since or now), self._timings)
        attempts = account.trouble.attempts + 1
        trouble = replace(trouble, ambiguous=count, attempts=attempts, not_before=now + wait)
        log.warning("renewal.uncertain", account=account.name, why=trouble.detail, again_in=round(wait, 1))
        # After that, any broker may send it.
        free_after = quarantine(timed_out=outcome.timed_out, grace=grace, timings=self._timings)
        return await self.settle(account, trouble, keep_intent=True, free_after=free_after)

    async def back_off(
        self,
        account: Account,
        reason: Reason,
        why: str,
        *,
        at_least: float = 0.0,
        events: Sequence[Event] = (),
    ) -> FlightEnd:
        """The provider certainly did not process the request: try again, after a longer pause each time."""
        now, attempts = self._clock.now(), account.trouble.attempts + 1
        wait = max(at_least, backoff(attempts, self._timings))
        shown = reason
        if account.trouble.ambiguous:
            # This failure does not make the unknown outcome of an older attempt known.
            older = account.trouble.reason
            shown = older if older in (Reason.UNREADABLE, Reason.UNKNOWN_ERROR) else Reason.UNCERTAIN
        trouble = replace(since_trouble(account, shown, now, why), attempts=attempts, not_before=now + wait)
        log.warning("renewal.failed", account=account.name, reason=reason, why=why, again_in=round(wait, 1))
        return await self.settle(account, trouble, events=events)

    async def pause(self, account: Account, seconds: float, why: str) -> FlightEnd:
        """429: the whole provider is left alone for so many seconds, not only the account."""
        now = self._clock.now()
        self._permit.breaker(account.provider).pause(now + seconds)
        log.warning("provider.paused", provider=account.provider, seconds=round(seconds), why=why)
        await self._store.settle(
            account.ref, trouble=account.trouble, next_at=now + seconds, at=now, intent=intent_of(account)
        )
        return NotRenewed(Hold(Reason.PROVIDER_PAUSED, now + seconds))

    async def client_not_configured(self, account: Account) -> FlightEnd:
        """R9: a grant is renewed with the client that obtained it, which the configuration no longer has."""
        now = self._clock.now()
        trouble = since_trouble(account, Reason.CLIENT_NOT_CONFIGURED, now)
        return await self.settle(account, replace(trouble, not_before=now + self._timings.backoff_most))

    async def without_refresh_token(self, account: Account) -> FlightEnd:
        """The account has no refresh token: wait until its access token expires, then end the grant."""
        if not is_valid(account, self._clock.now()):
            return await self.end_grant(account, Reason.NO_REFRESH_TOKEN)
        if account.is_endless:
            return Renewed()
        await self._store.schedule(account.ref, account.expires_at)
        return NotRenewed(Hold(Reason.NO_REFRESH_TOKEN, account.expires_at))

    async def record_damaged(self, account: Account, *, may_come_back: bool) -> FlightEnd:
        """The refresh token cannot be decrypted. `may_come_back`: only its key is missing, the record may be sound."""
        if may_come_back or is_valid(account, self._clock.now()):
            return await self.back_off(
                account, Reason.RECORD_DAMAGED, "cannot be decrypted", at_least=DAMAGED_AGAIN
            )
        return await self.end_grant(account, Reason.RECORD_DAMAGED)

    async def check_rejection(
        self, account: Account, provider: OAuth2Provider, access: Secret | None
    ) -> FlightEnd:
        """Check a report that a token without a stated expiry was rejected.

        The grant ends if the identity endpoint rejects the token too. If the provider has no such endpoint, it ends at
        a second report a minute later: one faulty caller must not end a grant.
        """
        self._permit.settle_rejection(account)
        now, first, is_over = self._clock.now(), account.trouble.first_refused_at, False
        outcome = None if access is None else await provider.identify(access, org=account.org)
        if isinstance(outcome, IdentityUnknown) and outcome.why == NO_ENDPOINT:
            if first is None or not 0 <= now - first <= REPORTS_WITHIN:
                first = now
            is_over = now - first >= self._timings.confirm_uncertain
        elif isinstance(outcome, IdentityUnknown):
            is_over = outcome.status == 401
        if is_over:
            return await self.end_grant(account, Reason.REVOKED_OR_EXPIRED)
        await self._store.settle(
            account.ref,
            trouble=replace(since_trouble(account, Reason.REJECTED, now), first_refused_at=first),
            keep_intent=True,
            next_at=account.expires_at,
            at=now,
            intent=intent_of(account),
        )
        return NotRenewed(Hold(Reason.REJECTED, now + self._timings.backoff_most))

    async def access_token_missing(self, account: Account) -> FlightEnd:
        """The new refresh token is stored, but the answer had no access token: renew again after the quarantine."""
        current = await self._store.get(account.name)
        if current is None:
            return Renewed()
        now, attempts = self._clock.now(), account.trouble.attempts + 1
        wait = max(self._timings.quarantine_dropped, backoff(attempts, self._timings))
        trouble = since_trouble(account, Reason.PROVIDER_DECLINED, now)
        return await self.settle(current, replace(trouble, attempts=attempts, not_before=now + wait))

    async def end_grant(self, account: Account, reason: Reason) -> FlightEnd:
        """Record that the account needs re-authorization.

        The tokens are kept for 30 days: a late commit, a spare or an operator may make the grant usable again.
        """
        now, trouble = self._clock.now(), account.trouble
        kind = EventKind.NEEDS_REAUTHORIZATION
        await self._store.settle(
            account.ref,
            trouble=trouble,
            dead=reason,
            next_at=None,
            at=now,
            events=[Event.of(account, kind, now, reason, detail=trouble.detail)],
            intent=intent_of(account),
        )
        log.error("account.needs_reauthorization", account=account.name, reason=reason, why=trouble.detail)
        return NotRenewed(Hold(reason, None))

    async def settle(
        self,
        account: Account,
        trouble: Trouble,
        *,
        keep_intent: bool = False,
        free_after: float | None = None,
        events: Sequence[Event] = (),
    ) -> FlightEnd:
        """Record how the attempt ended. The next one may start at `trouble.not_before`.

        `keep_intent` because the outcome is unknown; any broker may then take its lease after `free_after` seconds.
        """
        now = self._clock.now()
        # A first refusal is confirmed within seconds; only what stays is worth an event.
        if account.status is Status.ACTIVE and trouble.reason is not Reason.REFUSED_ONCE:
            kind = EventKind.REFRESH_FAILING
            events = [*events, Event.of(account, kind, now, trouble.reason, detail=trouble.detail)]
        await self._store.settle(
            account.ref,
            trouble=trouble,
            keep_intent=keep_intent,
            next_at=trouble.not_before,
            at=now,
            events=events,
            intent=intent_of(account),
            free_after=free_after,
        )
        self._watch(Step.SETTLED)
        return NotRenewed(Hold(trouble.reason, trouble.not_before, detail=trouble.detail))

    def events_of_success(self, account: Account, successor: Successor) -> list[Event]:
        """Return the event of the renewal, and those that report earlier trouble as over."""
        now, was = self._clock.now(), account.reason
        renewed = replace(account, generation=account.generation + 1)
        events = [Event.of(renewed, EventKind.RENEWED, now)]
        if self._permit.breaker(account.provider).client_refused_since is not None:
            reason = Reason.CLIENT_REFUSED
            events.append(Event(now, EventKind.RECOVERED, provider=account.provider, reason=reason))
        if successor.unusable and was is not Reason.TOKEN_UNUSABLE:
            why, kind = oauth.why_unusable(successor.token_type), EventKind.REFRESH_FAILING
            events.append(Event.of(renewed, kind, now, Reason.TOKEN_UNUSABLE, detail=why))
        elif (
            not successor.unusable and account.status is not Status.ACTIVE and was is not Reason.REFUSED_ONCE
        ):
            events.append(Event.of(renewed, EventKind.RECOVERED, now, was))
        return events


def intent_of(account: Account) -> str:
    """Return the id of the attempt that is being settled, so that another broker's later attempt is not touched."""
    return "" if account.intent is None else account.intent.id


def since_trouble(account: Account, reason: Reason, now: float, detail: str | None = None) -> Trouble:
    """Return the account's trouble with a new reason. `since` keeps the time when the trouble began."""
    old = account.trouble
    return replace(old, reason=reason, since=now if old.since is None else old.since, detail=detail)
