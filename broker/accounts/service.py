"""Looking after connections: list, show, label, rename, freeze, remove, restore, purge."""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from broker.callers.authorization import covers, name_ranges
from broker.context import Context
from broker.errors import Conflict, InvalidRequest, UnknownAccount, no_account
from broker.model import (
    Account,
    Caller,
    Event,
    EventKind,
    Permission,
    Reason,
    Ref,
    Spare,
    is_account_name,
    window_opens,
)
from broker.store.account_queries import AccountQuery
from broker.store.accounts import AccountStore, IdentityTaken
from broker.tokens.flight import Flights
from broker.tokens.policy import is_wanted, next_look

log = structlog.get_logger()
RESTORABLE_FOR = 30 * 86400.0
PURGE_BATCH = 32
MOST_READ, MOST_OPENED, MOST_STEPS = 20_000, 2_000, 100
"""What a page of a list costs at most: rows that the database reads, rows that it hands over, and queries."""
AT_ONCE = 200
"""Rows that are handed over at a time where not every one is for the caller."""
BY_AGE = Caller("broker", (), frozenset(), credential="schedule")
"""Who purges what nobody restored."""


def require_name(name: str | None) -> str:
    """Return what may name an account; raises InvalidRequest."""
    if name is None or not is_account_name(name):
        raise InvalidRequest("an account's name is lower-case letters, digits and . _ -, at most 128")
    return name


def name_hash(context: Context, name: str) -> str:
    """Return what is kept of a name that is gone, so that its generations never go back."""
    return context.keyring.fingerprint("purged name", name)


def happened(
    context: Context, kind: EventKind, account: Account, actor: str | None, reason: Reason | None = None
) -> Event:
    """Return the event that something was done to an account just now."""
    now, generation = context.steady.now(), account.generation
    return Event(now, kind, account.name, account.provider, reason, generation, actor=actor)


async def settled(store: AccountStore, flights: Flights, name: str, *, removed_too: bool = False) -> Account:
    """Return the account once no renewal of it is under way here; raises UnknownAccount."""
    account = await _get(store, name, removed_too=removed_too)
    if flights.is_running(account.ref):
        await flights.join(account.ref)
        account = await _get(store, name, removed_too=removed_too)
    return account


async def _get(store: AccountStore, name: str, *, removed_too: bool = False) -> Account:
    account = await store.get(name)
    if account is None or (account.removed_at is not None and not removed_too):
        raise no_account(name, removed=account is not None)
    return account


