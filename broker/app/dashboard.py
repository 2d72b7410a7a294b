"""The dashboard, on the same rooms as the API."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

import broker.dashboard
from broker.app.foundation import Foundation
from broker.app.rooms import Rooms
from broker.dashboard.routes import DashboardRoutes, LinkRoute, Live
from broker.dashboard.service import Actions, DashboardService
from broker.dashboard.session import Sessions
from broker.http.edge import Render, public
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


def build_dashboard(base: Foundation, rooms: Rooms) -> Dashboard:
    """All of it."""
    url = base.settings.server.internal_url
    https = url.startswith("https://")
    pages = Pages(sandbox=base.settings.sandbox.enabled, https=https, room=ROOM)
    sessions = Sessions(store=base.stores.installs, keyring=base.keyring, clock=base.clock, url=url)
    live = Live(events=base.stores.events, clock=base.clock)
    routes = DashboardRoutes(
        service=DashboardService(
            accounts=rooms.accounts,
            overview=rooms.overview,
            callers=rooms.callers.service,
            keys=rooms.keys.desk,
            health=base.health,
            clock=base.steady,
        ),
        actions=Actions(
            accounts=rooms.accounts,
            tokens=rooms.tokens.service,
            installs=rooms.installs.service,
            overview=rooms.overview,
            clock=base.steady,
        ),
        sessions=sessions,
        live=live,
        pages=pages,
        origin=url,
        command=f"{typed(base.settings.path) if base.settings.sandbox.enabled else 'broker'} dashboard",
    )
    links = LinkRoute(sessions=sessions, authorizer=base.authorizer, clock=base.clock, url=url)
    static = [web.get(route.path, public(route.handler)) for route in pages.routes()]
    return Dashboard([*routes.routes(), *static], links.routes(), sessions, live, routes.error)


def typed(config: Path) -> str:
    """How this very program is called from any folder, ready to be pasted."""
    script = Path(sys.executable).with_name("broker")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "broker"]
    return shlex.join([*program, "--config", str(config.absolute())])
