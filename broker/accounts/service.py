"""Looking after connections: list, show, label, rename, freeze, remove, restore, purge."""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from broker.callers.authorization import NameRange, covers, name_ranges
from broker.context import Context
from broker.errors import Conflict, InvalidRequest, UnknownAccount, no_account
from broker.model import Account, Caller, Event, EventKind, Permission, Reason, Ref, Spare, is_account_name
from broker.store.account_queries import AccountQuery
from broker.store.accounts import IdentityTaken
from broker.tokens.flight import Flights
from broker.tokens.policy import is_wanted, next_look, window_opens

log = structlog.get_logger()
RESTORABLE_FOR = 30 * 86400.0
PURGE_BATCH = 32
MOST_READ, MOST_OPENED, MOST_STEPS = 20_000, 2_000, 100
"""What a page of a list costs at most: rows that the database reads, rows that it hands over, and queries."""
AT_ONCE = 200
"""Rows that are handed over at a time where not every one is for the caller."""
BY_AGE = Caller("broker", (), frozenset(), credential="schedule")
"""Who purges what nobody restored."""


class _Listing:
    """A page of accounts that is being gathered, and what may still be spent on it."""

    def __init__(self, query: AccountQuery) -> None:
        self.query = query
        self.found: list[Account] = []
        self.after = query.after
        """Every name up to this one has been looked at."""
        self.may_read, self._may_open, self.steps = MOST_READ, MOST_OPENED, MOST_STEPS

    @property
    def is_full(self) -> bool:
        """Whether it has its accounts, or has cost enough."""
        return min(self.query.limit - len(self.found), self._may_open, self.steps) <= 0

    def at_once(self, names: NameRange) -> int:
        """How many rows to open next."""
        wanted = self.query.limit - len(self.found) if names.is_exact else AT_ONCE
        return min(wanted, self._may_open)

    def take(self, opened: Sequence[Account], seen: Sequence[Account]) -> None:
        """Add rows, of which the caller may see some."""
        room = self.query.limit - len(self.found)
        self.found += seen[:room]
        if opened:
            self.after = (seen[room - 1] if len(seen) >= room else opened[-1]).name
        self._may_open -= len(opened)


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
        page = _Listing(query)
        for names in name_ranges(caller.accounts):
            while page.after < names.high:
                if is_gone():
                    raise ConnectionResetError("the caller has hung up")
                if page.is_full or not page.may_read:
                    return page.found, page.after
                await self._read(page, names, caller)
        return page.found, page.after if page.is_full else None

    async def _read(self, page: "_Listing", names: NameRange, caller: Caller) -> None:
        """Add what the caller may see of these names, until the page has cost enough."""
        query = replace(page.query, after=page.after, low=names.low, high=names.high)
        count, last = await self._store.reach(query, page.may_read)
        high = names.high if count < page.may_read else last
        page.may_read -= count
        while count and page.after < high and not page.is_full:
            step = replace(query, after=page.after, high=high, limit=page.at_once(names))
            found = await self._store.find(step)
            page.take(found, [one for one in found if covers(caller, one.name)])
            if len(found) < step.limit and not page.is_full:
                page.after = high
        if not count:
            page.after = high
        page.steps -= 1

    async def show(self, caller: Caller, name: str, *, request_id: str) -> Account:
        await self._require(caller, Permission.ACCOUNTS, name, request_id, action="accounts.show")
        await self._flush_uses()
        return await self._get(name)

    async def users(self, caller: Caller, name: str, *, request_id: str) -> list[tuple[str, float]]:
        """Which callers were handed its tokens, and when last."""
        await self._require(caller, Permission.ACCOUNTS, name, request_id, action="accounts.callers")
        return await self._store.users(name)

    async def change(
        self, caller: Caller, name: str, changes: Mapping[str, str | None], *, request_id: str
    ) -> Account:
        """Set `label` or `subject` (None: to nothing), or move to a new `name`: all of it or, raising, nothing.

        Raises InvalidRequest, Forbidden, Conflict.
        """
        new_name = changes.get("name", name)
        if new_name is None or not is_account_name(new_name):
            raise InvalidRequest("an account's name is lower-case letters, digits and . _ -, at most 128")
        detail = " ".join(sorted(changes))
        await self._require(
            caller, Permission.MANAGE, name, request_id, action="accounts.change", detail=detail
        )
        if new_name != name:
            was = f"was {name}"
            await self._require(
                caller, Permission.MANAGE, new_name, request_id, action="accounts.rename", detail=was
            )
        account = await self._get(name)
        label, subject = changes.get("label", account.label), changes.get("subject", account.subject)
        if new_name != name:
            await self._rename(name, new_name, label=label, subject=subject)
        else:
            await self._store.relabel(name, label=label, subject=subject)
        return await self._get(new_name)

    async def freeze(self, caller: Caller, name: str, *, request_id: str) -> Account:
        """Renew it no more until it is unfrozen; a living token is still handed out."""
        await self._require(caller, Permission.MANAGE, name, request_id, action="accounts.freeze")
        account = await self._get(name)
        done = [] if account.frozen else [self._done(EventKind.FROZEN, account, caller, Reason.OPERATOR)]
        await self._store.freeze(name, Reason.OPERATOR, self._context.steady.now(), done)
        return await self._get(name)

    async def unfreeze(self, caller: Caller, name: str, *, request_id: str) -> Account:
        await self._require(caller, Permission.MANAGE, name, request_id, action="accounts.unfreeze")
        account = await self._get(name)
        done = [self._done(EventKind.UNFROZEN, account, caller)] if account.frozen else []
        await self._store.freeze(name, None, self._context.steady.now(), done)
        return await self._get(name)

    async def remove(self, caller: Caller, name: str, *, purge: bool, revoke: bool, request_id: str) -> None:
        """Hand it out no more; undone for 30 days by `restore`, unless purged. A running renewal is awaited."""
        ways = " ".join(word for word, given in (("purge", purge), ("revoke", revoke)) if given)
        await self._require(
            caller, Permission.MANAGE, name, request_id, action="accounts.remove", detail=ways or None
        )
        account = await self._settled(name, removed_too=purge)
        if revoke:
            await self._revoke(account)
        if account.removed_at is None:
            done = self._done(EventKind.DISCONNECTED, account, caller)
            await self._store.remove(name, self._context.steady.now(), [done])
        if purge:
            await self._purge(name)
        log.info("account.removed", account=name, purged=purge, revoked=revoke)

    async def restore(self, caller: Caller, name: str, *, request_id: str) -> Account:
        """Undo a removal of the last 30 days."""
        await self._require(caller, Permission.MANAGE, name, request_id, action="accounts.restore")
        now, row = self._context.steady.now(), await self._store.get(name)
        done = [self._done(EventKind.RESTORED, row, caller)] if row else []
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
        return await self._get(name)

    async def purge_removed(self, now: float) -> None:
        """Forget what was removed more than 30 days ago, a few at a time."""
        for name in await self._store.removed_before(now - RESTORABLE_FOR, PURGE_BATCH):
            await self._purge(name)
            await self._context.authorizer.note(
                BY_AGE, "accounts.purge", name, "removed 30 days ago", request_id=""
            )
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

    def _done(self, kind: EventKind, account: Account, caller: Caller, reason: Reason | None = None) -> Event:
        """What somebody did to an account, for its history."""
        return Event(
            self._context.steady.now(),
            kind,
            account.name,
            account.provider,
            reason,
            account.generation,
            actor=caller.name,
        )

    async def _rename(self, name: str, new_name: str, *, label: str | None, subject: str | None) -> None:
        account = await self._settled(name)
        floor = await self._store.purged(self._name_hash(new_name)) or (0, 0)
        ref = Ref(new_name, max(account.epoch, floor[0] + 1), max(account.generation, floor[1]) + 1)
        access, refresh = self._context.encryption.encrypt(
            ref,
            self._context.encryption.access_token(account),
            self._context.encryption.refresh_token(account),
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
        look = (
            None
            if account.dead or account.frozen
            else window_opens(renamed, self._context.settings.refresh.ahead)
        )
        spares = await self._spares_for(account, ref)
        if not await self._store.rename(
            account.ref, renamed, spares=spares, next_at=look, old_name_hash=self._name_hash(name)
        ):
            raise Conflict(
                f"the name {new_name!r} is taken, or {name!r} was just renewed; look, and try again"
            )

    async def _purge(self, name: str) -> None:
        """Forget the account everywhere, also in the files where its rows were."""
        await self._store.purge(name, self._name_hash(name))
        for forget in self._forget_besides:
            await forget(name)
        self._scrubbed = await self._store.scrub()

    async def _spares_for(self, account: Account, ref: Ref) -> list[Spare]:
        """The account's spares, sealed for its new place: one of them may be all that still works."""
        spares = []
        for spare in await self._store.spares(account.name, account.epoch):
            of_current = spare.generation == account.generation
            parent = replace(ref, generation=ref.generation if of_current else spare.generation)
            id_ = secrets.token_hex(8)
            sealed = self._context.encryption.encrypt_spare(
                parent, id_, self._context.encryption.spare_token(spare)
            )
            spares.append(Spare(id_, ref.name, ref.epoch, parent.generation, sealed, spare.received_at))
        return spares

    async def _settled(self, name: str, *, removed_too: bool = False) -> Account:
        """The account once no renewal of it is under way."""
        account = await self._get(name, removed_too=removed_too)
        if self._flights.is_flying(account.ref):
            await self._flights.join(account.ref)
            account = await self._get(name, removed_too=removed_too)
        return account

    async def _revoke(self, account: Account) -> None:
        provider = self._context.providers.get(account.provider)
        token = self._context.encryption.refresh_token(account) or self._context.encryption.access_token(
            account
        )
        known = provider is not None and provider.knows_client(account.client_id)
        if provider is None or token is None or not known:
            raise Conflict(
                "its provider or client is not in the configuration, so it cannot be revoked there"
            )
        if not await provider.revoke(token, client_id=account.client_id, org=account.org):
            raise Conflict(f"{account.provider} did not confirm the revocation; nothing was removed")

    async def _require(
        self,
        caller: Caller,
        permission: Permission,
        name: str,
        request_id: str,
        *,
        action: str,
        detail: str | None = None,
    ) -> None:
        if not is_account_name(name):
            raise InvalidRequest("an account's name is lower-case letters, digits and . _ -, at most 128")
        await self._context.authorizer.require(
            caller, permission, name, request_id=request_id, action=action, detail=detail
        )

    async def _get(self, name: str, *, removed_too: bool = False) -> Account:
        account = await self._store.get(name)
        if account is None or (account.removed_at is not None and not removed_too):
            raise no_account(name, removed=account is not None)
        return account

    def _name_hash(self, name: str) -> str:
        return self._context.keyring.fingerprint("purged name", name)
