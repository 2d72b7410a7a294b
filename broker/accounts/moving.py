"""Moving grants: from another system, stored durably first and then proved by a renewal; and to one, frozen here
first, so that never two renew one grant."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import assert_never
from urllib.parse import urlsplit

import structlog

from broker import oauth
from broker.accounts.service import happened, name_hash, require_name, settled
from broker.callers.authorization import covers
from broker.config.values import is_loopback
from broker.context import Context
from broker.errors import Conflict, InvalidRequest, UnknownAccount, no_provider
from broker.model import Account, Caller, EventKind, Permission, Reason, Ref, Secret, is_glob, window_opens
from broker.providers.oauth2 import OAuth2Provider
from broker.sandbox.issued import PREFIXES
from broker.store.account_queries import AccountQuery
from broker.store.imports import Added, GrantHeld, NameTaken
from broker.tokens.flight import Flights, Renewed
from broker.tokens.policy import Hold, describe
from broker.tokens.service import SOON

log = structlog.get_logger()
RACES = 5
PAGE = 1000


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


class ImportService:
    """Behind `POST /accounts`."""

    def __init__(self, context: Context, flights: Flights) -> None:
        self._context, self._flights = context, flights
        self._accounts, self._imports = context.stores.accounts, context.stores.imports

    async def add(
        self, caller: Caller, grant: ForeignGrant, *, request_id: str
    ) -> tuple[Account, str | None]:
        """Store the grant under its name and prove it; the account, and why it is not proved where it should be.

        Raises InvalidRequest, Conflict, StorageUnavailable. A name that is there is refused before anything is sent. A
        renewal that fails leaves the account with its status.
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
        self._refuse_mixed_up(grant.provider, grant.refresh_token)
        account = await self._store(caller, grant, provider.client_id)
        log.info("account.imported", account=account.name, provider=account.provider)
        return await self._prove(account) if grant.verify else (account, None)

    def _check(self, grant: ForeignGrant) -> OAuth2Provider:
        require_name(grant.name)
        provider = self._context.providers.get(grant.provider)
        if provider is None:
            raise InvalidRequest(no_provider(grant.provider, self._context.providers))
        if not grant.refresh_token.reveal().strip():
            raise InvalidRequest("refresh_token is missing; without one nothing can be kept alive")
        provider.check_org(grant.org)
        if grant.expires_in is not None and grant.expires_in <= 0:
            raise InvalidRequest(
                "expires_in is the seconds that access_token has left; leave both out if none are"
            )
        if grant.access_token is None and grant.expires_in is not None:
            raise InvalidRequest("expires_in is of an access_token, and there is none")
        if grant.access_token is not None and not oauth.is_usable(grant.access_token, "Bearer"):
            raise InvalidRequest("access_token holds characters that no header can carry")
        return provider

    def _refuse_mixed_up(self, name: str, token: Secret) -> None:
        """Raise InvalidRequest for a sandbox's token at a real provider, and for a real one at a sandbox."""
        is_played = self._context.settings.sandbox.enabled and name in PREFIXES
        is_its_own = token.reveal().startswith(tuple(PREFIXES.values()))
        if is_played and not is_its_own:
            raise InvalidRequest(
                f"the sandbox plays {name} here and takes nothing but its own grants;"
                " import real ones where [sandbox] is off"
            )
        host = urlsplit(self._context.providers[name].token_url).hostname
        # A sandbox may run on this machine by itself.
        if is_its_own and not is_played and not is_loopback(host):
            raise InvalidRequest(f"a sandbox issued this grant, and {name} is none")

    async def _store(self, caller: Caller, grant: ForeignGrant, client_id: str) -> Account:
        grant_hash = self._hash(grant.refresh_token)
        for _ in range(RACES):
            row = await self._accounts.get(grant.name)
            if row is not None and row.removed_at is None:
                raise await self._taken(row, grant)
            # Epoch and generation of a name never go back, also of a purged one.
            purged = None if row else await self._accounts.purged(name_hash(self._context, grant.name))
            floor = row.ref if row else Ref(grant.name, *(purged or (0, 0)))
            account = self._account(grant, client_id, floor)
            outcome = await self._imports.add(
                account,
                expected=row.ref if row else None,
                next_at=window_opens(account, self._context.settings.refresh.ahead),
                grant_hash=grant_hash,
                events=[happened(self._context, EventKind.CONNECTED, account, None)],
            )
            match outcome:
                case Added():
                    return account
                case GrantHeld(holder):
                    under = f"as {holder}" if covers(caller, holder) else "under another name"
                    raise Conflict(
                        f"this grant is connected already, {under}; two accounts of one grant would kill it"
                    )
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
        now, life = self._context.steady.now(), 0.0
        if grant.access_token is not None:
            life = min(grant.expires_in or oauth.UNKNOWN_LIFE_TRUST, oauth.MAX_LIFE)
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
            expires_at=now + life,
            refreshed_at=now,
            created_at=now,
            org=grant.org,
        )

    async def _prove(self, account: Account) -> tuple[Account, str | None]:
        """One renewal, or several where a refusal is to be confirmed, within the patience of a caller."""
        clock = self._context.clock
        deadline = clock.monotonic() + self._context.settings.refresh.patience
        while not self._flights.is_full_for(account.ref):
            ended = await self._flights.join(account.ref, deadline - clock.monotonic())
            # Whoever removed it meanwhile has the last word, but here it was.
            account = await self._accounts.get(account.name) or account
            if ended is None:
                return account, "The renewal that proves it is still under way."
            if isinstance(ended, Renewed):
                return account, None
            hold = ended.hold
            wait = max(0.0, (hold.until or 0.0) - self._context.steady.now())
            if hold.reason not in SOON or hold.until is None or clock.monotonic() + wait >= deadline:
                return account, describe(hold)
            await clock.sleep(wait)
        return await self._accounts.get(account.name) or account, describe(Hold(None, None, is_busy=True))

    def _hash(self, token: Secret) -> str:
        return self._context.keyring.fingerprint("imported grant", token.reveal())


