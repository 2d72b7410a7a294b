"""The composition root: `open_broker` builds every part and wires them; only here are concrete classes named."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.admin.audit import IN_THE_JOURNAL
from broker.admin.checks import (
    Check,
    address_checks,
    listener_checks,
    provider_checks,
    settings_checks,
    tls_checks,
)
from broker.admin.overview import read_statistics
from broker.admin.store_checks import (
    Leftovers,
    audit_check_offline,
    clock_check,
    identity_checks,
    leftover_checks,
    store_checks,
)
from broker.alerts.service import Alerts
from broker.app.databases import open_alone
from broker.app.doctor import build_check, ring_checks
from broker.app.listeners import ListenerLimits, Listeners, build_listeners
from broker.app.looking import Copy, copied
from broker.app.opening import audit_key, open_context, reference_of
from broker.app.rooms import (
    CallerRoom,
    InstallRoom,
    Rooms,
    build_background,
    build_keys,
    build_rooms,
    build_spools,
    spool_of,
)
from broker.app.token_room import TokenRoom
from broker.audit.sinks import files_at
from broker.audit.verify import Report, Verifier, read_files, read_stream
from broker.clock import Clock, SystemClock
from broker.config.settings import Settings
from broker.context import Context
from broker.errors import StartRefused, StorageUnavailable
from broker.model import Account
from broker.tokens.background import Background
from broker.tokens.schedule import Timings
from broker.tokens.steps import Watch, unwatched


@dataclass(frozen=True, slots=True)
class Broker:
    """Everything that lives as long as the process."""

    context: Context
    rooms: Rooms
    background: Background
    listeners: Listeners
    left_open: list[Account]
    """Accounts whose renewal an earlier boot left open, newest first."""

    @property
    def base(self) -> Context:
        """Return the context, by its former name."""
        return self.context

    @property
    def tokens(self) -> TokenRoom:
        return self.rooms.tokens

    @property
    def installs(self) -> InstallRoom:
        return self.rooms.installs

    @property
    def callers(self) -> CallerRoom:
        return self.rooms.callers

    @property
    def alerts(self) -> Alerts:
        return self.rooms.alerts.service

    def stop_waiting(self) -> None:
        """The broker stops: who waits for news gets what there is."""
        self.tokens.permit.stopping = self.context.health.stopping = True
        self.tokens.waiters.stop()

    def use(self, settings: Settings) -> None:
        """Go on with reloaded providers, callers and alerts."""
        self.context.use(settings)
        self.callers.use(settings.callers)
        self.rooms.alerts.use(settings, resume=True)
        # A refused client may have been mended.
        self.tokens.permit.resume()


@asynccontextmanager
async def open_broker(
    settings: Settings,
    *,
    clock: Clock | None = None,
    timings: Timings | None = None,
    spool_folders: tuple[Path, ...] = (),
    watch: Watch = unwatched,
    environ: Mapping[str, str] | None = None,
    limits: ListenerLimits | None = None,
) -> AsyncIterator[Broker]:
    """Build the broker and take over what an earlier boot left (R10); raises StartRefused.

    What was opened is closed in reverse. `clock`, `timings`, `watch` and `limits` are for tests and proofs.
    """
    async with AsyncExitStack() as closing:
        try:
            context = await open_context(settings, clock or SystemClock(), closing)
            await context.audit.begin()
            rooms = build_rooms(context, timings or Timings(), spool_folders, watch, closing)

            await rooms.adoption.begin()
            await rooms.tokens.timekeeper.begin()
            if not context.stores.database.dialect.shared:
                # Whoever copies or keeps the file without its log has the keys, and is found out by its incarnation.
                await context.stores.database.scrub()
                closing.push_async_callback(rooms.adoption.renew)
            await rooms.installs.late.recover()
            left_open = await rooms.tokens.recovery.prepare()
        except StorageUnavailable as exc:
            raise StartRefused(
                f"{exc.detail}, and this start has to; where that stays so, restore a backup: broker restore BACKUP"
            ) from None
        yield Broker(
            context=context,
            rooms=rooms,
            background=build_background(context, rooms),
            listeners=build_listeners(
                context, rooms, build_check(context, rooms, environ or {}), limits or ListenerLimits()
            ),
            left_open=left_open,
        )


async def verify_offline(
    settings: Settings, blocks: AsyncIterator[bytes] | None, *, part: bool = False
) -> Report:
    """`broker audit verify` where no broker runs: of the files in the configuration, or of given lines.

    Takes the instance lock and opens the key ring; writes no line. Raises StartRefused, OSError.
    """
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
    """`broker check` where no broker runs: opens everything as a start would, but on a copy; it changes nothing."""
    clock = SystemClock()
    checks = [Check("configuration", "ok", f"{settings.path} is valid"), *settings_checks(settings)]
    checks += [*tls_checks(settings.server, clock.now()), audit_check_offline(settings.audit.path)]
    checks += [*address_checks(settings), *listener_checks(settings)]
    if settings.store.postgres is not None:
        return [*checks, *await _check_shared(settings)]
    try:
        with copied(settings) as copy:
            checks += [copy.of(check) for check in await _check_copy(settings, copy, clock)]
    except StartRefused as exc:
        checks.append(_would_refuse(str(exc)))
    return checks


async def _check_shared(settings: Settings) -> list[Check]:
    """A database that others may be using: that it can be had, and nothing more."""
    try:
        async with AsyncExitStack() as closing:
            database = (await open_alone(settings.store, closing)).database
            made = await database.read(
                "SELECT 1 FROM information_schema.tables WHERE table_name = 'accounts'"
            )
            found = "PostgreSQL answers" if made else "PostgreSQL answers; the first start makes the tables"
            machine = SystemClock()
            ahead = machine.now() - await reference_of(database, machine)()
            return [Check("store", "ok", found), clock_check(ahead)]
    except StartRefused as exc:
        return [_would_refuse(str(exc))]


async def _check_copy(settings: Settings, copy: Copy, clock: Clock) -> list[Check]:
    checks = []
    if not settings.store.path.exists():
        checks.append(Check("store", "ok", f"{settings.store.path} is made by the first start"))
    try:
        async with AsyncExitStack() as closing:
            context = await open_context(copy.settings, clock, closing)
            spools = build_spools(context, (spool_of(settings.store.path),))
            left = Leftovers(spooled=len(spools), retained=0, is_running=False)
            checks += await ring_checks(context, build_keys(context, spools, tuple))
            statistics = await read_statistics(context.stores.accounts, context.clock.now())
            checks += store_checks(statistics, settings.store.path.parent)
            checks += await leftover_checks(context.stores.accounts, left, clock.now())
            checks += await identity_checks(context.stores.accounts)
            checks += await provider_checks(context.providers)
    except StartRefused as exc:
        checks.append(_would_refuse(str(exc)))
    return checks


def _would_refuse(why: str) -> Check:
    return Check("start", "problem", why, "mend that first; `broker serve` would refuse as well")
