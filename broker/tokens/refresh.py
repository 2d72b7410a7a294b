"""R1 to R8: one renewal, step by step as the protocol describes it.

Read `renew` first; each method below names its rule. Only this module calls a provider's token endpoint for a renewal.
It hands a token to nobody: callers that wait get the row that the store has committed (I1).
"""

import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

import structlog

from broker import oauth
from broker.clock import within
from broker.config.settings import Rotation
from broker.context import Context
from broker.encryption.keyring import DecryptionFailed, UnknownKey
from broker.errors import StorageUnavailable
from broker.model import (
    Account,
    Event,
    EventKind,
    Intent,
    Reason,
    Ref,
    Secret,
    Spare,
    Successor,
    TokenSet,
    window_opens,
)
from broker.providers.oauth2 import OAuth2Provider
from broker.providers.outcomes import (
    Ambiguous,
    ClientRefused,
    Declined,
    Grant,
    Granted,
    NotSent,
    Paused,
    Refused,
    TokenOutcome,
    TokenRequest,
    cause_of,
)
from broker.store.renewals import Committed, EpochMoved, GenerationMoved
from broker.tokens.flight import FlightEnd, NotRenewed, Renewed, Waiters
from broker.tokens.permit import Permit
from broker.tokens.policy import Hold, grant_end
from broker.tokens.recovery import LeaseLost, Leases, RetainedCommits
from broker.tokens.schedule import Step, Watch, confirm_after, death_needs, quarantine
from broker.tokens.setbacks import Setbacks, intent_of, since_trouble

log = structlog.get_logger()
READ_EVERY = 1.0
"""Seconds between two readings of a row that another broker renews, in case no notification arrives."""
SPARE_NEEDS, UNUSUAL_SPARE_NEEDS = 2, 3
"""Refusals after which a spare is dropped: with the error of the standard, and with another one."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One refresh token that is about to be sent, and for which account."""

    account: Account
    provider: OAuth2Provider
    token: Secret
    spare: Spare | None = None
    first: bool = False
    """The spare is tried before the account's own token, which the provider has not refused."""
    secret_index: int = 0


