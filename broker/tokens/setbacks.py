"""How the end of an attempt is noted: R7's quarantine, R9's pauses, the backoff, rejections, and its events."""

from dataclasses import replace

import structlog

from broker import oauth
from broker.context import Context
from broker.model import Account, Event, EventKind, Reason, Secret, Status, Successor, Trouble
from broker.providers.oauth2 import OAuth2Provider
from broker.providers.outcomes import NO_ENDPOINT, Ambiguous, IdentityUnknown, cause_of
from broker.tokens.flight import FlightEnd, NotRenewed, Renewed
from broker.tokens.permit import Permit
from broker.tokens.policy import Hold, is_living
from broker.tokens.schedule import (
    Step,
    Timings,
    Watch,
    backoff,
    quarantine,
    settle_after,
    unknown_error_after,
)

log = structlog.get_logger()
REPORTS_WITHIN = 86400.0
"""How far apart two reports of a rejected token may be to count together."""
DAMAGED_AGAIN = 60.0
"""Seconds until a record that could not be decrypted is tried again."""


class Setbacks:
    """Writes down how an attempt ended, and when the next may be."""

    def __init__(self, context: Context, *, permit: Permit, timings: Timings, watch: Watch) -> None:
        self._store, self._clock = context.stores.accounts, context.steady
        self._permit, self._timings, self._watch = permit, timings, watch

    async def uncertain(self, account: Account, outcome: Ambiguous) -> FlightEnd:
        """R7: keep the intent, quarantine, then the same token again."""
        now = self._clock.now()
        count = account.trouble.ambiguous + 1
        wait = settle_after(
            count, timed_out=outcome.timed_out, grace=self._permit.grace(account), timings=self._timings
        )
        trouble = since_trouble(account, outcome.reason, now, cause_of(outcome))
        if outcome.reason is Reason.UNKNOWN_ERROR and wait >= self._timings.settle_most:
            wait = unknown_error_after(now - (trouble.since or now), self._timings)
        trouble = replace(
            trouble,
            ambiguous=count,
            attempts=account.trouble.attempts + 1,
            not_before=now + wait,
        )
        log.warning("renewal.uncertain", account=account.name, why=trouble.detail, again_in=round(wait, 1))
        # From then on any broker may send it.
        free_after = quarantine(
            timed_out=outcome.timed_out, grace=self._permit.grace(account), timings=self._timings
        )
        return await self.settle(account, trouble, keep_intent=True, free_after=free_after)

    async def back_off(
        self,
        account: Account,
        reason: Reason,
        why: str,
        *,
        at_least: float = 0.0,
        events: list[Event] | None = None,
    ) -> FlightEnd:
        """Certainly not processed: try again, later each time."""
        now = self._clock.now()
        attempts = account.trouble.attempts + 1
        wait = max(at_least, backoff(attempts, self._timings))
        # An attempt that was certainly not processed does not make an older uncertain one certain.
        shown = unsettled(account) or reason
        trouble = replace(since_trouble(account, shown, now, why), attempts=attempts, not_before=now + wait)
        log.warning("renewal.failed", account=account.name, reason=reason, why=why, again_in=round(wait, 1))
        return await self.settle(account, trouble, keep_intent=False, events=events)

    async def pause(self, account: Account, seconds: float, why: str) -> FlightEnd:
        """429: the provider waits, not the account."""
        now = self._clock.now()
        self._permit.breaker(account.provider).pause(now + seconds)
        log.warning("provider.paused", provider=account.provider, seconds=round(seconds), why=why)
        await self._store.settle(
            account.ref,
            trouble=account.trouble,
            keep_intent=False,
            dead=None,
            next_at=now + seconds,
            at=now,
            events=[],
            intent=intent_of(account),
        )
        return NotRenewed(Hold(Reason.PROVIDER_PAUSED, now + seconds))

    async def client_not_configured(self, account: Account) -> FlightEnd:
        """R9: a grant is renewed with the client that minted it, or not sent at all."""
        now = self._clock.now()
        trouble = replace(
            since_trouble(account, Reason.CLIENT_NOT_CONFIGURED, now),
            not_before=now + self._timings.backoff_most,
        )
        return await self.settle(account, trouble, keep_intent=False)

    async def without_refresh_token(self, account: Account) -> FlightEnd:
        if not is_living(account, self._clock.now()):
            return await self.die(account, Reason.NO_REFRESH_TOKEN)
        if account.is_endless:
            # There is nothing to renew, and what there is goes on.
            return Renewed()
        await self._store.schedule(account.ref, account.expires_at)
        return NotRenewed(Hold(Reason.NO_REFRESH_TOKEN, account.expires_at))

    async def record_damaged(self, account: Account, *, may_come_back: bool) -> FlightEnd:
        """The refresh token cannot be decrypted. `may_come_back`: its key is missing, and the record may be sound."""
        if may_come_back or is_living(account, self._clock.now()):
            return await self.back_off(
                account, Reason.RECORD_DAMAGED, "does not open", at_least=DAMAGED_AGAIN
            )
        return await self.die(account, Reason.RECORD_DAMAGED)

    async def look_into_rejection(
        self, account: Account, provider: OAuth2Provider, access: Secret | None
    ) -> FlightEnd:
        """A token without a stated end is over when the identity endpoint rejects it, too; where there is none, at a
        second report a minute later. One faulty caller must not end it."""
        self._permit.settle_rejection(account)
        now, outcome = self._clock.now(), None
        if access is not None:
            outcome = await provider.identify(access, org=account.org)
        first = account.trouble.first_refused_at
        is_over = isinstance(outcome, IdentityUnknown) and outcome.status == 401
        if isinstance(outcome, IdentityUnknown) and outcome.why == NO_ENDPOINT:
            if first is None or not 0 <= now - first <= REPORTS_WITHIN:
                first = now
            is_over = now - first >= self._timings.confirm_uncertain
        if is_over:
            return await self.die(account, Reason.REVOKED_OR_EXPIRED)
        trouble = since_trouble(account, Reason.REJECTED, now)
        await self._store.settle(
            account.ref,
            trouble=replace(trouble, first_refused_at=first),
            keep_intent=True,
            dead=None,
            next_at=account.expires_at,
            at=now,
            events=[],
        )
        return NotRenewed(Hold(Reason.REJECTED, now + self._timings.backoff_most))

    async def access_token_missing(self, account: Account) -> FlightEnd:
        """The successor is safe but there is nothing to serve: once more, after the quarantine."""
        current = await self._store.get(account.name)
        if current is None:
            return Renewed()
        now = self._clock.now()
        wait = max(self._timings.quarantine_dropped, backoff(account.trouble.attempts + 1, self._timings))
        trouble = replace(
            since_trouble(account, Reason.PROVIDER_DECLINED, now),
            attempts=account.trouble.attempts + 1,
            not_before=now + wait,
        )
        return await self.settle(current, trouble, keep_intent=False)

    async def die(self, account: Account, reason: Reason) -> FlightEnd:
        now = self._clock.now()
        event = Event(
            now,
            EventKind.NEEDS_REAUTHORIZATION,
            account.name,
            account.provider,
            reason,
            account.generation,
            detail=account.trouble.detail,
        )
        await self._store.settle(
            account.ref,
            trouble=account.trouble,
            keep_intent=False,
            dead=reason,
            next_at=None,
            at=now,
            events=[event],
            intent=intent_of(account),
        )
        log.error("account.died", account=account.name, reason=reason, why=account.trouble.detail)
        return NotRenewed(Hold(reason, None))

    async def settle(
        self,
        account: Account,
        trouble: Trouble,
        *,
        keep_intent: bool,
        free_after: float | None = None,
        events: list[Event] | None = None,
    ) -> FlightEnd:
        """Note how the attempt ended; when the next may be stands in `trouble.not_before`."""
        now = self._clock.now()
        told = [*(events or []), *self._failure_events(account, trouble, now)]
        await self._store.settle(
            account.ref,
            trouble=trouble,
            keep_intent=keep_intent,
            dead=None,
            next_at=trouble.not_before,
            at=now,
            events=told,
            intent=intent_of(account),
            free_after=free_after,
        )
        self._watch(Step.SETTLED)
        return NotRenewed(Hold(trouble.reason, trouble.not_before, detail=trouble.detail))

    def events_of_success(self, account: Account, successor: Successor) -> list[Event]:
        """The renewal, and the end of whatever trouble came before it."""
        now, generation = self._clock.now(), account.generation + 1
        events = [Event(now, EventKind.RENEWED, account.name, account.provider, None, generation)]
        if self._permit.breaker(account.provider).client_refused_since is not None:
            reason = Reason.CLIENT_REFUSED
            events.append(Event(now, EventKind.RECOVERED, provider=account.provider, reason=reason))
        about, was = (account.name, account.provider), account.reason
        if successor.unusable:
            if was is not Reason.TOKEN_UNUSABLE:
                reason = Reason.TOKEN_UNUSABLE
                why = oauth.why_unusable(successor.token_type)
                events.append(Event(now, EventKind.REFRESH_FAILING, *about, reason, generation, detail=why))
        elif account.status is not Status.ACTIVE and was is not Reason.REFUSED_ONCE:
            events.append(Event(now, EventKind.RECOVERED, *about, was, generation))
        return events

    def _failure_events(self, account: Account, trouble: Trouble, now: float) -> list[Event]:
        # A first refusal is confirmed within seconds; only what stays is worth telling.
        if account.status is not Status.ACTIVE or trouble.reason is Reason.REFUSED_ONCE:
            return []
        return [
            Event(
                now,
                EventKind.REFRESH_FAILING,
                account.name,
                account.provider,
                trouble.reason,
                account.generation,
                detail=trouble.detail,
            )
        ]


def intent_of(account: Account) -> str:
    """Which attempt is being settled; what another broker has begun since is not touched."""
    return "" if account.intent is None else account.intent.id


def since_trouble(account: Account, reason: Reason, now: float, detail: str | None = None) -> Trouble:
    """The account's trouble with this reason, and since when it is in trouble at all."""
    old = account.trouble
    return replace(old, reason=reason, since=now if old.since is None else old.since, detail=detail)


def unsettled(account: Account) -> Reason | None:
    """Why it is not known whether a renewal was processed, where it is not."""
    if not account.trouble.ambiguous:
        return None
    reason = account.trouble.reason
    return reason if reason in (Reason.UNREADABLE, Reason.UNKNOWN_ERROR) else Reason.UNCERTAIN
