"""How the end of an attempt is noted: R7's quarantine, R9's pauses, the backoff, rejections, and its events."""

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
        now, grace, count = self._clock.now(), self._permit.grace(account), account.trouble.ambiguous + 1
        wait = settle_after(count, timed_out=outcome.timed_out, grace=grace, timings=self._timings)
        trouble = since_trouble(account, outcome.reason, now, cause_of(outcome))
        if outcome.reason is Reason.UNKNOWN_ERROR and wait >= self._timings.settle_most:
            wait = unknown_error_after(now - (trouble.since or now), self._timings)
        attempts = account.trouble.attempts + 1
        trouble = replace(trouble, ambiguous=count, attempts=attempts, not_before=now + wait)
        log.warning("renewal.uncertain", account=account.name, why=trouble.detail, again_in=round(wait, 1))
        # From then on any broker may send it.
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
        """Certainly not processed: try again, later each time."""
        now, attempts = self._clock.now(), account.trouble.attempts + 1
        wait = max(at_least, backoff(attempts, self._timings))
        shown = reason
        if account.trouble.ambiguous:
            # An attempt that was certainly not processed does not make an older uncertain one certain.
            older = account.trouble.reason
            shown = older if older in (Reason.UNREADABLE, Reason.UNKNOWN_ERROR) else Reason.UNCERTAIN
        trouble = replace(since_trouble(account, shown, now, why), attempts=attempts, not_before=now + wait)
        log.warning("renewal.failed", account=account.name, reason=reason, why=why, again_in=round(wait, 1))
        return await self.settle(account, trouble, events=events)

    async def pause(self, account: Account, seconds: float, why: str) -> FlightEnd:
        """429: the provider waits, not the account."""
        until = self._clock.now() + seconds
        self._permit.breaker(account.provider).pause(until)
        log.warning("provider.paused", provider=account.provider, seconds=round(seconds), why=why)
        await self._note(account, account.trouble, next_at=until)
        return NotRenewed(Hold(Reason.PROVIDER_PAUSED, until))

    async def client_not_configured(self, account: Account) -> FlightEnd:
        """R9: a grant is renewed with the client that minted it, or not sent at all."""
        now = self._clock.now()
        trouble = since_trouble(account, Reason.CLIENT_NOT_CONFIGURED, now)
        return await self.settle(account, replace(trouble, not_before=now + self._timings.backoff_most))

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
        now, first, is_over = self._clock.now(), account.trouble.first_refused_at, False
        outcome = None if access is None else await provider.identify(access, org=account.org)
        if isinstance(outcome, IdentityUnknown) and outcome.why == NO_ENDPOINT:
            if first is None or not 0 <= now - first <= REPORTS_WITHIN:
                first = now
            is_over = now - first >= self._timings.confirm_uncertain
        elif isinstance(outcome, IdentityUnknown):
            is_over = outcome.status == 401
        if is_over:
            return await self.die(account, Reason.REVOKED_OR_EXPIRED)
        trouble = replace(since_trouble(account, Reason.REJECTED, now), first_refused_at=first)
        await self._note(account, trouble, keep_intent=True, next_at=account.expires_at)
        return NotRenewed(Hold(Reason.REJECTED, now + self._timings.backoff_most))

    async def access_token_missing(self, account: Account) -> FlightEnd:
        """The successor is safe but there is nothing to serve: once more, after the quarantine."""
        current = await self._store.get(account.name)
        if current is None:
            return Renewed()
        now, attempts = self._clock.now(), account.trouble.attempts + 1
        wait = max(self._timings.quarantine_dropped, backoff(attempts, self._timings))
        trouble = since_trouble(account, Reason.PROVIDER_DECLINED, now)
        return await self.settle(current, replace(trouble, attempts=attempts, not_before=now + wait))

    async def die(self, account: Account, reason: Reason) -> FlightEnd:
        """End the grant; its ciphertext is kept, and a late commit, a spare or an operator reopens it."""
        event = _event_of(
            account, EventKind.NEEDS_REAUTHORIZATION, reason, self._clock.now(), account.trouble
        )
        await self._note(account, account.trouble, dead=reason, next_at=None, events=[event])
        log.error("account.died", account=account.name, reason=reason, why=account.trouble.detail)
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
        """Note how the attempt ended; `trouble.not_before` says when the next may be."""
        # A first refusal is confirmed within seconds; only what stays is worth telling.
        if account.status is Status.ACTIVE and trouble.reason is not Reason.REFUSED_ONCE:
            failing = _event_of(
                account, EventKind.REFRESH_FAILING, trouble.reason, self._clock.now(), trouble
            )
            events = [*events, failing]
        await self._note(
            account,
            trouble,
            keep_intent=keep_intent,
            next_at=trouble.not_before,
            free_after=free_after,
            events=events,
        )
        self._watch(Step.SETTLED)
        return NotRenewed(Hold(trouble.reason, trouble.not_before, detail=trouble.detail))

    def events_of_success(self, account: Account, successor: Successor) -> list[Event]:
        """The renewal, and the end of whatever trouble came before it."""
        now, generation, was = self._clock.now(), account.generation + 1, account.reason
        about = account.name, account.provider
        events = [Event(now, EventKind.RENEWED, *about, None, generation)]
        if self._permit.breaker(account.provider).client_refused_since is not None:
            reason = Reason.CLIENT_REFUSED
            events.append(Event(now, EventKind.RECOVERED, provider=account.provider, reason=reason))
        if successor.unusable and was is not Reason.TOKEN_UNUSABLE:
            why = oauth.why_unusable(successor.token_type)
            kind, reason = EventKind.REFRESH_FAILING, Reason.TOKEN_UNUSABLE
            events.append(Event(now, kind, *about, reason, generation, detail=why))
        elif (
            not successor.unusable and account.status is not Status.ACTIVE and was is not Reason.REFUSED_ONCE
        ):
            events.append(Event(now, EventKind.RECOVERED, *about, was, generation))
        return events

    async def _note(
        self,
        account: Account,
        trouble: Trouble,
        *,
        next_at: float | None,
        keep_intent: bool = False,
        dead: Reason | None = None,
        free_after: float | None = None,
        events: Sequence[Event] = (),
    ) -> None:
        await self._store.settle(
            account.ref,
            trouble=trouble,
            keep_intent=keep_intent,
            dead=dead,
            next_at=next_at,
            at=self._clock.now(),
            events=events,
            intent=intent_of(account),
            free_after=free_after,
        )


def _event_of(
    account: Account, kind: EventKind, reason: Reason | None, now: float, trouble: Trouble
) -> Event:
    return Event(now, kind, account.name, account.provider, reason, account.generation, detail=trouble.detail)


def intent_of(account: Account) -> str:
    """Which attempt is being settled; what another broker has begun since is not touched."""
    return "" if account.intent is None else account.intent.id


def since_trouble(account: Account, reason: Reason, now: float, detail: str | None = None) -> Trouble:
    """The account's trouble with this reason, and since when it is in trouble at all."""
    old = account.trouble
    return replace(old, reason=reason, since=now if old.since is None else old.since, detail=detail)
