"""The composition root: `open_broker` builds every part and wires them; only here are concrete classes named."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.admin.checks import Check, config_checks, provider_checks, settings_checks, store_checks
from broker.app.foundation import Foundation, lay_foundation
from broker.app.listeners import ListenerLimits, Listeners, build_listeners
from broker.app.rooms import CallerRoom, InstallRoom, Rooms, TokenRoom, build_background, build_rooms
from broker.clock import Clock, SystemClock
from broker.config.settings import Settings
from broker.errors import StartRefused
from broker.model import Account
from broker.tokens.background import Background
from broker.tokens.schedule import Timings
from broker.tokens.steps import Watch, unwatched


@dataclass(frozen=True, slots=True)
class Broker:
    """Everything that lives as long as the process."""

    base: Foundation
    rooms: Rooms
    background: Background
    listeners: Listeners
    left_open: list[Account]
    """Accounts whose renewal an earlier boot left open, newest first."""

    @property
    def tokens(self) -> TokenRoom:
        return self.rooms.tokens

    @property
    def installs(self) -> InstallRoom:
        return self.rooms.installs

    @property
    def callers(self) -> CallerRoom:
        return self.rooms.callers

    def use(self, settings: Settings) -> None:
        """Go on with reloaded providers."""
        self.base.providers.build(settings.providers)
        by_name = self.base.providers.by_name
        self.tokens.refresher.use(by_name)
        self.tokens.permit.settings_changed(settings.providers)
        self.installs.service.use(by_name)
        self.rooms.accounts.use(by_name)
        self.rooms.overview.use(settings.providers, self.base.providers.token_urls)
        self.listeners.install_routes.use(settings.providers)


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
        base = await lay_foundation(settings, clock or SystemClock(), closing)
        rooms = build_rooms(base, timings or Timings(), spool_folders, watch, closing)

        async def check() -> list[Check]:
            return [
                *config_checks(settings.path, environ or {}),
                *settings_checks(settings),
                *await store_checks(base.stores.accounts, len(rooms.tokens.retained)),
                *await provider_checks(base.providers.by_name),
            ]

        await rooms.adoption.begin()
        yield Broker(
            base=base,
            rooms=rooms,
            background=build_background(base, rooms),
            listeners=build_listeners(base, rooms, check, limits or ListenerLimits()),
            left_open=await rooms.tokens.recovery.prepare(),
        )


async def check_offline(settings: Settings) -> list[Check]:
    """`broker check` where no broker runs: takes the instance lock, opens everything, renews nothing."""
    checks = [Check("configuration", "ok", f"{settings.path} is valid"), *settings_checks(settings)]
    try:
        async with AsyncExitStack() as closing:
            base = await lay_foundation(settings, SystemClock(), closing)
            checks += [Check("keys", "ok", "the master key opens the store")]
            checks += await store_checks(base.stores.accounts, 0)
            checks += await provider_checks(base.providers.by_name)
    except StartRefused as exc:
        checks.append(
            Check("start", "problem", str(exc), "mend that first; `broker serve` would refuse as well")
        )
    return checks
