"""`broker adopt`: an operator says that this copy of the store is the one that renews from now on."""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from broker.admin.checks import Check
from broker.audit.lines import Times
from broker.callers.authorization import Gate
from broker.clock import Clock
from broker.config.settings import ProviderSettings, Rotation
from broker.errors import StorageUnavailable
from broker.model import Account, Caller, Permission
from broker.observe.health import Health
from broker.store.account_queries import AccountQuery
from broker.store.accounts import AccountStore
from broker.store.backup import MADE_AT, moment
from broker.store.incarnation import Ownership
from broker.store.keys import KeyStore
from broker.tokens.permit import Permit
from broker.tokens.policy import window_opens

log = structlog.get_logger()
PAGE = 500
PROBLEM = "copied_store"
ADOPTED = "adopted"
REMEMBERED = 1000
"""Doubtful accounts whose names are kept after the adoption."""
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Adopted:
    """What is remembered of an adoption."""

    at: float
    doubtful: int
    names: tuple[str, ...]
    """The first of them."""


class Adoption:
    """The copied-store rule (R13), from start to adoption."""

    def __init__(
        self,
        *,
        incarnation: Ownership,
        accounts: AccountStore,
        keys: KeyStore,
        permit: Permit,
        gate: Gate,
        clock: Clock,
        health: Health,
        settings: Mapping[str, ProviderSettings],
        ahead: float,
        handed_out: Callable[[str], Awaitable[Mapping[str, int]]],
    ) -> None:
        self._incarnation, self._accounts, self._keys = incarnation, accounts, keys
        self._permit, self._gate = permit, gate
        self._clock, self._health, self._settings, self._ahead = clock, health, settings, ahead
        self._handed_out = handed_out
        """The generations that the audit has seen since a moment, by account."""
        self._is_behind = False

    async def begin(self) -> None:
        """At start: own the store, or notice that it is a copy."""
        self._is_behind = await self._is_behind_audit()
        if not self._is_behind and not await self._incarnation.is_copy():
            await self.renew()
            return
        self._permit.copied_store = True
        self._health.raise_problem(
            PROBLEM, "the store is a copy or an old backup; nothing is renewed until `broker adopt`"
        )
        log.error("store.is_copy")

    async def renew(self) -> None:
        """At a start and at a stop: what was copied of an owned store before this is no original any more."""
        if self._permit.copied_store:
            return
        try:
            await self._incarnation.begin()
        except StorageUnavailable as exc:
            # On a full disk the one before goes on.
            log.warning("store.incarnation_kept", why=exc.detail)

    async def look_again(self) -> None:
        """Another broker on the same database may have been told that it is the original."""
        if self._permit.copied_store and not self._is_behind and not await self._incarnation.is_copy():
            self._permit.copied_store = False
            self._health.clear(PROBLEM)
            log.warning("store.adopted_elsewhere")

    async def _is_behind_audit(self) -> bool:
        """Whether the audit has seen a later generation of an account than the store holds, or the store, whose
        write-ahead log was lost maybe, has never heard of an account."""
        adopted = _parsed(await self._keys.meta(ADOPTED))
        after = "" if adopted is None else Times().text(adopted.at)
        try:
            handed_out = await self._handed_out(after)
        except OSError as exc:
            # What cannot be read proves nothing.
            log.warning("audit.not_read_back", why=exc.strerror)
            return False
        if handed_out and await self._keys.has_no_accounts():
            log.error(
                "store.behind_audit", account=min(handed_out), store=None, audit=max(handed_out.values())
            )
            return True
        for name, generation in handed_out.items():
            account = await self._accounts.get(name)
            if account is not None and account.generation < generation:
                log.error("store.behind_audit", account=name, store=account.generation, audit=generation)
                return True
        return False

    async def adopt(self, caller: Caller, *, request_id: str) -> list[str] | None:
        """Renew from this store from now on; the accounts that probably need their person again.

        None: the store is no copy, so there is nothing to adopt.

        These are the accounts of providers that rotate whose renewal was due since the copy was made, or under
        way just then: the original has probably used up their refresh token. What it renewed before that was
        due, because somebody demanded it, cannot be known here.
        """
        await self._gate.require(caller, Permission.ADMIN, None, request_id=request_id)
        if not self._permit.copied_store:
            return None
        doubtful = await self._doubtful()
        await self._remember(doubtful)
        # A later copy of this store, made by hand, is of another time.
        await self._keys.set_meta(MADE_AT, "")
        await self._incarnation.begin()
        self._permit.copied_store = self._is_behind = False
        self._health.clear(PROBLEM)
        await self._gate.note(caller, "adopt", None, f"{len(doubtful)} doubtful", request_id=request_id)
        log.warning("store.adopted", doubtful=len(doubtful))
        return doubtful

    async def copied_at(self) -> float | None:
        """When `broker backup` made what this store was restored from; None: it was not, or copied by hand."""
        return moment(await self._keys.meta(MADE_AT))

    async def checks(self) -> list[Check]:
        """What `broker check` says of a copy: that it is one, and afterwards which accounts have not come back."""
        if self._permit.copied_store:
            return [self._copy_check(await self._doubtful())]
        adopted = _parsed(await self._keys.meta(ADOPTED))
        if adopted is None:
            return []
        waiting = [name for name in adopted.names if await self._waits(name, adopted.at)]
        if not waiting and adopted.doubtful <= len(adopted.names):
            return []
        more = adopted.doubtful - len(adopted.names)
        return [
            Check(
                "adopted store",
                "warning",
                f"not renewed since the adoption, and may need their person again: {_listed(waiting, more)}",
                "broker accounts show NAME; broker install-link PROVIDER --account NAME",
            )
        ]

    def _copy_check(self, doubtful: list[str]) -> Check:
        detail = "the store is a copy or an old backup: it serves living tokens and renews nothing"
        if doubtful:
            detail += f"; these may need their person again: {_listed(doubtful, 0)}"
        return Check(
            "copied store", "problem", detail, "if no other broker runs on the original: broker adopt"
        )

    async def _waits(self, name: str, since: float) -> bool:
        account = await self._accounts.get(name)
        return account is not None and account.removed_at is None and account.refreshed_at < since

    async def _remember(self, doubtful: list[str]) -> None:
        kept = {"at": self._clock.now(), "doubtful": len(doubtful), "names": doubtful[:REMEMBERED]}
        await self._keys.set_meta(ADOPTED, json.dumps(kept))

    async def _doubtful(self) -> list[str]:
        names: list[str] = []
        after = ""
        while page := await self._accounts.find(AccountQuery(after=after, limit=PAGE)):
            names += [account.name for account in page if self._is_doubtful(account)]
            after = page[-1].name
        return names

    def _is_doubtful(self, account: Account) -> bool:
        settings = self._settings.get(account.provider)
        rotates = settings is None or settings.rotation is not Rotation.NONE
        was_due = self._clock.now() >= window_opens(account, self._ahead) and not account.frozen
        under_way = account.intent is not None or account.trouble.ambiguous > 0
        return rotates and not account.dead and (was_due or under_way)


def _listed(names: list[str], more: int) -> str:
    """`a, b, c and 7 more`."""
    unnamed = len(names[SHOWN:]) + more
    return ", ".join(names[:SHOWN]) + (f" and {unnamed} more" if unnamed > 0 else "")


def _parsed(written: str | None) -> Adopted | None:
    """None where nothing was written, or nothing that can be read."""
    with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
        members = json.loads(written or "null")
        if members is not None and (at := moment(members["at"])) is not None:
            return Adopted(at, int(members["doubtful"]), tuple(map(str, members["names"])))
    return None
