"""Handing grants over to another system: frozen here first, so that never two renew one grant."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import structlog

from broker.callers.authorization import covers
from broker.context import Context
from broker.errors import InvalidRequest
from broker.model import Account, Caller, Event, EventKind, Permission, Reason, Secret, is_glob
from broker.store.account_queries import AccountQuery
from broker.tokens.flight import Flights

log = structlog.get_logger()
PAGE = 1000
RACES = 5
BUSY = "a renewal of it is under way; export it again in a moment"


@dataclass(frozen=True, slots=True)
class Exported:
    """A grant that is frozen here."""

    account: Account
    refresh_token: Secret


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An account whose grant was not handed over, and why."""

    name: str
    why: str


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
        return [name for name in await self._names() if covers(caller, name) and _matches(name, globs)]

    async def take(self, caller: Caller, name: str, *, request_id: str) -> Exported | LeftOut:
        """Freeze the account and give its refresh token out of the house; a running renewal is awaited.

        Raises Forbidden, AuditUnavailable, StorageUnavailable; then nothing has left.
        """
        await self._context.authorizer.require(
            caller, Permission.MANAGE, name, request_id=request_id, action="accounts.export"
        )
        for _ in range(RACES):
            account = await self._settled(name)
            if account is None:
                return LeftOut(name, "it was removed just now")
            if why := _why_not(account):
                return LeftOut(name, why)
            now = self._context.steady.now()
            done = Event(
                now,
                EventKind.FROZEN,
                name,
                account.provider,
                Reason.EXPORTED,
                account.generation,
                actor=caller.name,
            )
            if await self._imports.freeze_idle(account.ref, Reason.EXPORTED, now, [done]):
                return await self._frozen(account)
        return LeftOut(name, BUSY)

    async def _frozen(self, account: Account) -> Exported | LeftOut:
        # Read again: it may have been sealed anew, but no renewal can have moved it.
        frozen = await self._accounts.get(account.name) or account
        token = self._context.encryption.refresh_token(frozen)
        if token is None:
            return LeftOut(account.name, "it has no refresh token")
        log.warning("account.exported", account=account.name, generation=frozen.generation)
        return Exported(frozen, token)

    async def _settled(self, name: str) -> Account | None:
        """The account once no renewal of it is under way here; None where there is none."""
        account = await self._living(name)
        if account is not None and self._flights.is_flying(account.ref):
            await self._flights.join(account.ref)
            account = await self._living(name)
        return account

    async def _living(self, name: str) -> Account | None:
        account = await self._accounts.get(name)
        return None if account is None or account.removed_at is not None else account

    async def _names(self) -> list[str]:
        names: list[str] = []
        after = ""
        while page := await self._accounts.find(AccountQuery(after=after, limit=PAGE)):
            names += [account.name for account in page]
            after = names[-1]
        return names


def _why_not(account: Account) -> str | None:
    if account.dead is not None:
        return "its grant is dead; a person has to connect it again"
    if account.trouble.ambiguous:
        return "it is uncertain: a renewal's outcome is unknown; export it when that is settled"
    if account.sealed_refresh is None:
        return "it has no refresh token"
    return None


def _matches(name: str, globs: Sequence[str]) -> bool:
    return not globs or any(fnmatchcase(name, glob) for glob in globs)