class Refresher:
    """Renews a grant. `Flights` ensures that each grant has at most one renewal at a time."""

    def __init__(
        self,
        context: Context,
        *,
        permit: Permit,
        retained: RetainedCommits,
        leases: Leases,
        waiters: Waiters,
        watch: Watch,
    ) -> None:
        self._store, self._clock = context.stores.accounts, context.steady
        self._encryption, self._metrics = context.encryption, context.metrics
        self._providers, self._settings = context.providers, context.settings.refresh
        self._permit, self._retained, self._leases, self._waiters = permit, retained, leases, waiters
        self._timings, self._watch = permit.timings, watch
        self._sending: set[str] = set()
        """Accounts with a POST outstanding. Two of one account would violate I4."""
        self._setbacks = Setbacks(context, permit, watch)

    async def renew(self, wanted: Ref) -> FlightEnd:
        """Renew the grant from generation `wanted.generation`, unless it has a newer generation already.

        If another broker is renewing it, wait for that one and return its result.
        """
        change = self._waiters.change_of(wanted.name)
        with self._metrics.refreshes_in_flight.track_inprogress():
            while True:
                try:
                    if (end := await self._renew(wanted)) is not None:
                        return end
                except LeaseLost as lost:
                    self._count(lost.account, "lost_race")
                except StorageUnavailable:
                    return NotRenewed(Hold(Reason.STORAGE, self._clock.now() + 1))
                await within(self._clock, READ_EVERY, change)
                change = self._waiters.change_of(wanted.name)

    async def _renew(self, wanted: Ref, *, holding: bool = False) -> FlightEnd | None:
        """Return None if another broker is renewing the grant. `holding`: its lease is ours already."""
        account = await self._store.get(wanted.name)
        if account is None or account.removed_at is not None or account.ref != wanted:
            return Renewed()
        hold = self._permit.hold(account, self._clock.now())  # R1
        if hold is None and not (holding or await self._leases.is_free(account)):
            return None
        hold = hold or self._permit.enter(account, self._clock.now())
        if hold is not None:
            return NotRenewed(hold)
        provider = self._providers.get(account.provider)
        if provider is None or not provider.knows_client(account.client_id):
            return await self._setbacks.client_not_configured(account)
        try:
            token = self._encryption.refresh_token(account)
        except DecryptionFailed as exc:
            return await self._refresh_token_damaged(account, provider, exc)
        if token is None and account.is_endless and self._permit.is_rejected(account):
            return await self._setbacks.check_rejection(account, provider, self._access_token(account))
        if token is None:
            return await self._setbacks.without_refresh_token(account)
        self._watch(Step.GATE_PASSED)
        if account.trouble.ambiguous and self._permit.rotation(account) is Rotation.FAMILY:
            # A replay of the old token would revoke the family, so a successor salvaged from half an answer goes first.
            for spare, salvaged in await self._spares(account):
                if spare.generation == account.generation:
                    return await self._attempt(Attempt(account, provider, salvaged, spare, first=True))
        return await self._attempt(Attempt(account, provider, token))

    async def _spares(self, account: Account) -> list[tuple[Spare, Secret]]:
        """Return the spares that can be decrypted, newest first."""
        decrypted = []
        for spare in await self._store.spares(account.name, account.epoch):
            try:
                decrypted.append((spare, self._encryption.spare_token(spare)))
            except DecryptionFailed as exc:
                log.error("record.decryption_failed", account=account.name, spare=spare.id, why=str(exc))
        return decrypted

    async def _refresh_token_damaged(
        self, account: Account, provider: OAuth2Provider, why: DecryptionFailed
    ) -> FlightEnd:
        """The record is damaged or its key is missing: a spare may still work."""
        log.error("record.decryption_failed", account=account.name, why=str(why))
        for spare, token in await self._spares(account):
            return await self._attempt(Attempt(account, provider, token, spare))
        if self._access_token(account) is None:
            account = replace(account, sealed_access=None)
        return await self._setbacks.record_damaged(account, may_come_back=isinstance(why, UnknownKey))

    def _access_token(self, account: Account) -> Secret | None:
        with suppress(DecryptionFailed):
            return self._encryption.access_token(account)
        return None

    async def _attempt(self, attempt: Attempt) -> FlightEnd:
        """R5: send one token, and do what the class of the answer requires."""
        attempt, outcome = await self._send(attempt)
        self._watch(Step.ANSWERED)
        match outcome:
            case Granted(tokens):
                return await self._commit(attempt, tokens)
            case Refused():
                self._count(attempt.account, "refused")
                return await self._refused(attempt, outcome)
            case ClientRefused():
                self._count(attempt.account, "rejected_client")
                return await self._client_refused(attempt, outcome)
            case Ambiguous():
                self._count(attempt.account, "ambiguous")
                # R7: a salvaged token is kept; the intent stays, and the same token is sent after the quarantine.
                await self._keep_spare(attempt.account.ref, outcome.salvage)
                return await self._setbacks.uncertain(attempt.account, outcome)
            case NotSent(why):
                self._count(attempt.account, "not_sent")
                return await self._setbacks.back_off(attempt.account, Reason.PROVIDER_UNAVAILABLE, why)
            case Declined():
                self._count(attempt.account, "refused")
                grace = self._permit.grace(attempt.account)
                wait = quarantine(timed_out=False, grace=grace, timings=self._timings)
                return await self._setbacks.back_off(
                    attempt.account, Reason.PROVIDER_DECLINED, cause_of(outcome), at_least=wait
                )
            case Paused(seconds):
                self._count(attempt.account, "rate_limited")
                return await self._setbacks.pause(attempt.account, seconds, outcome.why)
            case _:
                assert_never(outcome)

    async def _send(self, attempt: Attempt) -> tuple[Attempt, TokenOutcome]:
        """R2, R3, R4: connect, write the intent, POST once. Return the attempt with its intent, and the outcome."""
        account = attempt.account
        announced: Intent | None = None

        async def announce() -> None:
            nonlocal announced
            self._watch(Step.CONNECTED)
            announced = await self._leases.announce(account)
            self._watch(Step.INTENT_DURABLE)

        request = TokenRequest(
            grant=Grant.REFRESH,
            token=attempt.token,
            client_id=account.client_id,
            org=account.org,
            scope=account.scope,
            secret_index=attempt.secret_index,
        )
        if account.name in self._sending:
            self._metrics.invariant_violations.labels("I4").inc()
        self._sending.add(account.name)
        try:
            with self._metrics.refresh_seconds.labels(account.provider).time():
                outcome = await attempt.provider.request_token(request, before_send=announce)
        finally:
            self._sending.discard(account.name)
        if announced is not None:
            attempt = replace(attempt, account=replace(account, intent=announced))
        elif not isinstance(outcome, NotSent):
            self._metrics.invariant_violations.labels("I9").inc()
        return attempt, outcome

    async def _commit(self, attempt: Attempt, tokens: TokenSet) -> FlightEnd:
        """R6: make the token set durable first; only then does the store's change feed show it to anybody."""
        account = attempt.account
        successor = self._successor(attempt, tokens)
        events = self._setbacks.events_of_success(account, successor)
        committed = None
        try:
            committed = await self._store.commit(successor, events)
            self._watch(Step.COMMIT_DURABLE)
        except StorageUnavailable:
            await self._retained.keep(successor, events)
        # R9: the provider accepts our client. Nothing that can fail comes between the answer and its commit.
        if self._permit.breaker(account.provider).succeeded(account.ref, self._clock.now()):
            self._metrics.provider_open.labels(account.provider).set(0)
            log.info("provider.accepts_client_again", provider=account.provider)
        row: Account | None = None
        match committed:
            case None:
                return NotRenewed(Hold(Reason.STORAGE, self._clock.now() + 1))
            case Committed(row):
                self._count(account, "renewed")
                new = account.generation + 1
                log.info("token.renewed", account=account.name, generation=new, flags=tokens.flags)
            case GenerationMoved():
                self._count(account, "lost_race")
                await self._keep_spare(account.ref, tokens.refresh_token)
            case EpochMoved():
                log.warning("token.superseded", account=account.name)
        if attempt.spare is not None:
            await self._store.drop_spare(attempt.spare.id)
        if tokens.access_token is None:
            return await self._setbacks.access_token_missing(account)
        return Renewed(row)

    def _successor(self, attempt: Attempt, tokens: TokenSet) -> Successor:
        account, now = attempt.account, self._clock.now()
        # RFC 6749 section 6: if the provider sends no refresh token, the old one stays valid.
        refresh = tokens.refresh_token or attempt.token
        ref = replace(account.ref, generation=account.generation + 1)
        access, refreshed = self._encryption.encrypt(ref, tokens.access_token, refresh)
        token = tokens.access_token
        ends_at, ages = grant_end(account, tokens)
        return Successor(
            parent=account.ref,
            sealed_access=access,
            sealed_refresh=refreshed,
            token_type=tokens.token_type,
            scope=account.scope if tokens.scope is None else tokens.scope,
            issued_at=tokens.issued_at,
            expires_at=tokens.expires_at,
            refreshed_at=now,
            next_at=window_opens(tokens, self._settings.ahead),
            unusable=token is not None and not oauth.is_usable(token, tokens.token_type),
            grant_ends_at=ends_at,
            grant_ages=ages,
        )

    async def _refused(self, attempt: Attempt, outcome: Refused) -> FlightEnd:
        """R8: end the grant only after confirmation and after the spares, and never during a mass refusal."""
        account, now = await self._store.get(attempt.account.name), self._clock.now()
        if account is None or account.ref != attempt.account.ref:
            return Renewed()
        # Compared by its id, because the store's clock writes the lease's end. Another attempt is not judged here.
        if intent_of(account) != intent_of(attempt.account):
            return Renewed()
        if attempt.spare is not None:
            return await self._spare_refused(account, attempt, attempt.spare, usual=outcome.usual)
        breaker = self._permit.breaker(account.provider)
        breaker.refused(account.ref, now)
        old = account.trouble
        first = now if old.first_refused_at is None else old.first_refused_at
        unusual = old.unusual or not outcome.usual
        slow = unusual or old.ambiguous > 0
        wait = confirm_after(old.refusals + 1, first, now, slow=slow, timings=self._timings)
        reason = Reason.UNCERTAIN if old.ambiguous else Reason.REFUSED_ONCE
        trouble = replace(
            since_trouble(account, reason, now, cause_of(outcome)),
            refusals=old.refusals + 1,
            first_refused_at=first,
            not_before=now + wait,
            unusual=unusual,
        )
        log.warning("renewal.refused", account=account.name, why=trouble.detail, refusals=trouble.refusals)
        span = self._timings.confirm_uncertain if slow else self._timings.confirm
        needed = death_needs(old.ambiguous, unusual=unusual)
        if trouble.refusals < needed or now - first < span:
            return await self._setbacks.settle(account, trouble)
        return await self._next_spare_or_end(account.with_trouble(trouble), attempt.provider)

    async def _spare_refused(
        self, account: Account, attempt: Attempt, spare: Spare, *, usual: bool
    ) -> FlightEnd:
        """Try a refused spare again and then drop it: its first refusal is not believed either."""
        needs = SPARE_NEEDS if usual else UNUSUAL_SPARE_NEEDS
        if spare.refusals + 1 < needs:
            await self._store.refuse_spare(spare.id)
            pause = self._timings.confirm if usual else self._timings.confirm_uncertain / (needs - 1)
            trouble = replace(attempt.account.trouble, not_before=self._clock.now() + pause)
            return await self._setbacks.settle(account, trouble)
        await self._store.drop_spare(spare.id)
        if attempt.first:
            return await self._renew(account.ref, holding=True) or Renewed()
        return await self._next_spare_or_end(account.with_trouble(attempt.account.trouble), attempt.provider)

    async def _next_spare_or_end(self, account: Account, provider: OAuth2Provider) -> FlightEnd:
        for spare, token in await self._spares(account):
            return await self._attempt(Attempt(account, provider, token, spare))
        now = self._clock.now()
        if self._permit.breaker(account.provider).is_mass_refusing(now):
            trouble = replace(
                since_trouble(account, Reason.MASS_REFUSAL, now), not_before=now + self._timings.probe
            )
            return await self._setbacks.settle(account, trouble)
        reason = Reason.LOST_ROTATION if account.trouble.ambiguous else Reason.REVOKED_OR_EXPIRED
        return await self._setbacks.end_grant(account, reason)

    async def _client_refused(self, attempt: Attempt, outcome: ClientRefused) -> FlightEnd:
        """R9: try the second client secret, then back off. Two such accounts in a row open the provider's breaker."""
        account, now = attempt.account, self._clock.now()
        if attempt.secret_index + 1 < attempt.provider.secrets_of(account.client_id):
            return await self._attempt(replace(attempt, secret_index=attempt.secret_index + 1))
        only = await self._store.is_only_account(account.provider)
        breaker = self._permit.breaker(account.provider)
        opened = breaker.client_refused(account.name, now, only_account=only)
        if opened:
            self._metrics.provider_open.labels(account.provider).set(1)
            log.error("provider.rejected_client", provider=account.provider, why=cause_of(outcome))
        reason = Reason.APP_NOT_INSTALLED if outcome.not_installed else Reason.CLIENT_REFUSED
        kind, why = EventKind.PROVIDER_REJECTED_CLIENT, cause_of(outcome)
        event = Event(now, kind, None, account.provider, Reason.CLIENT_REFUSED, detail=why)
        return await self._setbacks.back_off(account, reason, why, events=[event] if opened else [])

    async def _keep_spare(self, parent: Ref, token: Secret | None) -> None:
        if token is None:
            return
        id_ = secrets.token_hex(8)
        sealed = self._encryption.encrypt_spare(parent, id_, token)
        await self._store.add_spare(
            Spare(id_, parent.name, parent.epoch, parent.generation, sealed, self._clock.now())
        )

    def _count(self, account: Account, outcome: str) -> None:
        self._metrics.refreshes.labels(account.provider, outcome).inc()