class ExportService:
    """Behind `broker accounts export`."""

    def __init__(self, context: Context, flights: Flights) -> None:
        self._context, self._flights = context, flights
        self._accounts, self._imports = context.stores.accounts, context.stores.imports

    async def begin(self, caller: Caller, globs: Sequence[str], *, request_id: str) -> list[str]:
        """The names that any of the globs covers, all without globs; raises InvalidRequest, AuditUnavailable."""
        if not all(is_glob(glob) for glob in globs):
            raise InvalidRequest("a glob is of the characters of account names, * ? and [ ]")
        await self._context.authorizer.require(
            caller,
            Permission.MANAGE,
            None,
            request_id=request_id,
            action="accounts.export",
            detail=" ".join(globs) or "*",
        )
        names, after = list[str](), ""
        while page := await self._accounts.find(AccountQuery(after=after, limit=PAGE)):
            names += [account.name for account in page if covers(caller, account.name)]
            if len(page) < PAGE:
                break
            after = page[-1].name
        return [name for name in names if not globs or any(fnmatchcase(name, glob) for glob in globs)]

    async def take(self, caller: Caller, name: str, *, request_id: str) -> tuple[Account, Secret] | str:
        """Freeze the account and return its refresh token, or why it is left out; a running renewal is awaited.

        Raises Forbidden, AuditUnavailable, StorageUnavailable; then nothing has left.
        """
        await self._context.authorizer.require(
            caller, Permission.MANAGE, name, request_id=request_id, action="accounts.export"
        )
        for _ in range(RACES):
            try:
                account = await settled(self._accounts, self._flights, name)
            except UnknownAccount:
                return "it was removed just now"
            if account.dead is not None:
                return "its grant is dead; a person has to connect it again"
            if account.trouble.ambiguous:
                return "it is uncertain: a renewal's outcome is unknown; export it when that is settled"
            if account.sealed_refresh is None:
                return "it has no refresh token"
            done = happened(self._context, EventKind.FROZEN, account, caller.name, Reason.EXPORTED)
            if await self._imports.freeze_idle(account.ref, Reason.EXPORTED, done.at, [done]):
                # Read again: it may have been sealed anew, but no renewal can have moved it.
                frozen = await self._accounts.get(name) or account
                token = self._context.encryption.refresh_token(frozen)
                if token is None:
                    return "it has no refresh token"
                log.warning("account.exported", account=name, generation=frozen.generation)
                return frozen, token
        return "a renewal of it is under way; export it again in a moment"
