"""Makes backups of the store, and keeps a copied store from renewing until `broker adopt` (rule R13)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
from aiohttp import web

from broker.admin.checks import Check
from broker.audit.lines import Times
from broker.audit.sinks import old_files
from broker.audit.verify import last_generations
from broker.config.settings import Rotation
from broker.context import Context, audit_key
from broker.errors import InvalidRequest, StorageUnavailable
from broker.http.edge import CALLER, REQUEST_ID
from broker.http.operations import Operation
from broker.model import Caller, Permission, window_opens
from broker.store.account_queries import AccountQuery
from broker.store.backup import MADE_AT, SqliteBackup, moment
from broker.tokens.permit import Permit

log = structlog.get_logger()
PAGE = 500
PROBLEM = "copied_store"
ADOPTED = "adopted"
REMEMBERED = 1000
"""Names of doubtful accounts that are kept after the adoption."""
SHOWN = 10
CHUNK = 256 * 1024
STUCK_AFTER = 60.0
"""Seconds after which a backup's client that reads nothing is disconnected."""


class BackupService:
    """Sends backups over the admin socket. Every secret in their bytes is encrypted."""

    def __init__(self, context: Context) -> None:
        self._context = context
        store = context.settings.store
        self._copies = None if store.postgres else SqliteBackup(store.path)
        """None for PostgreSQL, because its own tools know its other databases and its log as well."""

    @asynccontextmanager
    async def backup(self, caller: Caller, *, request_id: str) -> AsyncIterator[Path]:
        """Yield a consistent copy of the store, which is deleted afterwards; raises StorageUnavailable."""
        await self._context.authorizer.require(caller, Permission.ADMIN, None, request_id=request_id)
        if self._copies is None:
            raise InvalidRequest("the store is a PostgreSQL database; back it up with pg_dump")
        async with self._copies.copy(self._context.clock.now()) as path:
            size = f"{path.stat().st_size} bytes"
            await self._context.authorizer.note(caller, "backup", None, size, request_id=request_id)
            yield path

    @Operation("POST", "/backup", permission=Permission.ADMIN)
    async def send(self, request: web.Request) -> web.StreamResponse:
        """Return the bytes of a consistent copy of the store."""
        headers = {"Content-Type": "application/vnd.sqlite3", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        async with self.backup(request[CALLER], request_id=request[REQUEST_ID]) as path:
            response.content_length = path.stat().st_size
            await response.prepare(request)
            with path.open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK):
                    try:
                        async with asyncio.timeout(STUCK_AFTER):
                            await response.write(chunk)
                    except TimeoutError:
                        # The copy takes disk space next to the store until it is sent.
                        log.warning("backup.not_read", seconds=STUCK_AFTER)
                        if request.transport is not None:
                            request.transport.abort()
                        break
        return response


