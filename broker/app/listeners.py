"""Builds the three web applications: internal, public and admin. Each answers its own routes only."""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from aiohttp import web

import broker.dashboard
from broker.accounts.routes import AccountRoutes, ExportRoutes
from broker.admin.routes import AdminRoutes, AliveRoute, HealthRoutes, by_peer
from broker.alerts.routes import EventRoutes, Feed, Streams
from broker.app.services import Services
from broker.callers.authentication import Authentication
from broker.dashboard.routes import DashboardRoutes, LinkRoute
from broker.errors import BrokerError
from broker.http.edge import (
    CALLER,
    HAS_BASES,
    HEADERS,
    SHORTCUT,
    Limits,
    as_problem,
    edge,
    is_page,
    new_application,
)
from broker.http.openapi import DescriptionRoutes
from broker.http.operations import routes_of
from broker.http.pages import Pages, error_page
from broker.http.peers import Throttle
from broker.installs.routes import PURPOSE, InstallApi, InstallRoutes
from broker.model import Caller
from broker.plugin import routes as plugin_routes
from broker.plugin.consent_routes import PURPOSE as PLUGIN_PURPOSE
from broker.plugin.consent_routes import ConsentRoutes
from broker.tokens.hot import HotTokens
from broker.tokens.routes import TokenRoutes

OTHER_FILES = 3072
"""Open files that are reserved for the other listeners, the providers and the store."""
FEWEST = 64
SERVICES = Limits(connections=16_384)
STRANGERS = Limits(connections=1024, per_peer=64)
OPERATORS = Limits(connections=1024, unread=None)
"""`unread` is None because an operator may read a long list slowly, page by page."""


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """The limits of each listener. Only the public listener counts connections by address."""

    internal: Limits = SERVICES
    public: Limits = STRANGERS
    admin: Limits = OPERATORS

    def within(self, files: int) -> "ListenerLimits":
        """Reduce the connections of each listener so that a full one leaves enough open files to the others.

        The public listener and the admin socket each take at most a quarter of `files`. The providers and the store
        have a quarter, or 1,024.
        """
        share, room = files // 4, max(FEWEST, files - OTHER_FILES)
        return ListenerLimits(
            *(
                replace(one, connections=min(most, one.connections))
                for one, most in ((self.internal, room), (self.public, share), (self.admin, share))
            )
        )


