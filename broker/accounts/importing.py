"""Taking over grants from another system: stored durably first, then proved by an ordinary renewal."""

from dataclasses import dataclass
from typing import assert_never
from urllib.parse import urlsplit

import structlog

from broker import oauth
from broker.callers.authorization import covers
from broker.config.values import is_loopback
from broker.context import Context
from broker.errors import Conflict, InvalidRequest, no_provider
from broker.model import Account, Caller, Event, EventKind, Permission, Ref, Secret, is_account_name
from broker.providers.oauth2 import OAuth2Provider
from broker.sandbox.issued import PREFIXES
from broker.store.imports import Added, GrantHeld, NameTaken
from broker.tokens.flight import Flights, NotRenewed, Renewed
from broker.tokens.policy import Hold, describe, window_opens
from broker.tokens.service import SOON

log = structlog.get_logger()
RACES = 5


@dataclass(frozen=True, slots=True)
class ForeignGrant:
    """A grant as another system held it."""

    name: str
    provider: str
    refresh_token: Secret
    access_token: Secret | None
    expires_in: float | None
    """Seconds that the access token has left."""
    org: str | None
    scope: str
    verify: bool
    """Whether a renewal is to prove it at once."""


@dataclass(frozen=True, slots=True)
class Imported:
    """An account that is durable here."""

    account: Account
    warning: str | None
    """Why it is not proved, where it should have been."""


