"""Builds all services on one context. `Services` is the list of them."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from broker.accounts.moving import GrantTransfer
from broker.accounts.service import AccountService
from broker.admin.audit import AuditService
from broker.admin.copies import Adoption, BackupService
from broker.admin.keys import KeyService
from broker.admin.overview import Overview
from broker.admin.store_checks import Opened
from broker.alerts.service import Alerts
from broker.callers.authentication import KeyAuthenticator
from broker.callers.configured import ConfiguredCallers, JwtAuthenticator
from broker.callers.jws import JwksCache
from broker.callers.service import CallerService
from broker.config.settings import PluginSettings, Settings
from broker.context import Context
from broker.dashboard.service import DashboardService
from broker.dashboard.session import Sessions
from broker.installs.service import InstallService
from broker.login import Browsers, LoginService
from broker.plugin.clients import Clients
from broker.plugin.consent import ConsentService
from broker.plugin.grants import GrantService
from broker.plugin.routes import ClientRoutes, GrantRoutes, PluginApi
from broker.store.retained import INSTALL, Retained, grants_spool, renewals_spool
from broker.tokens.background import Background, Timekeeper
from broker.tokens.cache import TokenCache
from broker.tokens.flight import Flights, Waiters
from broker.tokens.permit import Permit
from broker.tokens.recovery import Leases, Recovery, RetainedCommits
from broker.tokens.refresh import Refresher
from broker.tokens.schedule import Timings, Watch
from broker.tokens.service import TokenService

EVENTS_KEPT = 90 * 86400.0
INSTALLS_KEPT = 3600.0
PURGE_BATCH = 200


class Services:
    """All services, on one context. Building them opens no file or connection, so offline commands use them too."""

    def __init__(
        self,
        context: Context,
        timings: Timings,
        watch: Watch,
        *,
        spool_folders: tuple[Path, ...] = (),
        closing: AsyncExitStack,
    ) -> None:
        self.context = context
        self.spools = Spools((spool_of(context.settings.store.path), *spool_folders))
        self.tokens = TokenServices(context, timings, watch, self.spools, closing)
        self.installs = InstallServices(context, self.spools, closing)
        self.accounts = AccountService(
            context,
            flights=self.tokens.flights,
            flush_uses=self.tokens.uses.flush,
            forget_besides=(
                self.tokens.service.forget,
                self.tokens.permit.forget,
                self.tokens.retained.forget,
                self.installs.late.forget,
            ),
        )
        self.transfer = GrantTransfer(context, self.tokens.flights)
        self.callers = CallerServices(context, closing)
        self.plugin = (
            PluginServices(context, context.settings.plugin, self.installs.browsers)
            if context.settings.plugin
            else None
        )
        self.alerts = Alerts(context, self.tokens.permit)
        closing.push_async_callback(self.alerts.close)

        self.keys = KeyService(
            context,
            lambda: {
                "spool": self.spools.records(),
                "memory": [*self.tokens.retained.records(), *self.installs.late.records()],
            },
        )
        self.backups = BackupService(context)
        self.audit = AuditService(context)
        self.adoption = Adoption(context, self.tokens.permit)
        self.overview = Overview(context, self.tokens.permit, self.keys.census)
        closing.push_async_callback(self.overview.close)
        self.dashboard = DashboardService(
            context,
            accounts=self.accounts,
            tokens=self.tokens.service,
            installs=self.installs.service,
            callers=self.callers.service,
            keys=self.keys,
            overview=self.overview,
        )
        self.sessions = Sessions(context, context.settings.server.internal_url)
        self.background = self._background()

    def opened(self, settings: Settings, environ: Mapping[str, str] | None) -> Opened:
        """Return the input of the checks; `environ` is None if this is not a running broker."""
        return Opened(
            settings=settings,
            now=self.context.clock.now(),
            environ=environ,
            context=self.context,
            census=self.keys.census,
            adoption=self.adoption,
            overview=self.overview,
            spooled=len(self.spools),
            retained=len(self.tokens.retained) + len(self.installs.late),
        )

    def _background(self) -> Background:
        """Build the background loop, with the maintenance tasks of all services."""
        context, tokens = self.context, self.tokens
        stores, steady = context.stores, context.steady
        return Background(
            store=stores.accounts,
            flights=tokens.flights,
            permit=tokens.permit,
            clock=steady,
            settings=context.settings.refresh,
            checks=(tokens.timekeeper.check, lambda: context.store_health.probe(stores.keys)),
            tasks=(
                self.adoption.look_again,
                tokens.uses.flush,
                self.callers.service.flush_uses,
                self.installs.service.identify_held,
                lambda: self.accounts.purge_removed(steady.cautious()),
                lambda: self.keys.forget_retired(steady.cautious()),
            ),
            purges=(
                lambda: stores.installs.purge_expired(steady.now() - INSTALLS_KEPT, PURGE_BATCH),
                lambda: stores.plugin.purge(steady.cautious(), PURGE_BATCH),
                lambda: stores.events.purge_events(steady.cautious() - EVENTS_KEPT, PURGE_BATCH),
            ),
        )


class Spools:
    """The spools: files with token sets that the store did not take."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self.renewals, self.grants = renewals_spool(folders), grants_spool(folders)

    def __len__(self) -> int:
        return len(self.renewals) + len(self.grants)

    def records(self) -> list[str]:
        """Return the encrypted records in the spools."""
        return [*self.renewals.records(), *self.grants.records()]


