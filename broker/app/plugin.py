"""The room of the OAuth server for plugins, and its HTTP."""

from dataclasses import dataclass

from yarl import URL

from broker.callers.login import LoginService, RememberedUsers
from broker.config.settings import PluginSettings
from broker.context import Context
from broker.http.browser import BrowserCookie, KeptRequests
from broker.http.pages import Pages
from broker.http.peers import UnknownUserLimits
from broker.plugin.clients import Clients
from broker.plugin.consent import ConnectCodes, ConsentService
from broker.plugin.consent_routes import ConsentRoutes
from broker.plugin.routes import ClientRoutes, GrantRoutes, PluginApi
from broker.plugin.service import GrantService


@dataclass(frozen=True, slots=True)
class PluginRoom:
    """Clients that sign in to us."""

    clients: Clients
    consent: ConsentService
    users: RememberedUsers
    kit: ClientRoutes
    api: PluginApi
    grants: GrantRoutes


def build_plugin(
    context: Context, settings: PluginSettings, kept: KeptRequests, unknown_users: UnknownUserLimits
) -> PluginRoom:
    """All of it, on one store."""
    store, clock, issuer = context.stores.plugin, context.steady, context.settings.server.public_url
    clients = Clients(settings.clients, metrics=context.metrics)
    service = GrantService(
        store=store,
        settings=settings,
        authorizer=context.authorizer,
        keyring=context.keyring,
        clock=clock,
        metrics=context.metrics,
    )
    connect_codes = ConnectCodes(
        store=store, authorizer=context.authorizer, keyring=context.keyring, clock=clock
    )
    consent = ConsentService(
        store=store,
        clients=clients,
        connect_codes=connect_codes,
        authorizer=context.authorizer,
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
        grants=GrantRoutes(service=service),
    )


def consent_routes(
    context: Context,
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
        public_url=context.settings.server.public_url,
        # As browsers write it: without a default port.
        origin=str(URL(context.settings.server.public_url).origin()),
        goes_on_to=lambda: [
            provider.authorize_endpoint
            for provider in context.providers.values()
            # Only Kit begins installs, and its address holds no `{org}`.
            if provider.settings.type == "kit"
        ],
    )
