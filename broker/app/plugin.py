"""The room of the OAuth server for plugins, and its HTTP."""

from dataclasses import dataclass

from yarl import URL

from broker.app.foundation import Foundation
from broker.callers.login import LoginService, RememberedUsers
from broker.config.settings import PluginSettings
from broker.http.browser import BrowserCookie, KeptRequests
from broker.http.pages import Pages
from broker.http.peers import UnknownUserLimits
from broker.plugin.clients import Clients
from broker.plugin.consent import ConnectCodes, ConsentService
from broker.plugin.consent_routes import ConsentRoutes
from broker.plugin.routes import ClientRoutes, PluginApi
from broker.plugin.service import GrantService


@dataclass(frozen=True, slots=True)
class PluginRoom:
    """Clients that sign in to us."""

    clients: Clients
    consent: ConsentService
    users: RememberedUsers
    kit: ClientRoutes
    api: PluginApi


def build_plugin(
    base: Foundation, settings: PluginSettings, kept: KeptRequests, unknown_users: UnknownUserLimits
) -> PluginRoom:
    """All of it, on one store."""
    store, clock, issuer = base.stores.plugin, base.steady, base.settings.server.public_url
    clients = Clients(settings.clients, metrics=base.metrics)
    service = GrantService(
        store=store,
        settings=settings,
        authorizer=base.authorizer,
        keyring=base.keyring,
        clock=clock,
        metrics=base.metrics,
    )
    connect_codes = ConnectCodes(store=store, authorizer=base.authorizer, keyring=base.keyring, clock=clock)
    consent = ConsentService(
        store=store,
        clients=clients,
        connect_codes=connect_codes,
        authorizer=base.authorizer,
        clock=clock,
        issuer=issuer,
        kept=kept,
        unknown_users=unknown_users,
    )
    return PluginRoom(
        clients=clients,
        consent=consent,
        users=RememberedUsers(store=store, clock=clock),
        kit=ClientRoutes(service=service, clients=clients, issuer=issuer),
        api=PluginApi(service=service, connect_codes=connect_codes, clients=clients, issuer=issuer),
    )


def consent_routes(
    base: Foundation,
    room: PluginRoom,
    *,
    login: LoginService | None,
    pages: Pages,
    cookie: BrowserCookie,
    person: BrowserCookie,
    kept: KeptRequests,
) -> ConsentRoutes:
    """Its pages, among the others of the public listener."""
    return ConsentRoutes(
        service=room.consent,
        clients=room.clients,
        login=login,
        pages=pages,
        cookie=cookie,
        person=person,
        kept=kept,
        public_url=base.settings.server.public_url,
        # As browsers write it: without a default port.
        origin=str(URL(base.settings.server.public_url).origin()),
        goes_on_to=lambda: [
            provider.authorize_endpoint
            for provider in base.providers.by_name.values()
            # Only Kit begins installs, and its address holds no `{org}`.
            if provider.settings.type == "kit"
        ],
    )
