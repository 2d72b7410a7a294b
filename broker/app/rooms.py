"""The rooms: tokens, installs, accounts, callers, what operators see; each gets what it needs and no more."""

import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from broker.accounts.service import AccountService
from broker.admin.adoption import Adoption
from broker.admin.audit import AuditCheck
from broker.admin.degraded import DegradedEvents
from broker.admin.overview import Overview
from broker.app.foundation import Foundation, audit_key
from broker.app.plugin import PluginRoom, build_plugin
from broker.browser import is_same_browser
from broker.callers.authenticate import KeyAuthenticator
from broker.callers.service import CallerService
from broker.installs.connect import Connector
from broker.installs.late import RetryLater
from broker.installs.service import InstallService
from broker.login.service import LoginService
from broker.model import PendingGrant, Successor
from broker.store.renewals import BOOT_WIDTH
from broker.store.spool import Spool, grants_spool, renewals_spool
from broker.tokens.background import Background
from broker.tokens.flight import Flights
from broker.tokens.leases import Leases
from broker.tokens.opened import OpenedAccounts
from broker.tokens.permit import Permit
from broker.tokens.recovery import Recovery
from broker.tokens.refresh import Refresher
from broker.tokens.retained import RetainedCommits
from broker.tokens.schedule import Timings
from broker.tokens.service import TokenService
from broker.tokens.steps import Watch

EVENTS_KEPT = 90 * 86400.0
INSTALLS_KEPT = 3600.0
PURGE_BATCH = 200


@dataclass(frozen=True, slots=True)
class TokenRoom:
    """Handing out and renewing."""

    permit: Permit
    retained: RetainedCommits
    refresher: Refresher
    flights: Flights
    recovery: Recovery
    service: TokenService


@dataclass(frozen=True, slots=True)
class InstallRoom:
    """Connecting."""

    late: RetryLater
    service: InstallService
    login: LoginService | None


@dataclass(frozen=True, slots=True)
class CallerRoom:
    """Who may call."""

    keys: KeyAuthenticator
    service: CallerService


@dataclass(frozen=True, slots=True)
class Rooms:
    """All of them."""

    tokens: TokenRoom
    installs: InstallRoom
    accounts: AccountService
    callers: CallerRoom
    overview: Overview
    adoption: Adoption
    plugin: PluginRoom | None
    """None: `[plugin]` is off."""
    audit: AuditCheck
    degraded: DegradedEvents


def build_rooms(
    base: Foundation, timings: Timings, spool_folders: tuple[Path, ...], watch: Watch, closing: AsyncExitStack
) -> Rooms:
    """Every room on one foundation."""
    path = base.settings.store.path
    folders = (path.with_name(path.name + ".spool"), *spool_folders)
    tokens = _tokens(base, timings, renewals_spool(folders), watch, closing)
    installs = _installs(base, grants_spool(folders), closing)
    return Rooms(
        tokens=tokens,
        installs=installs,
        accounts=_accounts(base, tokens, installs),
        callers=_callers(base),
        overview=_overview(base, tokens),
        adoption=_adoption(base, tokens),
        plugin=build_plugin(base, base.settings.plugin) if base.settings.plugin else None,
        audit=AuditCheck(audit=base.audit, key_of=audit_key(base.keyring), gate=base.gate),
        degraded=DegradedEvents(health=base.health, events=base.stores.events, clock=base.steady),
    )