class ImportService:
    """Behind `POST /accounts`."""

    def __init__(self, context: Context, flights: Flights) -> None:
        self._context, self._flights = context, flights
        self._accounts, self._imports = context.stores.accounts, context.stores.imports

    def _refusal(self, name: str, token: Secret) -> str | None:
        """Return why that provider must not be sent that refresh token, None if it may.

        A token that a sandbox issued is sent to no real provider, and no real token to a sandbox.
        """
        is_played = self._context.settings.sandbox.enabled and name in PREFIXES
        is_its_own = token.reveal().startswith(tuple(PREFIXES.values()))
        if is_played and not is_its_own:
            return (
                f"the sandbox plays {name} here and takes nothing but its own grants;"
                " import real ones where [sandbox] is off"
            )
        host = urlsplit(self._context.providers[name].token_url).hostname
        # A sandbox may run on this machine by itself.
        if is_its_own and not is_played and not is_loopback(host):
            return f"a sandbox issued this grant, and {name} is none"
        return None

    async def add(self, caller: Caller, grant: ForeignGrant, *, request_id: str) -> Imported:
        """Store the grant under its name and prove it; raises InvalidRequest, Conflict, StorageUnavailable.

        A name that is there is refused before anything is sent. A renewal that fails leaves the account with its
        status.
        """
        provider = self._check(grant)
        await self._context.authorizer.require(
            caller,
            Permission.MANAGE,
            grant.name,
            request_id=request_id,
            action="accounts.import",
            detail=grant.provider,
        )
        # Only for who may: it tells of other grants.
        if why := self._refusal(grant.provider, grant.refresh_token):
            raise InvalidRequest(why)
        account = await self._store(caller, grant, provider.client_id)
        log.info("account.imported", account=account.name, provider=account.provider)
        return await self._prove(account) if grant.verify else Imported(account, None)

    def _check(self, grant: ForeignGrant) -> OAuth2Provider:
        if not is_account_name(grant.name):
            raise InvalidRequest("an account's name is lower-case letters, digits and . _ -, at most 128")
        provider = self._context.providers.get(grant.provider)
        if provider is None:
            raise InvalidRequest(no_provider(grant.provider, self._context.providers))
        if not grant.refresh_token.reveal().strip():
            raise InvalidRequest("refresh_token is missing; without one nothing can be kept alive")
        provider.check_org(grant.org)
        _check_access_token(grant)
        return provider

    async def _store(self, caller: Caller, grant: ForeignGrant, client_id: str) -> Account:
        grant_hash = self._hash(grant.refresh_token)
        for _ in range(RACES):
            row = await self._accounts.get(grant.name)
            if row is not None and row.removed_at is None:
                raise await self._taken(row, grant)
            account = self._account(grant, client_id, await self._floor(grant.name, row))
            outcome = await self._imports.add(
                account,
                expected=row.ref if row else None,
                next_at=window_opens(account, self._context.settings.refresh.ahead),
                grant_hash=grant_hash,
                events=[self._event(account)],
            )
            match outcome:
                case Added():
                    return account
                case GrantHeld(holder):
                    raise _held(caller, holder)
                case NameTaken():
                    continue
                case _:
                    assert_never(outcome)
        raise Conflict("the name is being taken by somebody else just now; look, and try again")

    async def _taken(self, row: Account, grant: ForeignGrant) -> Conflict:
        """The name is there; whether with this very grant, so that an import can go on where it was broken off."""
        record = await self._imports.record(row.name)
        same, proved = False, False
        if record is not None and record.epoch == row.epoch:
            same = record.grant_hash == self._hash(grant.refresh_token)
            proved = row.generation > record.generation
        if not same and self._context.encryption.refresh_token(row) == grant.refresh_token:
            same = proved = True
        if same:
            return Conflict("the account is there already, with this grant", same_grant=True, proved=proved)
        return Conflict(
            "an account of that name is there already, with another grant; import under another name, or"
            " remove that account first",
            same_grant=False,
        )

    def _account(self, grant: ForeignGrant, client_id: str, floor: Ref) -> Account:
        now = self._context.steady.now()
        ref = Ref(grant.name, floor.epoch + 1, floor.generation + 1)
        access, refresh = self._context.encryption.encrypt(ref, grant.access_token, grant.refresh_token)
        return Account(
            name=grant.name,
            provider=grant.provider,
            epoch=ref.epoch,
            generation=ref.generation,
            client_id=client_id,
            sealed_access=access,
            sealed_refresh=refresh,
            token_type="Bearer",  # noqa: S106 - a type
            scope=grant.scope,
            issued_at=now,
            expires_at=now + _life(grant),
            refreshed_at=now,
            created_at=now,
            org=grant.org,
        )

    async def _floor(self, name: str, row: Account | None) -> Ref:
        """Last epoch and generation of the name, also of a purged one: they never go back."""
        if row is not None:
            return row.ref
        purged = await self._accounts.purged(self._context.keyring.fingerprint("purged name", name))
        return Ref(name, *purged) if purged else Ref(name, 0, 0)

    async def _prove(self, account: Account) -> Imported:
        """One renewal, or several where a refusal is to be confirmed, within the patience of a caller."""
        deadline = self._context.steady.monotonic() + self._context.settings.refresh.patience
        while True:
            if self._flights.is_full_for(account.ref):
                busy = Hold(None, None, is_busy=True)
                return Imported(await self._now(account), describe(busy))
            ended = await self._flights.join(account.ref, deadline - self._context.steady.monotonic())
            account = await self._now(account)
            match ended:
                case None:
                    return Imported(account, "The renewal that proves it is still under way.")
                case Renewed():
                    return Imported(account, None)
                case NotRenewed(hold):
                    if not await self._settles_within(hold, deadline):
                        return Imported(account, describe(hold))
                case _:
                    assert_never(ended)

    async def _settles_within(self, hold: Hold, deadline: float) -> bool:
        if hold.reason not in SOON or hold.until is None:
            return False
        wait = max(0.0, hold.until - self._context.steady.now())
        if self._context.steady.monotonic() + wait >= deadline:
            return False
        await self._context.steady.sleep(wait)
        return True

    async def _now(self, account: Account) -> Account:
        """The row as it stands; whoever removed it meanwhile has the last word, but here it was."""
        return await self._accounts.get(account.name) or account

    def _event(self, account: Account) -> Event:
        return Event(
            self._context.steady.now(),
            EventKind.CONNECTED,
            account.name,
            account.provider,
            None,
            account.generation,
        )

    def _hash(self, token: Secret) -> str:
        return self._context.keyring.fingerprint("imported grant", token.reveal())


def _check_access_token(grant: ForeignGrant) -> None:
    if grant.expires_in is not None and grant.expires_in <= 0:
        raise InvalidRequest(
            "expires_in is the seconds that access_token has left; leave both out if none are"
        )
    if grant.access_token is None:
        if grant.expires_in is not None:
            raise InvalidRequest("expires_in is of an access_token, and there is none")
    elif not oauth.is_usable(grant.access_token, "Bearer"):
        raise InvalidRequest("access_token holds characters that no header can carry")


def _life(grant: ForeignGrant) -> float:
    """Seconds for which the access token is trusted; without one it is due at once."""
    if grant.access_token is None:
        return 0.0
    return min(oauth.UNKNOWN_LIFE_TRUST if grant.expires_in is None else grant.expires_in, oauth.MAX_LIFE)


def _held(caller: Caller, holder: str) -> Conflict:
    under = f"as {holder}" if covers(caller, holder) else "under another name"
    return Conflict(f"this grant is connected already, {under}; two accounts of one grant would kill it")