class AccountService:
    """Everything about an account but its token."""

    def __init__(
        self,
        context: Context,
        *,
        flights: Flights,
        flush_uses: Callable[[], Awaitable[None]],
        forget_besides: Sequence[Callable[[str], Awaitable[None]]],
    ) -> None:
        self._context, self._store, self._flights = context, context.stores.accounts, flights
        self._flush_uses = flush_uses
        """Stores when accounts were last handed out, so that what is shown is not a quarter of a minute old."""
        self._forget_besides = forget_besides
        """Remove what other services keep of an account, in memory and in the spools."""
        self._scrubbed = True

    async def find(
        self,
        caller: Caller,
        query: AccountQuery,
        *,
        request_id: str,
        is_gone: Callable[[], bool] = lambda: False,
    ) -> tuple[list[Account], str | None]:
        """A page of the accounts the caller may see, and the name to go on from, None at the end.

        A page may be short of its limit, or empty, because so many rows were read for it. Raises ConnectionError where
        the caller `is_gone`.
        """
        await self._context.authorizer.require(
            caller, Permission.ACCOUNTS, None, request_id=request_id, action="accounts.list"
        )
        await self._flush_uses()
        found, after = list[Account](), query.after
        may_read, may_open, steps = MOST_READ, MOST_OPENED, MOST_STEPS

        def is_full() -> bool:
            return min(query.limit - len(found), may_open, steps) <= 0

        for names in name_ranges(caller.accounts):
            while after < names.high:
                if is_gone():
                    raise ConnectionResetError("the caller has hung up")
                if is_full() or not may_read:
                    return found, after
                step = replace(query, after=after, low=names.low, high=names.high)
                count, last = await self._store.reach(step, may_read)
                high = names.high if count < may_read else last
                may_read, steps = may_read - count, steps - 1
                while count and after < high and not is_full():
                    room = query.limit - len(found)
                    at_once = min(room if names.is_exact else AT_ONCE, may_open)
                    rows = await self._store.find(replace(step, after=after, high=high, limit=at_once))
                    seen = [one for one in rows if covers(caller, one.name)]
                    found += seen[:room]
                    may_open -= len(rows)
                    if rows:
                        after = (seen[room - 1] if len(seen) >= room else rows[-1]).name
                    if len(rows) < at_once and not is_full():
                        after = high
                after = after if count else high
        return found, after if is_full() else None

    async def show(self, caller: Caller, name: str, *, request_id: str) -> Account:
        await self._require(caller, name, "accounts.show", request_id, permission=Permission.ACCOUNTS)
        await self._flush_uses()
        return await _get(self._store, name)

    async def users(self, caller: Caller, name: str, *, request_id: str) -> list[tuple[str, float]]:
        """Which callers were handed its tokens, and when last."""
        await self._require(caller, name, "accounts.callers", request_id, permission=Permission.ACCOUNTS)
        return await self._store.users(name)

    async def change(
        self, caller: Caller, name: str, changes: Mapping[str, str | None], *, request_id: str
    ) -> Account:
        """Set `label` or `subject` (None: to nothing), or move to a new `name`: all of it or, raising, nothing.

        Raises InvalidRequest, Forbidden, Conflict.
        """
        new_name = require_name(changes.get("name", name))
        await self._require(caller, name, "accounts.change", request_id, " ".join(sorted(changes)))
        if new_name != name:
            await self._require(caller, new_name, "accounts.rename", request_id, f"was {name}")
        account = await _get(self._store, name)
        label, subject = changes.get("label", account.label), changes.get("subject", account.subject)
        if new_name != name:
            await self._rename(name, new_name, label=label, subject=subject)
        else:
            await self._store.relabel(name, label=label, subject=subject)
        return await _get(self._store, new_name)

    async def freeze(self, caller: Caller, name: str, *, request_id: str) -> Account:
        """Renew it no more until it is unfrozen; a living token is still handed out."""
        return await self._freeze(caller, name, "freeze", request_id, Reason.OPERATOR)

    async def unfreeze(self, caller: Caller, name: str, *, request_id: str) -> Account:
        return await self._freeze(caller, name, "unfreeze", request_id, None)

    async def _freeze(
        self, caller: Caller, name: str, action: str, request_id: str, reason: Reason | None
    ) -> Account:
        await self._require(caller, name, f"accounts.{action}", request_id)
        account = await _get(self._store, name)
        kind = EventKind.FROZEN if reason else EventKind.UNFROZEN
        done = happened(self._context, kind, account, caller.name, reason)
        changes = (account.frozen is None) != (reason is None)
        await self._store.freeze(name, reason, done.at, [done] if changes else [])
        return await _get(self._store, name)

    async def remove(self, caller: Caller, name: str, *, purge: bool, revoke: bool, request_id: str) -> None:
        """Hand it out no more; undone for 30 days by `restore`, unless purged. A running renewal is awaited."""
        ways = " ".join(word for word, given in (("purge", purge), ("revoke", revoke)) if given)
        await self._require(caller, name, "accounts.remove", request_id, ways or None)
        account = await settled(self._store, self._flights, name, removed_too=purge)
        if revoke:
            await self._revoke(account)
        if account.removed_at is None:
            done = happened(self._context, EventKind.DISCONNECTED, account, caller.name)
            await self._store.remove(name, done.at, [done])
        if purge:
            await self._purge(name)
        log.info("account.removed", account=name, purged=purge, revoked=revoke)

    async def restore(self, caller: Caller, name: str, *, request_id: str) -> Account:
        """Undo a removal of the last 30 days."""
        await self._require(caller, name, "accounts.restore", request_id)
        now, row = self._context.steady.now(), await self._store.get(name)
        done = [happened(self._context, EventKind.RESTORED, row, caller.name)] if row else []
        try:
            restored = await self._store.restore(name, now - RESTORABLE_FOR, now, done)
        except IdentityTaken as exc:
            raise Conflict(
                f"the account {exc} has the same identity at the provider; remove {exc} first, or leave {name} removed"
            ) from None
        if not restored:
            if row is not None and row.removed_at is None:
                raise Conflict(f"Account {name!r} is not removed.")
            raise UnknownAccount(f"No account {name!r} was removed in the last 30 days.")
        return await _get(self._store, name)

    async def purge_removed(self, now: float) -> None:
        """Forget what was removed more than 30 days ago, a few at a time."""
        note = self._context.authorizer.note
        for name in await self._store.removed_before(now - RESTORABLE_FOR, PURGE_BATCH):
            await self._purge(name)
            await note(BY_AGE, "accounts.purge", name, "removed 30 days ago", request_id="")
        if not self._scrubbed:
            self._scrubbed = await self._store.scrub()

    def next_renewal_at(self, account: Account) -> float | None:
        """When the broker itself will renew the account, as far as is known now."""
        if account.dead or account.frozen or account.sealed_refresh is None:
            return None
        if account.trouble.not_before is not None:
            return account.trouble.not_before
        now, refresh = self._context.steady.now(), self._context.settings.refresh
        ahead, idle = refresh.ahead, refresh.idle_renewal
        opens = window_opens(account, ahead)
        if account.last_used_at is not None and account.last_used_at >= account.refreshed_at:
            return opens
        wanted = is_wanted(account, now=now, ahead=ahead, idle_renewal=idle)
        return now if wanted else next_look(account, now=max(now, opens), ahead=ahead, idle_renewal=idle)

    async def _rename(self, name: str, new_name: str, *, label: str | None, subject: str | None) -> None:
        """Move the account and its spares, all encrypted anew: one of the spares may be all that still works."""
        encryption = self._context.encryption
        account = await settled(self._store, self._flights, name)
        floor = await self._store.purged(name_hash(self._context, new_name)) or (0, 0)
        ref = Ref(new_name, max(account.epoch, floor[0] + 1), max(account.generation, floor[1]) + 1)
        access, refresh = encryption.encrypt(
            ref, encryption.access_token(account), encryption.refresh_token(account)
        )
        renamed = replace(
            account,
            name=new_name,
            label=label,
            subject=subject,
            epoch=ref.epoch,
            generation=ref.generation,
            sealed_access=access,
            sealed_refresh=refresh,
        )
        spares = []
        for spare in await self._store.spares(name, account.epoch):
            of_current = spare.generation == account.generation
            parent = ref if of_current else replace(ref, generation=spare.generation)
            id_ = secrets.token_hex(8)
            sealed = encryption.encrypt_spare(parent, id_, encryption.spare_token(spare))
            spares.append(Spare(id_, ref.name, ref.epoch, parent.generation, sealed, spare.received_at))
        opens = window_opens(renamed, self._context.settings.refresh.ahead)
        if not await self._store.rename(
            account.ref,
            renamed,
            spares=spares,
            next_at=None if account.dead or account.frozen else opens,
            old_name_hash=name_hash(self._context, name),
        ):
            raise Conflict(
                f"the name {new_name!r} is taken, or {name!r} was just renewed; look, and try again"
            )

    async def _purge(self, name: str) -> None:
        """Forget the account everywhere, also in the files where its rows were."""
        await self._store.purge(name, name_hash(self._context, name))
        for forget in self._forget_besides:
            await forget(name)
        self._scrubbed = await self._store.scrub()

    async def _revoke(self, account: Account) -> None:
        encryption, provider = self._context.encryption, self._context.providers.get(account.provider)
        token = encryption.refresh_token(account) or encryption.access_token(account)
        if provider is None or token is None or not provider.knows_client(account.client_id):
            raise Conflict(
                "its provider or client is not in the configuration, so it cannot be revoked there"
            )
        if not await provider.revoke(token, client_id=account.client_id, org=account.org):
            raise Conflict(f"{account.provider} did not confirm the revocation; nothing was removed")

    async def _require(
        self,
        caller: Caller,
        name: str,
        action: str,
        request_id: str,
        detail: str | None = None,
        *,
        permission: Permission = Permission.MANAGE,
    ) -> None:
        await self._context.authorizer.require(
            caller, permission, require_name(name), request_id=request_id, action=action, detail=detail
        )
