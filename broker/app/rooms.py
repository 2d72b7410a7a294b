"""The rooms: installs, accounts, callers, what operators see; each gets what it needs and no more."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from broker.accounts.service import AccountService
from broker.admin.audit import AuditService
from broker.admin.copies import Adoption, BackupService
from broker.admin.keys import KeyService
from broker.admin.overview import Overview, Statistics, read_statistics
from broker.app.alerts import AlertRoom
from broker.app.moving import MovingRoom, build_moving
from broker.app.opening import audit_key
from broker.app.plugin import PluginRoom, build_plugin
from broker.app.token_room import TokenRoom, build_tokens
from broker.audit.sinks import old_files
from broker.audit.verify import last_generations
from broker.callers.authentication import KeyAuthenticator
from broker.callers.configured import ConfiguredCallers, JwtAuthenticator
from broker.callers.jwks import JwksCache
from broker.callers.login import LoginService
from broker.callers.service import CallerService
from broker.config.settings import CallerSettings
from broker.context import Context
from broker.http.browser import KeptRequests, is_same_browser
from broker.http.peers import UnknownUserLimits
from broker.installs.connect import Connector
from broker.installs.exchange import Exchange
from broker.installs.late import RetryLater
from broker.installs.service import InstallService
from broker.keys.rewrap import Census, Rewrapper
from broker.model import PendingGrant, Successor
from broker.single_flight import RecentResult
from broker.store.spool import Spool, grants_spool, renewals_spool
from broker.tokens.background import Background
from broker.tokens.schedule import Timings
from broker.tokens.steps import Watch

EVENTS_KEPT = 90 * 86400.0
INSTALLS_KEPT = 3600.0
PURGE_BATCH = 200


@dataclass(frozen=True, slots=True)
class InstallRoom:
    """Connecting."""

    late: RetryLater
    service: InstallService
    login: LoginService | None
    kept: KeptRequests


@dataclass(frozen=True, slots=True)
class CallerRoom:
    """Who may call."""

    keys: KeyAuthenticator
    jwts: JwtAuthenticator
    jwks: JwksCache
    configured: ConfiguredCallers
    service: CallerService

    def use(self, settings: Mapping[str, CallerSettings]) -> None:
        """Go on with other callers: the configuration was reloaded."""
        self.configured.use(settings)
        self.jwks.keep_only(self.configured.edition.jwks_urls)


@dataclass(frozen=True, slots=True)
class Spools:
    """What waits in files for the store."""

    renewals: Spool[Successor]
    grants: Spool[PendingGrant]

    def __len__(self) -> int:
        return len(self.renewals) + len(self.grants)

    def records(self) -> list[str]:
        return [*self.renewals.records(), *self.grants.records()]


@dataclass(frozen=True, slots=True)
class KeyRoom:
    """What seals."""

    census: Census
    desk: KeyService


@dataclass(frozen=True, slots=True)
class Rooms:
    """All of them."""

    tokens: TokenRoom
    installs: InstallRoom
    accounts: AccountService
    moving: MovingRoom
    callers: CallerRoom
    keys: KeyRoom
    spools: Spools
    backups: BackupService
    overview: Overview
    adoption: Adoption
    plugin: PluginRoom | None
    """None: `[plugin]` is off."""
    audit: AuditService
    alerts: AlertRoom


def build_rooms(
    context: Context, timings: Timings, spool_folders: tuple[Path, ...], watch: Watch, closing: AsyncExitStack
) -> Rooms:
    """Every room on one foundation."""
    spools = build_spools(context, spool_folders)
    tokens = build_tokens(context, timings, spools.renewals, watch, closing)
    unknown_users = UnknownUserLimits(context.clock)
    kept = KeptRequests(
        keyring=context.keyring,
        catch_up=context.ring.catch_up,
        clock=context.steady,
        https=context.settings.server.public_url.startswith("https://"),
    )
    installs = _installs(context, spools.grants, kept, unknown_users, closing)
    keys = build_keys(context, spools, lambda: [*tokens.retained.records(), *installs.late.records()])
    return Rooms(
        tokens=tokens,
        installs=installs,
        accounts=_accounts(context, tokens, installs),
        moving=build_moving(context, tokens.flights),
        callers=_callers(context, closing),
        keys=keys,
        spools=spools,
        backups=BackupService(context),
        overview=_overview(context, tokens, keys, closing),
        adoption=_adoption(context, tokens),
        plugin=build_plugin(context, context.settings.plugin, kept, unknown_users)
        if context.settings.plugin
        else None,
        audit=AuditService(
            audit=context.audit, key_of=audit_key(context.keyring), authorizer=context.authorizer
        ),
        alerts=AlertRoom(context, tokens.permit, closing),
    )


def build_spools(context: Context, folders: tuple[Path, ...]) -> Spools:
    """The rescue spools beside the store, and in these folders."""
    everywhere = (spool_of(context.settings.store.path), *folders)
    return Spools(renewals_spool(everywhere), grants_spool(everywhere))


def spool_of(store: Path) -> Path:
    """The folder beside a store."""
    return store.with_name(store.name + ".spool")


def build_keys(context: Context, spools: Spools, in_memory: Callable[[], Iterable[str]]) -> KeyRoom:
    """Keys, and everything that is sealed with them: in the store, in the spool, in memory alone."""
    census = Census(
        records=context.stores.records,
        elsewhere=lambda: {"spool": spools.records(), "memory": in_memory()},
        keyring=context.keyring,
    )
    desk = KeyService(
        store=context.stores.keys,
        ring=context.ring,
        census=census,
        rewrapper=Rewrapper(records=context.stores.records, keyring=context.keyring, clock=context.clock),
        authorizer=context.authorizer,
        clock=context.clock,
    )
    return KeyRoom(census, desk)


def _installs(
    context: Context,
    spool: Spool[PendingGrant],
    kept: KeptRequests,
    unknown_users: UnknownUserLimits,
    closing: AsyncExitStack,
) -> InstallRoom:
    settings = context.settings
    late = RetryLater(store=context.stores.installs, spool=spool, clock=context.clock, health=context.health)
    closing.push_async_callback(late.abandon)
    connector = Connector(
        accounts=context.stores.accounts,
        installs=context.stores.installs,
        encryption=context.encryption,
        keyring=context.keyring,
        clock=context.steady,
        refresh=settings.refresh,
    )
    exchange = Exchange(
        store=context.stores.installs,
        connector=connector,
        providers=context.providers,
        encryption=context.encryption,
        authorizer=context.authorizer,
        clock=context.steady,
        later=late,
    )
    service = InstallService(
        store=context.stores.installs,
        connector=connector,
        exchange=exchange,
        providers=context.providers,
        encryption=context.encryption,
        authorizer=context.authorizer,
        clock=context.steady,
        metrics=context.metrics,
        public_url=settings.server.public_url,
        browser_matches=is_same_browser,
        kept=kept,
        unknown_users=unknown_users,
        is_shared=context.stores.database.dialect.shared,
        is_stopping=lambda: context.health.stopping,
        events=context.stores.events,
    )
    if settings.login is None:
        return InstallRoom(late, service, None, kept)
    login = LoginService(
        settings=settings.login,
        store=context.stores.installs,
        kept=kept,
        clock=context.clock,
        audience=settings.server.public_url,
    )
    return InstallRoom(late, service, login, kept)


def _accounts(context: Context, tokens: TokenRoom, installs: InstallRoom) -> AccountService:
    return AccountService(
        store=context.stores.accounts,
        flights=tokens.flights,
        encryption=context.encryption,
        keyring=context.keyring,
        authorizer=context.authorizer,
        clock=context.steady,
        providers=context.providers,
        refresh=context.settings.refresh,
        flush_uses=tokens.uses.flush,
        forget_besides=(
            tokens.service.forget,
            tokens.permit.forget,
            tokens.retained.forget,
            installs.late.forget,
        ),
    )


def _callers(context: Context, closing: AsyncExitStack) -> CallerRoom:
    store, clock = context.stores.callers, context.clock
    configured = ConfiguredCallers(context.settings.callers, audience=context.settings.server.audience)
    keys = KeyAuthenticator(store=store, clock=clock, is_overridden=configured.has)
    jwks = JwksCache(http=context.http, clock=clock)
    closing.push_async_callback(jwks.close)
    jwts = JwtAuthenticator(configured=configured, jwks=jwks, clock=clock)
    service = CallerService(
        store=store, keys=keys, configured=configured, authorizer=context.authorizer, clock=clock
    )
    return CallerRoom(keys, jwts, jwks, configured, service)


def _overview(context: Context, tokens: TokenRoom, keys: KeyRoom, closing: AsyncExitStack) -> Overview:
    async def read() -> Statistics:
        return await read_statistics(context.stores.accounts, context.steady.now())

    statistics, rows_by_key = (
        RecentResult(read, context.steady),
        RecentResult(keys.census.totals, context.steady),
    )
    closing.push_async_callback(statistics.close)
    closing.push_async_callback(rows_by_key.close)
    return Overview(context, permit=tokens.permit, statistics=statistics.get, rows_by_key=rows_by_key.get)


def _adoption(context: Context, tokens: TokenRoom) -> Adoption:
    path, shared = context.settings.audit.path, context.stores.database.dialect.shared

    async def handed_out(after: str) -> Mapping[str, int]:
        # Several brokers on a database have audits of their own, and a failover may have taken the last renewals.
        if path is None or shared or not path.is_file():
            return {}
        files = [path, *(old.path for old in reversed(old_files(path)))]
        return await asyncio.to_thread(last_generations, files, audit_key(context.keyring), after=after)

    return Adoption(context, permit=tokens.permit, handed_out=handed_out)


def build_background(context: Context, rooms: Rooms) -> Background:
    """The loop that renews what is due, and the small regular work of every room."""
    stores, steady, tokens = context.stores, context.steady, rooms.tokens
    return Background(
        store=stores.accounts,
        flights=tokens.flights,
        permit=tokens.permit,
        clock=steady,
        settings=context.settings.refresh,
        keep_time=tokens.timekeeper.look,
        probe=lambda: context.store_health.probe(stores.keys),
        chores=(
            rooms.adoption.look_again,
            tokens.uses.flush,
            rooms.callers.service.flush_uses,
            rooms.installs.service.identify_held,
            lambda: rooms.accounts.purge_removed(steady.cautious()),
            lambda: rooms.keys.desk.forget_retired(steady.cautious()),
        ),
        purges=(
            lambda: stores.installs.purge_expired(steady.now() - INSTALLS_KEPT, PURGE_BATCH),
            lambda: stores.plugin.purge(steady.cautious(), PURGE_BATCH),
            lambda: stores.events.purge_events(steady.cautious() - EVENTS_KEPT, PURGE_BATCH),
        ),
    )
