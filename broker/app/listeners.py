"""The three web applications; nothing of one answers on another."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from aiohttp import web

from broker.accounts.routes import AccountRoutes
from broker.admin.checks import Check
from broker.admin.routes import STOPPING, AdminRoutes, HealthRoutes
from broker.admin.socket import by_peer
from broker.app.foundation import Foundation
from broker.app.rooms import InstallRoom, Rooms
from broker.browser import BrowserCookie
from broker.callers.middleware import authenticate, authenticating
from broker.errors import BrokerError
from broker.installs.routes import PURPOSE, InstallApi, InstallRoutes
from broker.login.routes import LoginRoutes
from broker.pages import Page, Pages
from broker.tokens.routes import TokenRoutes
from broker.web import REQUEST_ID, Limits, as_problem, edge, new_application

OTHER_FILES = 3072
"""What is kept free of open files for the other listeners, the providers and the store."""
FEWEST = 64
SERVICES = Limits(connections=16_384)
STRANGERS = Limits(connections=1024, per_peer=64)
OPERATORS = Limits(connections=1024)


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """What each listener takes; only strangers are counted by address."""

    internal: Limits = SERVICES
    public: Limits = STRANGERS
    admin: Limits = OPERATORS

    def within(self, files: int) -> "ListenerLimits":
        """With no more connections than so many open files allow."""
        room = max(FEWEST, files - OTHER_FILES)
        return replace(
            self, internal=replace(self.internal, connections=min(room, self.internal.connections))
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
    install_routes: InstallRoutes

    def stop(self) -> None:
        """End what would go on for ever."""
        self.admin[STOPPING].set()


def build_listeners(
    base: Foundation, rooms: Rooms, check: Callable[[], Awaitable[list[Check]]], limits: ListenerLimits
) -> Listeners:
    """All three, on one set of rooms."""
    install_routes, public = _public(base, rooms.installs, limits.public)
    return Listeners(
        internal=_internal(base, rooms, limits.internal),
        public=public,
        admin=_admin(base, rooms, check, limits.admin),
        install_routes=install_routes,
    )


def _internal(base: Foundation, rooms: Rooms, limits: Limits) -> web.Application:
    authenticators = (rooms.callers.keys,)
    health = HealthRoutes(
        health=base.health,
        overview=rooms.overview,
        metrics_from=base.settings.server.metrics_from,
        authenticate=lambda request: authenticate(request, authenticators, base.metrics),
    )
    application = new_application(
        edge(as_problem, listener="internal", is_stopping=lambda: base.health.stopping),
        authenticating(authenticators, base.metrics),
        limits=limits,
    )
    application.add_routes(TokenRoutes(service=rooms.tokens.service, clock=base.steady).routes())
    application.add_routes(AccountRoutes(service=rooms.accounts, clock=base.steady).routes())
    application.add_routes(InstallApi(service=rooms.installs.service).routes())
    application.add_routes(health.routes())
    return application


def _admin(
    base: Foundation, rooms: Rooms, check: Callable[[], Awaitable[list[Check]]], limits: Limits
) -> web.Application:
    application = new_application(
        edge(as_problem, listener="admin", is_stopping=lambda: base.health.stopping), by_peer(), limits=limits
    )
    application[STOPPING] = asyncio.Event()
    admin = AdminRoutes(
        callers=rooms.callers.service,
        overview=rooms.overview,
        adoption=rooms.adoption,
        check=check,
        clock=base.clock,
    )
    application.add_routes(
        TokenRoutes(service=rooms.tokens.service, clock=base.steady, operators=True).routes()
    )
    application.add_routes(AccountRoutes(service=rooms.accounts, clock=base.steady).routes())
    application.add_routes(InstallApi(service=rooms.installs.service).routes())
    application.add_routes(admin.routes())
    return application


def _public(base: Foundation, installs: InstallRoom, limits: Limits) -> tuple[InstallRoutes, web.Application]:
    settings = base.settings
    https = settings.server.public_url.startswith("https://")
    pages, cookie = Pages(sandbox=settings.sandbox.enabled, https=https), BrowserCookie(https=https)
    install_routes = InstallRoutes(
        service=installs.service,
        login=installs.login,
        settings=settings.providers,
        pages=pages,
        cookie=cookie,
    )

    def as_page(error: BrokerError, request: web.Request) -> web.StreamResponse:
        return pages.message(error_page(error), request_id=request[REQUEST_ID])

    application = new_application(
        edge(as_page, listener="public", is_stopping=lambda: base.health.stopping), limits=limits
    )
    application.add_routes(install_routes.routes())
    application.add_routes(pages.routes())
    if installs.login is not None:
        login = LoginRoutes(
            service=installs.login, pages=pages, cookie=cookie, purposes={PURPOSE: install_routes.signed_in}
        )
        application.add_routes(login.routes())
    return install_routes, application


def error_page(error: BrokerError) -> Page:
    """An error for a person: what it is, and that trying again may help where it may."""
    passing = error.status in (429, 502, 503)
    return Page(
        title="Not just now" if passing else "There is no such page" if error.status == 404 else error.title,
        tone="wait" if passing else "bad",
        lines=(error.detail if error.detail != error.title else "There is nothing to see at this address.",),
        hint="Try again in a minute." if passing else None,
        status=error.status,
    )
