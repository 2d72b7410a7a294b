"""Manages connected accounts: list, show, label, rename, freeze, remove, restore and purge them."""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from broker.callers.authorization import covers, name_ranges
from broker.context import Context
from broker.errors import Conflict, UnknownAccount, no_account, require_account_name
from broker.model import (
    Account,
    Caller,
    Event,
    EventKind,
    Permission,
    Reason,
    Ref,
    Spare,
    window_opens,
)
from broker.store.account_queries import AccountQuery
from broker.store.accounts import AccountStore, IdentityTaken
from broker.tokens.flight import Flights
from broker.tokens.policy import is_wanted, next_look

log = structlog.get_logger()
RESTORABLE_FOR = 30 * 86400.0
PURGE_BATCH = 32
MOST_READ, MOST_FETCHED, MOST_STEPS = 20_000, 2_000, 100
"""The cost of a page at most: rows that the database scans, rows that it returns, and queries."""
AT_ONCE = 200
"""Rows fetched by one query if the caller may not see all of them."""
BY_AGE = Caller("broker", (), frozenset(), credential="schedule")
"""The caller in the audit when an account is purged because nobody restored it."""


async def settled(store: AccountStore, flights: Flights, name: str, *, removed_too: bool = False) -> Account:
    """Wait until no renewal of the account is under way here, and return it. Raises UnknownAccount."""
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
    """The service behind the account routes: everything about an account except its token."""

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
        """Stores the last-used timestamps, so that those that are shown are current."""
        self._forget_besides = forget_besides
        """Remove what other services record about an account, in memory and in the spools."""
        self._scrubbed = True

    async def find(
        self,
        caller: Caller,
        query: AccountQuery,
        *,
        request_id: str,
        is_gone: Callable[[], bool] = lambda: False,
    ) -> tuple[list[Account], str | None]:
        """Return a page of the accounts that the caller may see, and the cursor of the next page, None at the end.

        A page may be shorter than its limit, or empty, because the rows read for one page are limited. Raises
        ConnectionError if the caller `is_gone`.
        """
        await self._context.authorizer.require(
            caller, Permission.ACCOUNTS, None, request_id=request_id, action="accounts.list"
        )
        await self._flush_uses()
        found, after = list[Account](), query.after
        may_read, may_fetch, steps = MOST_READ, MOST_FETCHED, MOST_STEPS

        def is_full() -> bool:
            return min(query.limit - len(found), may_fetch, steps) <= 0

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
                    at_once = min(room if names.is_exact else AT_ONCE, may_fetch)
                    rows = await self._store.find(replace(step, after=after, high=high, limit=at_once))
                    seen = [one for one in rows if covers(caller, one.name)]
                    found += seen[:room]
                    may_fetch -= len(rows)
                    if rows:
                        after = (seen[room - 1] if len(seen) >= room else rows[-1]).name
                    if len(rows) < at_once and not is_full():
                        after = high
                after = after if count else high
        return found, after if is_full() else None

    async def show(self, caller: Caller, name: str, *, request_id: str) -> Account:
        """Return an account. Raises Forbidden, UnknownAccount."""
        await self._require(caller, name, "accounts.show", request_id, permission=Permission.ACCOUNTS)
        await self._flush_uses()
        return await _get(self._store, name)

    async def users(self, caller: Caller, name: str, *, request_id: str) -> list[tuple[str, float]]:
        """Return the callers that received the account's tokens, and when each did last."""
        await self._require(caller, name, "accounts.callers", request_id, permission=Permission.ACCOUNTS)
        return await self._store.users(name)

    async def change(
        self, caller: Caller, name: str, changes: Mapping[str, str | None], *, request_id: str
    ) -> Account:
        """Set `label` or `subject` (None removes it), or rename the account to `name`; all changes or none.

        Raises InvalidRequest, Forbidden, Conflict.
        """
        new_name = require_account_name(changes.get("name", name))
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
        """Renew the account no more until it is unfrozen. Its valid token is still handed out."""
        return await self._freeze(caller, name, "freeze", request_id, Reason.OPERATOR)

    async def unfreeze(self, caller: Caller, name: str, *, request_id: str) -> Account:
        """Renew a frozen account again."""
        return await self._freeze(caller, name, "unfreeze", request_id, None)

    async def _freeze(
        self, caller: Caller, name: str, action: str, request_id: str, reason: Reason | None
    ) -> Account:
        await self._require(caller, name, f"accounts.{action}", request_id)
        account = await _get(self._store, name)
        now, kind = self._context.steady.now(), EventKind.FROZEN if reason else EventKind.UNFROZEN
        changes = (account.frozen is None) != (reason is None)
        events = [Event.of(account, kind, now, reason, actor=caller.name)] if changes else []
        await self._store.freeze(name, reason, now, events)
        return await _get(self._store, name)

    async def remove(self, caller: Caller, name: str, *, purge: bool, revoke: bool, request_id: str) -> None:
        """Remove the account, after a renewal that is under way. `restore` undoes that for 30 days.

        `purge` deletes it for good. `revoke` also revokes the grant at the provider; raises Conflict if that fails.
        """
        ways = " ".join(word for word, given in (("purge", purge), ("revoke", revoke)) if given)
        await self._require(caller, name, "accounts.remove", request_id, ways or None)
        account = await settled(self._store, self._flights, name, removed_too=purge)
        if revoke:
            provider = self._context.providers.get(account.provider)
            encryption, client_id = self._context.encryption, account.client_id
            token = encryption.refresh_token(account) or encryption.access_token(account)
            if provider is None or token is None or not provider.knows_client(client_id):
                raise Conflict(
                    "its provider or client is not in the configuration, so it cannot be revoked there"
                )
            if not await provider.revoke(token, client_id=client_id, org=account.org):
                raise Conflict(f"{account.provider} did not confirm the revocation; nothing was removed")
        if account.removed_at is None:
            now = self._context.steady.now()
            event = Event.of(account, EventKind.DISCONNECTED, now, actor=caller.name)
            await self._store.remove(name, now, [event])
        if purge:
            await self._purge(name)
        log.info("account.removed", account=name, purged=purge, revoked=revoke)

    async def restore(self, caller: Caller, name: str, *, request_id: str) -> Account:
        """Undo a removal of the last 30 days. Raises Conflict, UnknownAccount."""
        await self._require(caller, name, "accounts.restore", request_id)
        now, row = self._context.steady.now(), await self._store.get(name)
        events = [Event.of(row, EventKind.RESTORED, now, actor=caller.name)] if row else []
        try:
            restored = await self._store.restore(name, now - RESTORABLE_FOR, now, events)
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
        """Purge accounts that were removed more than 30 days ago, a few at a time."""
        note = self._context.authorizer.note
        for name in await self._store.removed_before(now - RESTORABLE_FOR, PURGE_BATCH):
            await self._purge(name)
            await note(BY_AGE, "accounts.purge", name, "removed 30 days ago", request_id="")
        if not self._scrubbed:
            self._scrubbed = await self._context.stores.database.scrub()

    def next_renewal_at(self, account: Account) -> float | None:
        """Return when the broker will renew the account by itself, as far as is known now; None: never."""
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
        """Encrypt the account for its new name, and its spares, because one of them may be all that still works."""
        encryption = self._context.encryption
        account = await settled(self._store, self._flights, name)
        last = await self._context.last_ref(new_name, None)
        ref = Ref(new_name, max(account.epoch, last.epoch + 1), max(account.generation, last.generation) + 1)
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
            old_name_hash=self._context.name_hash(name),
        ):
            raise Conflict(
                f"the name {new_name!r} is taken, or {name!r} was just renewed; look, and try again"
            )

    async def _purge(self, name: str) -> None:
        """Delete the account everywhere, also from the database files."""
        await self._store.purge(name, self._context.name_hash(name))
        for forget in self._forget_besides:
            await forget(name)
        self._scrubbed = await self._context.stores.database.scrub()

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
            caller,
            permission,
            require_account_name(name),
            request_id=request_id,
            action=action,
            detail=detail,
        )
