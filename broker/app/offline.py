"""The commands that open the store themselves because no broker runs: the same services, without listeners."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from broker.admin.audit import IN_THE_JOURNAL
from broker.admin.checks import Check, Examined, check_configuration
from broker.admin.keys import KeyService
from broker.admin.routes import operator
from broker.admin.store_checks import check_broker, clock_check
from broker.app.offline_copy import Copy, copied
from broker.app.opening import open_context, open_database_alone, reference_of
from broker.app.services import Services, spool_of
from broker.audit.sinks import files_at
from broker.audit.verify import Report, Verifier, read_files, read_stream
from broker.clock import SystemClock
from broker.config import ConfigError, load
from broker.config.settings import Settings, StoreSettings
from broker.context import audit_key
from broker.errors import BrokerError, StartRefused, StorageUnavailable
from broker.observe import logs
from broker.store.migrate import migrate, move
from broker.tokens.schedule import Timings, unwatched

REQUEST_ID = "command-line"


async def open_services(
    settings: Settings, closing: AsyncExitStack, *, spool_folders: tuple[Path, ...] = ()
) -> Services:
    """Build the services without a listener and without renewing anything; raises StartRefused."""
    context = await open_context(settings, SystemClock(), closing)
    return Services(context, Timings(), unwatched, spool_folders=spool_folders, closing=closing)


@contextmanager
def open_keys(
    config: Path, environ: Mapping[str, str], *, failed: Callable[[str], Exception]
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Yield a function that answers `broker keys` from the configured store, as a running broker would.

    Raises what `failed` makes of a sentence.
    """
    caller = operator(os.geteuid())

    async def open_service() -> KeyService:
        settings = load(config, environ=environ)
        logs.configure(replace(settings.log, level="error"))
        services = await open_services(settings, closing)
        await services.context.audit.begin()
        return services.keys

    async def answer(method: str, target: str, cursor: str | None) -> dict[str, Any]:
        match method, target:
            case "GET", "/keys":
                return {"keys": await service.keys(caller, request_id=REQUEST_ID)}
            case "POST", "/keys":
                return await service.new(caller, request_id=REQUEST_ID)
            case "POST", "/keys/rewrap":
                return await service.rewrap(caller, cursor, request_id=REQUEST_ID)
            case _:
                return await service.drop(caller, target.removeprefix("/keys/"), request_id=REQUEST_ID)

    def ask(method: str, target: str, *, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return runner.run(answer(method, target, (body or {}).get("cursor")))

    with asyncio.Runner() as runner:
        closing = AsyncExitStack()
        try:
            service = runner.run(open_service())
            yield ask
        except ConfigError as exc:
            raise failed(exc.problems[0]) from None
        except BrokerError as exc:
            raise failed(exc.detail) from None
        except StartRefused as exc:
            raise failed(str(exc)) from None
        finally:
            runner.run(closing.aclose())


def migrate_store(store: StoreSettings, *, failed: Callable[[str], Exception]) -> int:
    """Bring the store up to date and return its schema's number; raises what `failed` makes of a sentence."""

    async def bring_up_to_date() -> int:
        async with AsyncExitStack() as closing:
            database = (await open_database_alone(store, closing)).database
            async with database.starting():
                return await migrate(database)

    if store.postgres is None and not store.path.exists():
        raise failed(f"There is no store {store.path}; `broker serve` makes one.")
    try:
        return asyncio.run(bring_up_to_date())
    except (StartRefused, StorageUnavailable) as exc:
        raise failed(str(exc)) from None


def copy_store(
    source: Path, store: StoreSettings, *, failed: Callable[[str], Exception]
) -> Mapping[str, int]:
    """Move the SQLite store `source` to the configured PostgreSQL and return the number of rows by table.

    Raises what `failed` makes of a sentence.
    """

    async def copy() -> Mapping[str, int]:
        async with AsyncExitStack() as closing:
            # Its lock keeps a broker from starting on it, and this from starting next to one.
            old = await open_database_alone(replace(store, path=source, postgres=None), closing)
            new = await open_database_alone(store, closing)
            async with new.database.starting():
                await migrate(old.database)
                await migrate(new.database)
                is_copy = await old.ownership.is_copy()
                counts = await move(old.database, new.database, where=await new.identity())
                if not is_copy:
                    await new.ownership.begin()
            return counts

    if store.postgres is None:
        raise failed("store.url names no PostgreSQL database; a copy goes from SQLite to there")
    if not source.exists():
        raise failed(f"There is no store {source}.")
    if any(spool_of(source).glob("*")):
        raise failed(
            f"token sets wait in {spool_of(source)}; start the broker on {source} once, it stores them"
        )
    try:
        return asyncio.run(copy())
    except (StartRefused, StorageUnavailable) as exc:
        raise failed(str(exc)) from None


async def verify_offline(
    settings: Settings, blocks: AsyncIterator[bytes] | None, *, part: bool = False
) -> Report:
    """Verify the files of the configured audit, or given lines; writes no line. Raises StartRefused, OSError."""
    async with AsyncExitStack() as closing:
        context = await open_context(settings, SystemClock(), closing)
        head = None if part else await context.audit.stored_head()
        verifier = Verifier(audit_key(context.keyring), whole=blocks is None, mixed=blocks is not None)
        if blocks is not None:
            await read_stream(verifier, blocks)
        elif settings.audit.path is not None:
            await read_files(verifier, files_at(settings.audit.path))
        else:
            raise StartRefused(IN_THE_JOURNAL)
        return verifier.finish([] if head is None else [head])


async def check_offline(settings: Settings) -> list[Check]:
    """Open everything as a start would, but on a copy, for `broker check`; changes nothing."""
    checks = check_configuration(Examined(settings=settings, now=SystemClock().now(), environ=None))
    try:
        if settings.store.postgres is not None:
            return [*checks, *await _check_shared(settings)]
        with copied(settings) as copy:
            checks += [copy.of(check) for check in await _check_copy(settings, copy)]
    except StartRefused as exc:
        checks.append(_would_refuse(exc))
    return checks


async def _check_shared(settings: Settings) -> list[Check]:
    """Check that a database which others may be using can be reached, and nothing more."""
    async with AsyncExitStack() as closing:
        database = (await open_database_alone(settings.store, closing)).database
        made = await database.read("SELECT 1 FROM information_schema.tables WHERE table_name = 'accounts'")
        found = "PostgreSQL answers" if made else "PostgreSQL answers; the first start makes the tables"
        machine = SystemClock()
        ahead = machine.now() - await reference_of(database, machine)()
        return [Check("store", "ok", found), clock_check(ahead)]


async def _check_copy(settings: Settings, copy: Copy) -> list[Check]:
    checks, path = list[Check](), settings.store.path
    if not path.exists():
        checks.append(Check("store", "ok", f"{path} is made by the first start"))
    try:
        async with AsyncExitStack() as closing:
            services = await open_services(copy.settings, closing, spool_folders=(spool_of(path),))
            checks += await check_broker(services.opened(settings, None))
    except StartRefused as exc:
        checks.append(_would_refuse(exc))
    return checks


def _would_refuse(why: StartRefused) -> Check:
    return Check("start", "problem", str(why), "mend that first; `broker serve` would refuse as well")