class Listeners:
    """The three web applications, each for a listener of its own.

    `internal`: for services. `public`: for browsers, and for Kit's servers, to which the broker is an OAuth server.
    `admin`: for operators, on the admin socket.
    """

    def __init__(self, services: Services, environ: Mapping[str, str], limits: ListenerLimits) -> None:
        self._services = services
        self._feed = Feed(events=services.context.stores.events, clock=services.context.steady)
        self._stops: list[Callable[[], None]] = []
        self.internal = self._internal(limits.internal)
        self.public = self._public(limits.public)
        self.admin = self._admin(environ, limits.admin)

    def stop(self) -> None:
        """End the streams of events, which have no end of their own."""
        for stop in self._stops:
            stop()

    def _internal(self, limits: Limits) -> web.Application:
        """Build the routes for services and the dashboard."""
        services, context = self._services, self._services.context
        server = context.settings.server
        authentication = Authentication(
            authenticators=(services.callers.keys, services.callers.jwts),
            configured=services.callers.configured,
            throttle=Throttle(context.clock),
            metrics=context.metrics,
            clock=context.clock,
        )
        pages = self._pages(server.internal_url, templates=Path(broker.dashboard.__file__).parent)
        dashboard = DashboardRoutes(
            context,
            services.dashboard,
            services.sessions,
            pages=pages,
            command=f"{typed(context.settings.path) if context.settings.sandbox.enabled else 'broker'} dashboard",
        )

        def as_page_or_problem(error: BrokerError, request: web.Request) -> web.StreamResponse:
            return dashboard.error(error, request) if is_page(request.path) else as_problem(error, request)

        async def still(request: web.Request) -> Caller:
            await authentication.admit(request)
            return request[CALLER]

        application = new_application(
            edge(
                as_page_or_problem,
                listener="internal",
                is_stopping=lambda: context.health.stopping,
                trusted_proxies=server.trusted_proxies,
            ),
            authentication.middleware(),
            limits=limits,
        )
        hot = HotTokens(
            context,
            callers=authentication.remembered,
            cache=services.tokens.cache,
            uses=services.tokens.uses,
            headers=application[HEADERS],
        )
        application[SHORTCUT] = hot.answer
        tokens = TokenRoutes(service=services.tokens.service, clock=context.steady, still=still)
        application.add_routes(routes_of(tokens))
        self._add_shared(application)
        streams = Streams(self._feed, context.clock, still=still)
        self._stops += [streams.stop, dashboard.stop]
        health = HealthRoutes(context, overview=services.overview, authenticate=authentication.admit)
        application.add_routes(routes_of(EventRoutes(streams=streams, authorizer=context.authorizer)))
        application.add_routes(routes_of(AliveRoute(), health))
        application.add_routes(routes_of(dashboard))
        application.add_routes(pages.routes())
        application[HAS_BASES] = True
        self._describe(application, "For services", server.internal_url)
        return application

    def _admin(self, environ: Mapping[str, str], limits: Limits) -> web.Application:
        """Build the routes of the admin socket."""
        services, context = self._services, self._services.context

        async def still(request: web.Request) -> Caller:
            """Return the same caller: the user of a Unix socket does not change."""
            return request[CALLER]

        application = new_application(
            edge(as_problem, listener="admin", is_stopping=lambda: context.health.stopping),
            by_peer,
            limits=limits,
        )
        tokens = TokenRoutes(
            service=services.tokens.service, clock=context.steady, still=still, operators=True
        )
        application.add_routes(routes_of(tokens))
        self._add_shared(application)
        if services.plugin is not None:
            application.add_routes(routes_of(services.plugin.grants))
        streams = Streams(self._feed, context.clock, still=still)
        self._stops.append(streams.stop)
        admin = AdminRoutes(
            context,
            callers=services.callers.service,
            overview=services.overview,
            adoption=services.adoption,
            opened=lambda: services.opened(context.settings, environ),
            streams=streams,
        )
        application.add_routes(routes_of(admin))
        application.add_routes(routes_of(LinkRoute(context, services.sessions)))
        for service in (services.keys, services.backups, services.audit):
            application.add_routes(routes_of(service))
        application.add_routes(routes_of(ExportRoutes(services.transfer)))
        return application

    def _add_shared(self, application: web.Application) -> None:
        """Add the routes that both the internal listener and the admin socket have."""
        services = self._services
        clock = services.context.steady
        accounts = AccountRoutes(service=services.accounts, transfer=services.transfer, clock=clock)
        application.add_routes(routes_of(accounts))
        application.add_routes(routes_of(InstallApi(services.installs.service)))
        if services.plugin is not None:
            application.add_routes(routes_of(services.plugin.api))

    def _public(self, limits: Limits) -> web.Application:
        """Build the routes for browsers, Kit and the clients of plugins."""
        context, installs, plugin = self._services.context, self._services.installs, self._services.plugin
        server = context.settings.server
        browsers, login = installs.browsers, installs.login

        def as_page(error: BrokerError, request: web.Request) -> web.StreamResponse:
            if request.path in plugin_routes.PROGRAM_PATHS:
                return plugin_routes.machine_error(error)
            return browsers.show(request, error_page(error))

        application = new_application(
            edge(
                as_page,
                listener="public",
                is_stopping=lambda: context.health.stopping,
                trusted_proxies=server.trusted_proxies,
            ),
            https=browsers.public_url.startswith("https://"),
            # A trusted proxy has the connections of many clients.
            limits=replace(limits, uncapped=(*limits.uncapped, *server.trusted_proxies)),
        )
        routes = InstallRoutes(context, service=installs.service, browsers=browsers, login=login)
        application.add_routes([*routes_of(routes), *browsers.pages.routes(), *routes_of(AliveRoute())])
        if login is not None:
            login.purposes[PURPOSE] = routes.signed_in
            application.add_routes(routes_of(login))
        if plugin is not None:
            consent = ConsentRoutes(
                context, service=plugin.consent, clients=plugin.clients, browsers=browsers, login=login
            )
            if login is not None:
                login.purposes[PLUGIN_PURPOSE] = consent.signed_in
            application.add_routes(routes_of(consent, plugin.kit))
        self._describe(application, "For browsers and Kit", server.public_url)
        return application

    def _pages(self, url: str, *, templates: Path | None = None) -> Pages:
        sandbox = self._services.context.settings.sandbox.enabled
        return Pages(sandbox=sandbox, https=url.startswith("https://"), folder=templates)

    def _describe(self, application: web.Application, title: str, url: str) -> None:
        """Add `/openapi.json` and `/docs`. This comes last, because they describe all routes that were added."""
        # These pages have no folder, because no script of the dashboard may run on them.
        description = DescriptionRoutes(
            title=title, server=url, providers=self._services.context.providers, pages=self._pages(url)
        )
        application.add_routes(routes_of(description))
        description.describe(application)


def typed(config: Path) -> str:
    """Return the shell command that runs this program with this configuration, from any folder."""
    script = Path(sys.executable).with_name("broker")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "broker"]
    return shlex.join([*program, "--config", str(config.absolute())])
