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
    """The services of a running broker, and the listeners that offer them."""

    listeners: Listeners
    left_open: list[Account]
    """Accounts whose renewal has no outcome because an earlier process ended, the newest first."""

    def use(self, settings: Settings) -> None:
        """Apply a reloaded configuration. Most services read the settings through the context."""
        self.context.use(settings)
        self.callers.use(settings)
        self.alerts.use(settings.alerts, resume=True)
        # The client's secret may have been corrected.
        self.tokens.permit.resume()

    def stop_waiting(self) -> None:
        """Answer all long polls, because the broker stops."""
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
    """Open the broker and finish the work of an earlier process (R10); raises StartRefused.

    Everything is closed in reverse order at the end. `clock`, `timings`, `watch` and `limits` are for tests.
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
                # The incarnation that is renewed at the stop reveals a copy that was made before.
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