def _tokens(
    base: Foundation, timings: Timings, spool: Spool[Successor], watch: Watch, closing: AsyncExitStack
) -> TokenRoom:
    store, changes = base.stores.accounts, base.stores.changes
    retained = RetainedCommits(
        store=store,
        spool=spool,
        clock=base.clock,
        timings=timings,
        health=base.health,
        metrics=base.metrics,
        watch=watch,
    )
    closing.push_async_callback(retained.abandon)
    permit = Permit(
        settings=base.settings.providers,
        timings=timings,
        store_is_ready=lambda: base.store_health.is_ready() and not len(retained),
    )
    leases = Leases(
        store=store,
        changes=changes,
        clock=base.steady,
        timings=timings,
        owner=f"{secrets.token_hex(BOOT_WIDTH // 2)}@{base.settings.store.replica}",
        timeout=base.settings.refresh.timeout,
        grace=permit.grace,
        up_for=base.store_health.up_for,
    )
    refresher = Refresher(
        store=store,
        providers=base.providers.by_name,
        seals=base.seals,
        permit=permit,
        retained=retained,
        clock=base.steady,
        leases=leases,
        settings=base.settings.refresh,
        timings=timings,
        metrics=base.metrics,
        watch=watch,
    )
    flights = Flights(refresher.renew, clock=base.clock)
    recovery = Recovery(
        store=store,
        retained=retained,
        permit=permit,
        flights=flights,
        clock=base.steady,
        timings=timings,
        owner=leases.owner,
        replica=base.settings.store.replica if base.stores.database.dialect.shared else None,
    )
    opened = OpenedAccounts(
        store=store,
        seals=base.seals,
        limit=base.settings.store.memory,
        are_heard=changes.are_heard,
    )
    changes.listen(opened.forget, opened.forget_all)
    service = TokenService(
        opened=opened,
        store=store,
        flights=flights,
        permit=permit,
        gate=base.gate,
        clock=base.steady,
        settings=base.settings.refresh,
        metrics=base.metrics,
        account_page=lambda name: f"{base.settings.server.internal_url}/dashboard/accounts/{name}",
    )
    return TokenRoom(permit, retained, refresher, flights, recovery, service)


def _installs(base: Foundation, spool: Spool[PendingGrant], closing: AsyncExitStack) -> InstallRoom:
    settings = base.settings
    late = RetryLater(store=base.stores.installs, spool=spool, clock=base.clock, health=base.health)
    closing.push_async_callback(late.abandon)
    connector = Connector(
        accounts=base.stores.accounts,
        installs=base.stores.installs,
        seals=base.seals,
        keyring=base.keyring,
        clock=base.steady,
        refresh=settings.refresh,
    )
    service = InstallService(
        store=base.stores.installs,
        connector=connector,
        providers=base.providers.by_name,
        seals=base.seals,
        gate=base.gate,
        clock=base.steady,
        metrics=base.metrics,
        public_url=settings.server.public_url,
        later=late,
        browser_matches=is_same_browser,
    )
    if settings.login is None:
        return InstallRoom(late, service, None)
    login = LoginService(
        settings=settings.login,
        store=base.stores.installs,
        clock=base.clock,
        audience=settings.server.public_url,
    )
    return InstallRoom(late, service, login)


def _accounts(base: Foundation, tokens: TokenRoom, installs: InstallRoom) -> AccountService:
    return AccountService(
        store=base.stores.accounts,
        flights=tokens.flights,
        seals=base.seals,
        keyring=base.keyring,
        gate=base.gate,
        clock=base.steady,
        providers=base.providers.by_name,
        refresh=base.settings.refresh,
        flush_uses=tokens.service.flush_uses,
        forget_besides=(tokens.service.forget, tokens.retained.forget, installs.late.forget),
    )


def _callers(base: Foundation) -> CallerRoom:
    keys = KeyAuthenticator(store=base.stores.callers, clock=base.clock)
    service = CallerService(store=base.stores.callers, keys=keys, gate=base.gate, clock=base.clock)
    return CallerRoom(keys, service)


def _overview(base: Foundation, tokens: TokenRoom) -> Overview:
    return Overview(
        accounts=base.stores.accounts,
        events=base.stores.events,
        permit=tokens.permit,
        gate=base.gate,
        clock=base.steady,
        metrics=base.metrics,
        settings=base.settings.providers,
        token_urls=base.providers.token_urls,
    )


def _adoption(base: Foundation, tokens: TokenRoom) -> Adoption:
    return Adoption(
        incarnation=base.ownership,
        accounts=base.stores.accounts,
        permit=tokens.permit,
        gate=base.gate,
        clock=base.steady,
        health=base.health,
        settings=base.settings.providers,
        ahead=base.settings.refresh.ahead,
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
        health=base.health,
        chores=(
            lambda: base.store_health.probe(stores.keys),
            rooms.adoption.look_again,
            rooms.degraded.flush,
            tokens.service.flush_uses,
            rooms.callers.keys.flush_uses,
            rooms.installs.service.identify_held,
            rooms.accounts.purge_removed,
            lambda: stores.installs.purge_expired(steady.now() - INSTALLS_KEPT, PURGE_BATCH),
            lambda: stores.plugin_purge.purge(steady.now(), PURGE_BATCH),
            lambda: stores.events.purge_events(steady.now() - EVENTS_KEPT, PURGE_BATCH),
        ),
    )
