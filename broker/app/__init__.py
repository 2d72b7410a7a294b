"""The composition root: `open_broker` builds the services and the listeners on one context."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from broker.app.listeners import ListenerLimits, Listeners
from broker.app.opening import open_context
from broker.app.services import Services
from broker.clock import Clock, SystemClock
from broker.config.settings import Settings
from broker.errors import StartRefused, StorageUnavailable
from broker.model import Account
from broker.tokens.schedule import Timings, Watch, unwatched


class Broker(Services):
    """Everything that lives as long as the process: the services, and the listeners that offer them."""

    listeners: Listeners
    left_open: list[Account]
    """Accounts whose renewal an earlier process left without an outcome, newest first."""

    def use(self, settings: Settings) -> None:
        """Take over what a reload may change. Services read it through the context, so they are not notified."""
        self.context.use(settings)
        self.callers.use(settings)
        self.alerts.use(settings.alerts, resume=True)
        # A refused client may have been mended.
        self.tokens.permit.resume()

    def stop_waiting(self) -> None:
        """Answer every request that waits for a change, because the broker stops."""
        self.tokens.permit.stopping = self.context.health.stopping = True
        self.tokens.waiters.stop()


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
    """Build the broker and take over what an earlier process left (R10); raises StartRefused.

    What was opened is closed in reverse. `clock`, `timings`, `watch` and `limits` are for tests and proofs.
    """
    async with AsyncExitStack() as closing:
        try:
            context = await open_context(settings, clock or SystemClock(), closing)
            await context.audit.begin()
            broker = Broker(
                context, timings or Timings(), watch, spool_folders=spool_folders, closing=closing
            )
            await broker.adoption.begin()
            await broker.tokens.timekeeper.begin()
            if not context.is_shared:
                # Whoever copies or keeps the file without its log has the keys, and is found out by its incarnation.
                await context.stores.database.scrub()
                closing.push_async_callback(broker.adoption.renew)
            await broker.installs.late.recover()
            broker.left_open = await broker.tokens.recovery.prepare()
        except StorageUnavailable as exc:
            raise StartRefused(
                f"{exc.detail}, and this start has to; where that stays so, restore a backup: broker restore BACKUP"
            ) from None
        broker.listeners = Listeners(broker, environ or {}, limits or ListenerLimits())
        yield broker
