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
from broker.app.foundation import Foundation, audit_key
from broker.app.moving import MovingRoom, build_moving
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
from broker.http.browser import KeptRequests, is_same_browser
from broker.http.peers import UnknownUserLimits
from broker.installs.connect import Connector
from broker.installs.exchange import Exchange
from broker.installs.late import RetryLater
from broker.installs.service import InstallService
from broker.keys.rewrap import Census, Rewrapper
from broker.model import PendingGrant, Successor
from broker.single_flight import RecentResult
from broker.store.backup import SqliteBackup
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
    base: Foundation, timings: Timings, spool_folders: tuple[Path, ...], watch: Watch, closing: AsyncExitStack
) -> Rooms:
    """Every room on one foundation."""
    spools = build_spools(base, spool_folders)
    tokens = build_tokens(base, timings, spools.renewals, watch, closing)
    unknown_users = UnknownUserLimits(base.clock)
    store = base.settings.store
    copies = SqliteBackup(store.path) if store.postgres is None else None
    kept = KeptRequests(
        keyring=base.keyring,
        catch_up=base.ring.catch_up,
        clock=base.steady,
        https=base.settings.server.public_url.startswith("https://"),
    )
    installs = _installs(base, spools.grants, kept, unknown_users, closing)
    keys = build_keys(base, spools, lambda: [*tokens.retained.records(), *installs.late.records()])
    return Rooms(
        tokens=tokens,
        installs=installs,
        accounts=_accounts(base, tokens, installs),
        moving=build_moving(base, tokens.flights),
        callers=_callers(base, closing),
        keys=keys,
        spools=spools,
        backups=BackupService(copies=copies, authorizer=base.authorizer, clock=base.clock),
        overview=_overview(base, tokens, keys, closing),
        adoption=_adoption(base, tokens),
        plugin=build_plugin(base, base.settings.plugin, kept, unknown_users)
        if base.settings.plugin
        else None,
        audit=AuditService(audit=base.audit, key_of=audit_key(base.keyring), authorizer=base.authorizer),
        alerts=AlertRoom(base, tokens.permit, closing),
    )


def build_spools(base: Foundation, folders: tuple[Path, ...]) -> Spools:
    """The rescue spools beside the store, and in these folders."""
    everywhere = (spool_of(base.settings.store.path), *folders)
    return Spools(renewals_spool(everywhere), grants_spool(everywhere))


def spool_of(store: Path) -> Path:
    """The folder beside a store."""
    return store.with_name(store.name + ".spool")


def build_keys(base: Foundation, spools: Spools, in_memory: Callable[[], Iterable[str]]) -> KeyRoom:
    """Keys, and everything that is sealed with them: in the store, in the spool, in memory alone."""
    census = Census(
        records=base.stores.records,
        elsewhere=lambda: {"spool": spools.records(), "memory": in_memory()},
        keyring=base.keyring,
    )
    desk = KeyService(
        store=base.stores.keys,
        ring=base.ring,
        census=census,
        rewrapper=Rewrapper(records=base.stores.records, keyring=base.keyring, clock=base.clock),
        authorizer=base.authorizer,
        clock=base.clock,
    )
    return KeyRoom(census, desk)


def _installs(
    base: Foundation,
    spool: Spool[PendingGrant],
    kept: KeptRequests,
    unknown_users: UnknownUserLimits,
    closing: AsyncExitStack,
) -> InstallRoom:
    settings = base.settings
    late = RetryLater(store=base.stores.installs, spool=spool, clock=base.clock, health=base.health)
    closing.push_async_callback(late.abandon)
    connector = Connector(
        accounts=base.stores.accounts,
        installs=base.stores.installs,
        encryption=base.encryption,
        keyring=base.keyring,
        clock=base.steady,
        refresh=settings.refresh,
    )
    exchange = Exchange(
        store=base.stores.installs,
        connector=connector,
        providers=base.providers.by_name,
        encryption=base.encryption,
        authorizer=base.authorizer,
        clock=base.steady,
        later=late,
    )
    service = InstallService(
        store=base.stores.installs,
        connector=connector,
        exchange=exchange,
        providers=base.providers.by_name,
        encryption=base.encryption,
        authorizer=base.authorizer,
        clock=base.steady,
        metrics=base.metrics,
        public_url=settings.server.public_url,
        browser_matches=is_same_browser,
        kept=kept,
        unknown_users=unknown_users,
        is_shared=base.stores.database.dialect.shared,
        is_stopping=lambda: base.health.stopping,
        events=base.stores.events,
    )
    if settings.login is None:
        return InstallRoom(late, service, None, kept)
    login = LoginService(
        settings=settings.login,
        store=base.stores.installs,
        kept=kept,
        clock=base.clock,
        audience=settings.server.public_url,
    )
    return InstallRoom(late, service, login, kept)


