"""Runs commands without a running broker: they open the same services as the broker, without listeners."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from broker.admin.audit import IN_THE_JOURNAL
from broker.admin.checks import Check, Examined, check_configuration
from broker.admin.keys import KeyService
from broker.admin.routes import operator
from broker.admin.store_checks import check_broker, clock_check
from broker.app.opening import audits_of, open_context, open_database_alone, reference_of
from broker.app.services import Services, spool_of
from broker.audit.sinks import files_at
from broker.audit.verify import Report, Verifier, read_files, read_stream
from broker.clock import SystemClock
from broker.config import ConfigError, load
from broker.config.settings import FileKey, Settings, StoreSettings
from broker.context import audit_key
from broker.errors import BrokerError, StartRefused, StorageUnavailable
from broker.files import open_own, replacing
from broker.observe import logs
from broker.store.incarnation import refuse_vanished
from broker.store.migrate import migrate, move
from broker.store.sqlite import refuse_unfit, take_lock
from broker.tokens.schedule import Timings, unwatched

REQUEST_ID = "command-line"


async def open_services(
    settings: Settings, closing: AsyncExitStack, *, spool_folders: tuple[Path, ...] = ()
) -> Services:
    """Build the services without listeners and without renewing anything; raises StartRefused."""
    context = await open_context(settings, SystemClock(), closing)
    return Services(context, Timings(), unwatched, spool_folders=spool_folders, closing=closing)


@contextmanager
def open_keys(
    config: Path, environ: Mapping[str, str], *, failed: Callable[[str], Exception]
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Yield a function that answers `broker keys` from the configured store, as a running broker would.

    `failed` makes the exception that is raised for an error message.
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
    """Migrate the store and return the number of its schema; raises what `failed` makes of a message."""

    async def run() -> int:
        async with AsyncExitStack() as closing:
            database = (await open_database_alone(store, closing)).database
            async with database.starting():
                return await migrate(database)

    if store.postgres is None and not store.path.exists():
        raise failed(f"There is no store {store.path}. `broker serve` creates one.")
    try:
        return asyncio.run(run())
    except (StartRefused, StorageUnavailable) as exc:
        raise failed(str(exc)) from None


def copy_store(
    source: Path, store: StoreSettings, *, failed: Callable[[str], Exception]
) -> Mapping[str, int]:
    """Move the SQLite store `source` to the configured PostgreSQL and return the number of rows by table.

    Raises what `failed` makes of a message.
    """

    async def copy() -> Mapping[str, int]:
        async with AsyncExitStack() as closing:
            # The lock of the old store excludes a broker on it.
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
            f"{spool_of(source)} has token sets that are not stored; start the broker on {source} once to store them"
        )
    try:
        return asyncio.run(copy())
    except (StartRefused, StorageUnavailable) as exc:
        raise failed(str(exc)) from None


async def verify_offline(
    settings: Settings, blocks: AsyncIterator[bytes] | None, *, part: bool = False
) -> Report:
    """Verify the configured audit's files, or the lines in `blocks`, without writing; raises StartRefused, OSError."""
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
    """Run the checks of `broker check` on a copy of everything that a start would open; changes nothing."""
    checks = check_configuration(Examined(settings=settings, now=SystemClock().now(), environ=None))
    found: list[Check] = []
    originals: dict[str, str] = {}
    try:
        if settings.store.postgres is not None:
            found += await _check_shared(settings)
        else:
            with _copied(settings, originals) as copy:
                path = settings.store.path
                if not path.exists():
                    found.append(Check("store", "ok", f"{path} is made by the first start"))
                async with AsyncExitStack() as closing:
                    services = await open_services(copy, closing, spool_folders=(spool_of(path),))
                    found += await check_broker(services.opened(settings, None))
    except StartRefused as exc:
        found.append(
            Check(
                "start",
                "problem",
                str(exc),
                "correct that first; `broker serve` would refuse to start as well",
            )
        )
    for check in found:
        detail, todo = check.detail, check.next
        # The checks name the files of the copy; the operator knows the originals.
        for own, original in originals.items():
            detail, todo = detail.replace(own, original), todo and todo.replace(own, original)
        checks.append(replace(check, detail=detail, next=todo))
    return checks


async def _check_shared(settings: Settings) -> list[Check]:
    """Check only that the database answers, because other brokers may be using it."""
    async with AsyncExitStack() as closing:
        database = (await open_database_alone(settings.store, closing)).database
        made = await database.read("SELECT 1 FROM information_schema.tables WHERE table_name = 'accounts'")
        found = "PostgreSQL answers" if made else "PostgreSQL answers; the first start makes the tables"
        machine = SystemClock()
        ahead = machine.now() - await reference_of(database, machine)()
        return [Check("store", "ok", found), clock_check(ahead)]


@contextmanager
def _copied(settings: Settings, originals: dict[str, str]) -> Iterator[Settings]:
    """Copy the store to a temporary folder, and yield settings in which the copy replaces it.

    The master key and the audit, which a start could make, are replaced as well. `originals` receives the original
    path of each copy. Raises StartRefused if a broker runs on the store.
    """
    store, master, audit = settings.store.path, settings.master, settings.audit.path
    with ExitStack() as closing:
        if store.parent.exists():
            refuse_unfit(store.parent)
        # A link that leads nowhere stops a start as well, so it counts as a lock.
        if os.path.lexists(store.with_name(store.name + ".lock")):
            closing.callback(os.close, take_lock(store, os.O_RDONLY))
        refuse_vanished(store, outside=settings.store.outside, others=audits_of(settings))
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        own, key, lines = folder / "store" / store.name, folder / "master.key", folder / "audit.jsonl"
        own.parent.mkdir(mode=0o700)
        # A broker that was killed left committed rows in the write-ahead log.
        for suffix in ("", "-wal"):
            if store.with_name(store.name + suffix).exists():
                _copy(store.with_name(store.name + suffix), own.with_name(own.name + suffix))
        originals[str(own)] = str(store)
        if isinstance(master, FileKey):
            originals[str(key)] = str(master.path)
            if master.created and not master.path.exists():
                # The first start would make a key, so one is made next to the copy.
                master = FileKey(key)
        if audit is not None:
            originals[str(lines)] = str(audit)
        yield replace(
            settings,
            store=replace(settings.store, path=own),
            master=master,
            audit=replace(settings.audit, path=audit and lines),
        )


def _copy(original: Path, own: Path) -> None:
    try:
        with open(open_own(original, os.O_RDONLY), "rb") as reading, replacing(own) as writing:  # noqa: PTH123 - a handle
            shutil.copyfileobj(reading, writing)
    except OSError as exc:
        raise StartRefused(f"the store {original} cannot be read: {exc.strerror}") from None
