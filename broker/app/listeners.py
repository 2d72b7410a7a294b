"""The three web applications; nothing of one answers on another."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from aiohttp import web

from broker.accounts.moving_routes import ExportRoutes, ImportRoutes
from broker.accounts.routes import AccountRoutes
from broker.admin.checks import Check
from broker.admin.routes import AdminRoutes, HealthRoutes, alive, by_peer
from broker.alerts.routes import EventRoutes, Feed, Streams
from broker.app.dashboard import Dashboard, build_dashboard
from broker.app.plugin import consent_routes
from broker.app.rooms import Rooms
from broker.callers.authentication import Authentication
from broker.callers.login import Continue, LoginRoutes
from broker.context import Context
from broker.errors import BrokerError
from broker.http.browser import PERSON, PERSON_LIFE, BrowserCookie
from broker.http.edge import (
    CALLER,
    HAS_BASES,
    HEADERS,
    REQUEST_ID,
    SHORTCUT,
    Limits,
    Render,
    as_problem,
    edge,
    is_page,
    new_application,
)
from broker.http.openapi.routes import DescriptionRoutes
from broker.http.operations import routes_of
from broker.http.pages import Pages, error_page
from broker.http.peers import Throttle
from broker.installs.routes import PURPOSE, InstallApi, InstallRoutes
from broker.model import Caller
from broker.plugin import routes as plugin_routes
from broker.plugin.consent_routes import PURPOSE as PLUGIN_PURPOSE
from broker.tokens.hot import HotTokens
from broker.tokens.routes import TokenRoutes

OTHER_FILES = 3072
"""Open files that internal connections leave to the other listeners, the providers and the store."""
FEWEST = 64
SERVICES = Limits(connections=16_384)
STRANGERS = Limits(connections=1024, per_peer=64)
OPERATORS = Limits(connections=1024, unread=None)
"""An operator may read a long list page by page."""


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """What each listener takes; only strangers are counted by address."""

    internal: Limits = SERVICES
    public: Limits = STRANGERS
    admin: Limits = OPERATORS

    def within(self, files: int) -> "ListenerLimits":
        """With no more connections than so many open files allow.

        A listener that is full leaves the files that the others need. The public listener and the admin socket take
        a quarter of them at most, and the providers and the store have a quarter, or 1,024.
        """
        share, room = files // 4, max(FEWEST, files - OTHER_FILES)
        return ListenerLimits(
            *(
                replace(one, connections=min(most, one.connections))
                for one, most in ((self.internal, room), (self.public, share), (self.admin, share))
            )
        )


@dataclass(frozen=True, slots=True)
class Listeners:
    """One application for each kind of visitor."""

    internal: web.Application
    """Services."""
    public: web.Application
    """Browsers, and Kit."""
    admin: web.Application
    """Operators, over the admin socket."""
    dashboard: Dashboard
    feed: Feed

    def stop(self) -> None:
        """End what would go on for ever."""
        self.feed.stop()
        self.dashboard.live.stop()


def build_listeners(
    context: Context, rooms: Rooms, check: Callable[[], Awaitable[list[Check]]], limits: ListenerLimits
) -> Listeners:
    """All three, on one set of rooms."""
    dashboard = build_dashboard(context, rooms)
    return Listeners(
        internal=_internal(context, rooms, dashboard, limits.internal),
        public=_public(context, rooms, limits.public),
        admin=_admin(context, rooms, check, dashboard, limits.admin),
        dashboard=dashboard,
        feed=rooms.alerts.service.feed,
    )


def _internal(context: Context, rooms: Rooms, dashboard: Dashboard, limits: Limits) -> web.Application:
    authentication = Authentication(
        authenticators=(rooms.callers.keys, rooms.callers.jwts),
        configured=rooms.callers.configured,
        throttle=Throttle(context.clock),
        metrics=context.metrics,
        clock=context.clock,
    )
    health = HealthRoutes(
        health=context.health,
        overview=rooms.overview,
        metrics_from=context.settings.server.metrics_from,
        authenticate=authentication.admit,
        authorizer=context.authorizer,
    )
    application = new_application(
        edge(
            lambda error, request: (
                dashboard.error(error, request) if is_page(request.path) else as_problem(error, request)
            ),
            listener="internal",
            is_stopping=lambda: context.health.stopping,
            trusted_proxies=context.settings.server.trusted_proxies,
        ),
        authentication.middleware(),
        limits=limits,
    )

    async def still(request: web.Request) -> Caller:
        await authentication.admit(request)
        return request[CALLER]

    streams = Streams(feed=rooms.alerts.service.feed, clock=context.clock, still=still)
    application.add_routes(
        routes_of(TokenRoutes(service=rooms.tokens.service, clock=context.steady, still=still))
    )
    hot = HotTokens(
        callers=authentication.remembered,
        opened=rooms.tokens.opened,
        service=rooms.tokens.service,
        uses=rooms.tokens.uses,
        authorizer=context.authorizer,
        clock=context.steady,
        wall=context.clock,
        metrics=context.metrics,
        ahead=context.settings.refresh.ahead,
        headers=application[HEADERS],
        trusted_proxies=context.settings.server.trusted_proxies,
        is_stopping=lambda: context.health.stopping,
    )
    context.stores.changes.listen(hot.forget, hot.forget_all)
    application[SHORTCUT] = hot.answer
    application.add_routes(routes_of(EventRoutes(streams=streams, authorizer=context.authorizer)))
    application.add_routes(routes_of(AccountRoutes(service=rooms.accounts, clock=context.steady)))
    application.add_routes(routes_of(ImportRoutes(imports=rooms.moving.imports, accounts=rooms.accounts)))
    application.add_routes(routes_of(InstallApi(service=rooms.installs.service)))
    if rooms.plugin is not None:
        application.add_routes(routes_of(rooms.plugin.api))
    application.add_routes(health.routes())
    application.add_routes(dashboard.routes)
    application[HAS_BASES] = True
    _describe(application, context, "For services", context.settings.server.internal_url)
    return application


def _admin(
    context: Context,
    rooms: Rooms,
    check: Callable[[], Awaitable[list[Check]]],
    dashboard: Dashboard,
    limits: Limits,
) -> web.Application:
    application = new_application(
        edge(as_problem, listener="admin", is_stopping=lambda: context.health.stopping),
        by_peer,
        limits=limits,
    )
    admin = AdminRoutes(
        callers=rooms.callers.service,
        overview=rooms.overview,
        adoption=rooms.adoption,
        check=check,
        authorizer=context.authorizer,
        streams=Streams(feed=rooms.alerts.service.feed, clock=context.clock, still=_as_it_was),
        clock=context.clock,
    )
    tokens = TokenRoutes(service=rooms.tokens.service, clock=context.steady, still=_as_it_was, operators=True)
    application.add_routes(routes_of(tokens))
    application.add_routes(routes_of(AccountRoutes(service=rooms.accounts, clock=context.steady)))
    application.add_routes(routes_of(ImportRoutes(imports=rooms.moving.imports, accounts=rooms.accounts)))
    application.add_routes(routes_of(InstallApi(service=rooms.installs.service)))
    if rooms.plugin is not None:
        application.add_routes(routes_of(rooms.plugin.api, rooms.plugin.grants))
    application.add_routes(admin.routes())
    application.add_routes(dashboard.link_routes)
    for service in (rooms.keys.desk, rooms.backups, rooms.audit):
        application.add_routes(service.routes())
    application.add_routes(routes_of(ExportRoutes(exports=rooms.moving.exports)))
    return application


async def _as_it_was(request: web.Request) -> Caller:
    """Who opened the admin socket stays who that is."""
    return request[CALLER]


def _public(context: Context, rooms: Rooms, limits: Limits) -> web.Application:
    settings, installs, plugin = context.settings, rooms.installs, rooms.plugin
    https = settings.server.public_url.startswith("https://")
    pages, cookie = Pages(sandbox=settings.sandbox.enabled, https=https), BrowserCookie(https=https)
    person = BrowserCookie(https=https, name=PERSON, life=PERSON_LIFE)
    install_routes = InstallRoutes(
        service=installs.service,
        login=installs.login,
        providers=context.providers,
        pages=pages,
        cookie=cookie,
        users=plugin.users if plugin else None,
        person=person,
        kept=installs.kept,
        public_url=settings.server.public_url,
    )
    application = new_application(
        edge(
            _for_people(pages),
            listener="public",
            is_stopping=lambda: context.health.stopping,
            trusted_proxies=settings.server.trusted_proxies,
        ),
        https=https,
        # A proxy's connections are those of everybody behind it.
        limits=replace(limits, uncapped=(*limits.uncapped, *settings.server.trusted_proxies)),
    )
    application.add_routes([*routes_of(install_routes), *pages.routes(), web.get("/healthz", alive)])
    purposes: dict[str, Continue] = {PURPOSE: install_routes.signed_in}
    if plugin is not None:
        consent = consent_routes(
            context,
            plugin,
            login=installs.login,
            pages=pages,
            cookie=cookie,
            person=person,
            kept=installs.kept,
        )
        purposes[PLUGIN_PURPOSE] = consent.signed_in
        application.add_routes(routes_of(consent, plugin.kit))
    if installs.login is not None:
        login = LoginRoutes(service=installs.login, pages=pages, purposes=purposes)
        application.add_routes(routes_of(login))
    _describe(application, context, "For browsers and Kit", settings.server.public_url)
    return application


def _describe(application: web.Application, context: Context, title: str, url: str) -> None:
    """Last, so that it knows every route; no script runs on its page, also not the dashboard's."""
    description = DescriptionRoutes(
        title=title,
        server=url,
        providers=context.providers,
        pages=Pages(sandbox=context.settings.sandbox.enabled, https=url.startswith("https://")),
    )
    application.add_routes(description.routes())
    description.describe(application)


def _for_people(pages: Pages) -> Render:
    """Errors as pages, but where programs ask."""

    def render(error: BrokerError, request: web.Request) -> web.StreamResponse:
        if request.path in plugin_routes.MACHINES:
            return plugin_routes.machine_error(error)
        return pages.message(error_page(error), request_id=request[REQUEST_ID])

    return render