def _accounts(base: Foundation, tokens: TokenRoom, installs: InstallRoom) -> AccountService:
    return AccountService(
        store=base.stores.accounts,
        flights=tokens.flights,
        encryption=base.encryption,
        keyring=base.keyring,
        authorizer=base.authorizer,
        clock=base.steady,
        providers=base.providers.by_name,
        refresh=base.settings.refresh,
        flush_uses=tokens.uses.flush,
        forget_besides=(
            tokens.service.forget,
            tokens.permit.forget,
            tokens.retained.forget,
            installs.late.forget,
        ),
    )


def _callers(base: Foundation, closing: AsyncExitStack) -> CallerRoom:
    store, clock = base.stores.callers, base.clock
    configured = ConfiguredCallers(base.settings.callers, audience=base.settings.server.audience)
    keys = KeyAuthenticator(store=store, clock=clock, is_overridden=configured.has)
    jwks = JwksCache(http=base.http, clock=clock)
    closing.push_async_callback(jwks.close)
    jwts = JwtAuthenticator(configured=configured, jwks=jwks, clock=clock)
    service = CallerService(
        store=store, keys=keys, configured=configured, authorizer=base.authorizer, clock=clock
    )
    return CallerRoom(keys, jwts, jwks, configured, service)


def _overview(base: Foundation, tokens: TokenRoom, keys: KeyRoom, closing: AsyncExitStack) -> Overview:
    async def read() -> Statistics:
        return await read_statistics(base.stores.accounts, base.steady.now())

    statistics, rows_by_key = RecentResult(read, base.steady), RecentResult(keys.census.totals, base.steady)
    closing.push_async_callback(statistics.close)
    closing.push_async_callback(rows_by_key.close)
    return Overview(
        statistics=statistics.get,
        accounts=base.stores.accounts,
        events=base.stores.events,
        permit=tokens.permit,
        rows_by_key=rows_by_key.get,
        authorizer=base.authorizer,
        clock=base.steady,
        metrics=base.metrics,
        settings=base.settings.providers,
        token_urls=base.providers.token_urls,
        sandbox=base.settings.sandbox,
    )


def _adoption(base: Foundation, tokens: TokenRoom) -> Adoption:
    path, shared = base.settings.audit.path, base.stores.database.dialect.shared

    async def handed_out(after: str) -> Mapping[str, int]:
        # Several brokers on a database have audits of their own, and a failover may have taken the last renewals.
        if path is None or shared or not path.is_file():
            return {}
        files = [path, *(old.path for old in reversed(old_files(path)))]
        return await asyncio.to_thread(last_generations, files, audit_key(base.keyring), after=after)

    return Adoption(
        incarnation=base.ownership,
        accounts=base.stores.accounts,
        keys=base.stores.keys,
        permit=tokens.permit,
        authorizer=base.authorizer,
        clock=base.steady,
        health=base.health,
        settings=base.settings.providers,
        ahead=base.settings.refresh.ahead,
        handed_out=handed_out,
    )


def build_background(base: Foundation, rooms: Rooms) -> Background:
    """The loop that renews what is due, and the small regular work of every room."""
    stores, steady, tokens = base.stores, base.steady, rooms.tokens
    return Background(
        store=stores.accounts,
        flights=tokens.flights,
        permit=tokens.permit,
        clock=steady,
        settings=base.settings.refresh,
        keep_time=tokens.timekeeper.look,
        probe=lambda: base.store_health.probe(stores.keys),
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