class Adoption:
    """The rule for copied stores (R13): a copy issues tokens and renews nothing until an operator adopts it."""

    def __init__(self, context: Context, permit: Permit) -> None:
        self._context, self._permit = context, permit
        self._is_behind = False

    async def begin(self) -> None:
        """At a start, take ownership of the store, or stop renewals because it is a copy or an old backup."""
        self._is_behind = await self._is_behind_audit()
        if not self._is_behind and not await self._context.ownership.is_copy():
            await self.renew()
            return
        self._permit.copied_store = True
        self._context.health.raise_problem(
            PROBLEM, "the store is a copy or an old backup; nothing is renewed until `broker adopt`"
        )
        log.error("store.is_copy")

    async def renew(self) -> None:
        """Begin a new incarnation, at a start and at a stop, so that older copies are recognized as such."""
        if self._permit.copied_store:
            return
        try:
            await self._context.ownership.begin()
        except StorageUnavailable as exc:
            # On a full disk the previous incarnation stays.
            log.warning("store.incarnation_kept", why=exc.detail)

    async def look_again(self) -> None:
        """Renew again if the copy was adopted through another broker on the same database."""
        if self._permit.copied_store and not self._is_behind and not await self._context.ownership.is_copy():
            self._permit.copied_store = False
            self._context.health.clear(PROBLEM)
            log.warning("store.adopted_elsewhere")

    async def _is_behind_audit(self) -> bool:
        """Return whether the audit names a later generation of some account than the store has.

        A store without any account is behind too: its write-ahead log may be lost.
        """
        path, key = self._context.settings.audit.path, audit_key(self._context.keyring)
        # Brokers on one database have an audit each, and a failover may have lost the last renewals.
        if path is None or self._context.is_shared or not path.is_file():
            return False
        after = "" if (adopted := await self._adopted()) is None else Times().text(adopted[0])
        try:
            files = [path, *(old.path for old in reversed(old_files(path)))]
            handed_out = await asyncio.to_thread(last_generations, files, key, after=after)
        except OSError as exc:
            # A file that cannot be read proves nothing.
            log.warning("audit.not_read_back", why=exc.strerror)
            return False
        if handed_out and await self._context.stores.keys.has_no_accounts():
            latest = max(handed_out.values())
            log.error("store.behind_audit", account=min(handed_out), store=None, audit=latest)
            return True
        for name, generation in handed_out.items():
            account = await self._context.stores.accounts.get(name)
            if account is not None and account.generation < generation:
                log.error("store.behind_audit", account=name, store=account.generation, audit=generation)
                return True
        return False

    async def adopt(self, caller: Caller, *, request_id: str) -> list[str] | None:
        """Renew from this store from now on, and return the accounts that probably need re-authorization.

        Return None if the store is not a copy. The accounts are those whose provider rotates refresh tokens and
        whose renewal was due since the copy was made, or was in progress then: the original has probably used
        their refresh token. Renewals that were forced on the original cannot be known here.
        """
        await self._context.authorizer.require(caller, Permission.ADMIN, None, request_id=request_id)
        if not self._permit.copied_store:
            return None
        doubtful = await self._doubtful()
        kept = {"at": self._context.steady.now(), "doubtful": len(doubtful), "names": doubtful[:REMEMBERED]}
        await self._context.stores.keys.set_meta(ADOPTED, json.dumps(kept))
        # The time of the backup does not hold for a copy of this store that is made by hand later.
        await self._context.stores.keys.set_meta(MADE_AT, "")
        await self._context.ownership.begin()
        self._permit.copied_store = self._is_behind = False
        self._context.health.clear(PROBLEM)
        await self._context.authorizer.note(
            caller, "adopt", None, f"{len(doubtful)} doubtful", request_id=request_id
        )
        log.warning("store.adopted", doubtful=len(doubtful))
        return doubtful

    async def copied_at(self) -> float | None:
        """Return when `broker backup` made this copy, in epoch seconds; None if it did not."""
        return moment(await self._context.stores.keys.meta(MADE_AT))

    async def checks(self) -> list[Check]:
        """Check for a copied store, and after its adoption for accounts that have not been renewed since."""
        if self._permit.copied_store:
            told = "the store is a copy or an old backup: valid tokens are served, nothing is renewed"
            if doubtful := await self._doubtful():
                told += f"; these may need re-authorization: {_listed(doubtful, 0)}"
            mend = "if no other broker runs on the original: broker adopt"
            return [Check("copied store", "problem", told, mend)]
        adopted = await self._adopted()
        if adopted is None:
            return []
        at, total, names = adopted
        waiting, more = list[str](), total - len(names)
        for name in names:
            account = await self._context.stores.accounts.get(name)
            if account and account.removed_at is None and account.refreshed_at < at:
                waiting.append(name)
        if not waiting and more <= 0:
            return []
        told = f"not renewed since the adoption, and may need re-authorization: {_listed(waiting, more)}"
        mend = "broker accounts show NAME; broker install-link PROVIDER --account NAME"
        return [Check("adopted store", "warning", told, mend)]

    async def _adopted(self) -> tuple[float, int, list[str]] | None:
        """Return the time of the adoption, the number of doubtful accounts, and the first of their names."""
        written = await self._context.stores.keys.meta(ADOPTED)
        # A value that cannot be read counts as none.
        with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
            members = json.loads(written or "null")
            if members is not None and (at := moment(members["at"])) is not None:
                return at, int(members["doubtful"]), [*map(str, members["names"])]
        return None

    async def _doubtful(self) -> list[str]:
        names, after, now = list[str](), "", self._context.steady.now()
        ahead = self._context.settings.refresh.ahead
        while page := await self._context.stores.accounts.find(AccountQuery(after=after, limit=PAGE)):
            after = page[-1].name
            for account in page:
                provider = self._context.providers.get(account.provider)
                rotates = provider is None or provider.settings.rotation is not Rotation.NONE
                was_due = now >= window_opens(account, ahead) and not account.frozen
                in_progress = account.intent is not None or account.trouble.ambiguous > 0
                if rotates and not account.dead and (was_due or in_progress):
                    names.append(account.name)
        return names


def _listed(names: list[str], more: int) -> str:
    """Return `a, b, c and 7 more`."""
    unnamed = len(names[SHOWN:]) + more
    return ", ".join(names[:SHOWN]) + (f" and {unnamed} more" if unnamed > 0 else "")
