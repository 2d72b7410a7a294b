"""Imports grants from another system and exports them to one, so that two systems never renew the same grant.

An import stores the grant durably before a renewal verifies it. An export freezes the account before its refresh token
leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

import structlog

from broker import oauth
from broker.accounts.service import settled
from broker.callers.authorization import covers
from broker.config.values import is_loopback
from broker.context import Context
from broker.errors import Conflict, InvalidRequest, UnknownAccount, no_provider, require_account_name
from broker.model import (
    Account,
    Caller,
    Event,
    EventKind,
    Permission,
    Reason,
    Ref,
    Secret,
    is_glob,
    window_opens,
)
from broker.sandbox.issued import PREFIXES
from broker.store.account_queries import AccountQuery
from broker.store.imports import GrantHeld
from broker.tokens.flight import Flights, Renewed
from broker.tokens.policy import Hold, describe
from broker.tokens.service import SOON

log = structlog.get_logger()
RACES = 5
PAGE = 1000


@dataclass(frozen=True, slots=True)
class ForeignGrant:
    """A grant of another system, as an import receives it."""

    name: str
    provider: str
    refresh_token: Secret
    access_token: Secret | None
    expires_in: float | None
    """Seconds for which the access token is still valid."""
    org: str | None
    scope: str
    verify: bool
    """Verify the grant with a renewal now."""


class GrantTransfer:
    """The service behind `POST /accounts` and `broker accounts export`."""

    def __init__(self, context: Context, flights: Flights) -> None:
        self._context, self._flights = context, flights
        self._accounts, self._imports = context.stores.accounts, context.stores.imports

    async def add(
        self, caller: Caller, grant: ForeignGrant, *, request_id: str
    ) -> tuple[Account, str | None]:
        """Store the grant and verify it. Return the account, and why it could not be verified, if so.

        Raises InvalidRequest, Conflict, StorageUnavailable. A name that is taken is refused before anything is sent. If
        the renewal fails, the account stays and its status says why.
        """
        require_account_name(grant.name)
        provider = self._context.providers.get(grant.provider)
        if provider is None:
            raise InvalidRequest(no_provider(grant.provider, self._context.providers))
        if not grant.refresh_token.reveal().strip():
            raise InvalidRequest("refresh_token is missing; without one the account cannot be renewed")
        provider.check_org(grant.org)
        if grant.expires_in is not None and grant.expires_in <= 0:
            raise InvalidRequest(
                "expires_in is the seconds that access_token has left; leave both out if none are"
            )
        if grant.access_token is None and grant.expires_in is not None:
            raise InvalidRequest("expires_in needs an access_token")
        if grant.access_token is not None and not oauth.is_usable(grant.access_token, "Bearer"):
            raise InvalidRequest("access_token contains characters that a header cannot carry")
        await self._context.authorizer.require(
            caller,
            Permission.MANAGE,
            grant.name,
            request_id=request_id,
            action="accounts.import",
            detail=grant.provider,
        )
        # Only after the authorization, because the answer tells about other grants.
        self._refuse_mixed_up(grant.provider, grant.refresh_token)
        account = await self._store(caller, grant, provider.client_id)
        log.info("account.imported", account=account.name, provider=account.provider)
        return await self._verify(account) if grant.verify else (account, None)

    def _refuse_mixed_up(self, name: str, token: Secret) -> None:
        """Raise InvalidRequest for a sandbox's token at a real provider, and for a real one at a sandbox."""
        is_played = self._context.settings.sandbox.enabled and name in PREFIXES
        is_its_own = token.reveal().startswith(tuple(PREFIXES.values()))
        if is_played and not is_its_own:
            raise InvalidRequest(
                f"the sandbox stands in for {name} here and accepts only its own grants;"
                " import real ones where [sandbox] is off"
            )
        host = urlsplit(self._context.providers[name].token_url).hostname
        # A sandbox may run on this machine as a process of its own.
        if is_its_own and not is_played and not is_loopback(host):
            raise InvalidRequest(f"a sandbox issued this grant, and the provider {name} is none")

    async def _store(self, caller: Caller, grant: ForeignGrant, client_id: str) -> Account:
        grant_hash = self._hash(grant.refresh_token)
        for _ in range(RACES):
            row = await self._accounts.get(grant.name)
            if row is not None and row.removed_at is None:
                raise await self._taken(row, grant)
            account = self._account(grant, client_id, await self._context.last_ref(grant.name, row))
            connected = Event.of(account, EventKind.CONNECTED, self._context.steady.now())
            try:
                is_added = await self._imports.add(
                    account,
                    expected=row.ref if row else None,
                    next_at=window_opens(account, self._context.settings.refresh.ahead),
                    grant_hash=grant_hash,
                    events=[connected],
                )
            except GrantHeld as held:
                under = f"as {held}" if covers(caller, str(held)) else "under another name"
                raise Conflict(
                    f"this grant is connected already, {under}; two accounts would invalidate each other's tokens"
                ) from None
            if is_added:
                return account
        raise Conflict("another request is using this name just now; list the accounts, and try again")

    async def _taken(self, row: Account, grant: ForeignGrant) -> Conflict:
        """Return the error for a taken name. It says if the grant is the same, so that an import can be resumed."""
        record = await self._imports.record(row.name)
        same, proved = False, False
        if record is not None and record.epoch == row.epoch:
            same = record.grant_hash == self._hash(grant.refresh_token)
            proved = row.generation > record.generation
        if not same and self._context.encryption.refresh_token(row) == grant.refresh_token:
            same = proved = True
        if same:
            return Conflict("the account exists already, with this grant", same_grant=True, proved=proved)
        return Conflict(
            "an account of that name exists already, with another grant; import under another name, or"
            " remove that account first",
            same_grant=False,
        )

    def _account(self, grant: ForeignGrant, client_id: str, last: Ref) -> Account:
        now, life = self._context.steady.now(), 0.0
        if grant.access_token is not None:
            life = min(grant.expires_in or oauth.UNKNOWN_LIFE_TRUST, oauth.MAX_LIFE)
        ref = Ref(grant.name, last.epoch + 1, last.generation + 1)
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

    async def _verify(self, account: Account) -> tuple[Account, str | None]:
        """Renew the account, several times if a refusal has to be confirmed, within the patience of a caller."""
        clock = self._context.clock
        deadline = clock.monotonic() + self._context.settings.refresh.patience
        while not self._flights.is_full_for(account.ref):
            ended = await self._flights.join(account.ref, deadline - clock.monotonic())
            # If it was removed meanwhile, the answer shows it as it was.
            account = await self._accounts.get(account.name) or account
            if ended is None:
                return account, "The renewal that verifies it is still under way."
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

    async def begin_export(self, caller: Caller, globs: Sequence[str], *, request_id: str) -> list[str]:
        """Return the names that any of the globs matches, or all names if there is none.

        Raises InvalidRequest, AuditUnavailable.
        """
        if not all(is_glob(glob) for glob in globs):
            raise InvalidRequest("a glob consists of the characters of account names, * ? and [ ]")
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

    async def export(self, caller: Caller, name: str, *, request_id: str) -> tuple[Account, Secret] | str:
        """Freeze the account and return it with its refresh token, or return why it is left out.

        A renewal that is under way is awaited. Raises Forbidden, AuditUnavailable, StorageUnavailable; then no token
        has left.
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
                return "it needs re-authorization; its user has to connect it again"
            if account.trouble.ambiguous:
                return "a renewal has an unknown outcome; export it when that is settled"
            if account.sealed_refresh is None:
                return "it has no refresh token"
            now, reason = self._context.steady.now(), Reason.EXPORTED
            event = Event.of(account, EventKind.FROZEN, now, reason, actor=caller.name)
            if await self._imports.freeze_idle(account.ref, reason, now, [event]):
                # Read again: it may have been encrypted anew, but no renewal can have changed it.
                frozen = await self._accounts.get(name) or account
                token = self._context.encryption.refresh_token(frozen)
                if token is None:
                    return "it has no refresh token"
                log.warning("account.exported", account=name, generation=frozen.generation)
                return frozen, token
        return "a renewal of it is under way; export it again in a moment"
