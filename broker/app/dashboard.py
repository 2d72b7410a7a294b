"""The dashboard, on the same rooms as the API."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

import broker.dashboard
from broker.app.rooms import Rooms
from broker.context import Context
from broker.dashboard.routes import DashboardRoutes, LinkRoute, Live
from broker.dashboard.service import Actions, DashboardService
from broker.dashboard.session import Sessions
from broker.http.edge import Render
from broker.http.operations import public
from broker.http.pages import Pages

ROOM = Path(broker.dashboard.__file__).parent


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What it answers on `internal`, and the way in on the admin socket."""

    routes: list[web.RouteDef]
    link_routes: list[web.RouteDef]
    sessions: Sessions
    live: Live
    error: Render


def build_dashboard(context: Context, rooms: Rooms) -> Dashboard:
    """All of it."""
    url = context.settings.server.internal_url
    https = url.startswith("https://")
    pages = Pages(sandbox=context.settings.sandbox.enabled, https=https, room=ROOM)
    sessions = Sessions(store=context.stores.installs, keyring=context.keyring, clock=context.clock, url=url)
    live = Live(events=context.stores.events, clock=context.clock)
    routes = DashboardRoutes(
        service=DashboardService(
            accounts=rooms.accounts,
            overview=rooms.overview,
            callers=rooms.callers.service,
            keys=rooms.keys.desk,
            health=context.health,
            clock=context.steady,
        ),
        actions=Actions(
            accounts=rooms.accounts,
            tokens=rooms.tokens.service,
            installs=rooms.installs.service,
            overview=rooms.overview,
            clock=context.steady,
        ),
        sessions=sessions,
        live=live,
        pages=pages,
        origin=url,
        command=f"{typed(context.settings.path) if context.settings.sandbox.enabled else 'broker'} dashboard",
    )
    links = LinkRoute(sessions=sessions, authorizer=context.authorizer, clock=context.clock, url=url)
    static = [web.get(route.path, public(route.handler)) for route in pages.routes()]
    return Dashboard([*routes.routes(), *static], links.routes(), sessions, live, routes.error)


def typed(config: Path) -> str:
    """How this very program is called from any folder, ready to be pasted."""
    script = Path(sys.executable).with_name("broker")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "broker"]
    return shlex.join([*program, "--config", str(config.absolute())])