def spool_of(store: Path) -> Path:
    """Return the folder of a store's spools."""
    return store.with_name(store.name + ".spool")


class TokenServices:
    """The services that issue and renew access tokens."""

    def __init__(
        self, context: Context, timings: Timings, watch: Watch, spools: Spools, closing: AsyncExitStack
    ) -> None:
        changes = context.stores.changes
        self.retained = RetainedCommits(context, spools.renewals, timings, watch)
        closing.push_async_callback(self.retained.abandon)
        self.permit = Permit(
            providers=context.providers,
            timings=timings,
            store_is_ready=lambda: context.store_health.is_ready() and not len(self.retained),
        )
        self.cache = TokenCache(
            context.stores.accounts,
            context.encryption,
            limit=context.settings.store.memory,
            ahead=context.settings.refresh.ahead,
            are_heard=changes.are_heard,
            set_back=context.health.set_back,
        )
        self.waiters = Waiters()
        # The cache comes first, because the waiters read from it when they wake up.
        changes.listen(self.cache.forget, self.cache.forget_all)
        changes.listen(self.waiters.changed, self.waiters.all_changed)
        self.leases = Leases(context, self.permit)
        refresher = Refresher(
            context,
            permit=self.permit,
            retained=self.retained,
            leases=self.leases,
            waiters=self.waiters,
            watch=watch,
        )
        self.flights = Flights(refresher.renew, clock=context.clock)
        self.recovery = Recovery(
            context,
            retained=self.retained,
            permit=self.permit,
            flights=self.flights,
            leases=self.leases,
        )
        self.service = TokenService(
            context, cache=self.cache, flights=self.flights, permit=self.permit, waiters=self.waiters
        )
        self.uses = self.service.uses
        self.timekeeper = Timekeeper(context, permit=self.permit)


class InstallServices:
    """The services that connect accounts: installs, retained grants, browser cookies and the sign-in."""

    def __init__(self, context: Context, spools: Spools, closing: AsyncExitStack) -> None:
        self.browsers = Browsers(context)
        self.late = Retained(
            INSTALL,
            spools.grants,
            lambda grant, _: context.stores.installs.hold_grant(grant),
            clock=context.clock,
            health=context.health,
        )
        closing.push_async_callback(self.late.abandon)
        self.service = InstallService(context, browsers=self.browsers, later=self.late)
        self.login: LoginService | None = None
        if context.settings.login is not None:
            self.login = LoginService(context, context.settings.login, self.browsers)


class CallerServices:
    """The services that authenticate callers and store their keys."""

    def __init__(self, context: Context, closing: AsyncExitStack) -> None:
        store, clock, settings = context.stores.callers, context.clock, context.settings
        self.configured = ConfiguredCallers(settings.callers, audience=settings.server.audience)
        self.keys = KeyAuthenticator(store=store, clock=clock, is_overridden=self.configured.has)
        self.jwks = JwksCache(http=context.http, clock=clock)
        closing.push_async_callback(self.jwks.close)
        self.jwts = JwtAuthenticator(configured=self.configured, jwks=self.jwks, clock=clock)
        self.service = CallerService(
            store=store,
            keys=self.keys,
            configured=self.configured,
            authorizer=context.authorizer,
            clock=clock,
        )

    def use(self, settings: Settings) -> None:
        """Replace the configured callers after a reload."""
        self.configured.use(settings.callers)
        self.jwks.keep_only(self.configured.edition.jwks_urls)


class PluginServices:
    """The services of the OAuth server for plugins."""

    def __init__(self, context: Context, settings: PluginSettings, browsers: Browsers) -> None:
        issuer, service = browsers.public_url, GrantService(context, settings)
        self.clients = Clients(settings.clients, metrics=context.metrics)
        self.consent = ConsentService(context, clients=self.clients, browsers=browsers)
        self.grants = GrantRoutes(service)
        self.kit = ClientRoutes(service=service, clients=self.clients, issuer=issuer)
        self.api = PluginApi(service=service, consent=self.consent, clients=self.clients, issuer=issuer)
