"""The HTTP of the plugin server: consent for browsers, tokens for clients, introspection for services."""

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from aiohttp import web

from broker import oauth
from broker.browser import BrowserCookie, KeptRequests, is_elsewhere, moved
from broker.errors import AuditUnavailable, BrokerError, InvalidRequest, StorageUnavailable
from broker.login import LoginService, SignedIn
from broker.model import PluginConsent, Secret
from broker.pages import Pages
from broker.peers import site_of
from broker.plugin.authorize import Ask, Bounce, Unredirectable, ask_from_text, ask_to_text, read_ask
from broker.plugin.clients import Clients
from broker.plugin.connect_codes import ConnectCodes
from broker.plugin.consent import ConsentGone, ConsentService, WrongConnectCode
from broker.plugin.metadata import metadata
from broker.plugin.pages import FOREIGN, gone_page, unredirectable_page
from broker.plugin.parameters import Asked, Credentials, read_asked, read_credentials
from broker.plugin.refusals import Refused
from broker.plugin.service import Active, GrantService, Issued
from broker.web import CALLER, CLIENT, REQUEST_ID, answer, check_query, query_number, read_body, read_object
from broker.wire import plugin_grant_json, rfc3339

PURPOSE = "plugin"
MACHINES = frozenset({"/plugin/token", "/plugin/refresh", "/plugin/revoke"})
"""Where programs ask, so that errors are JSON there."""
REALM = 'Basic realm="token-broker", charset="UTF-8"'
NOT_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}
PAGE, MOST = 100, 1000


class ConsentRoutes:
    """`/plugin/authorize`, where a client sends a person."""

    def __init__(
        self,
        *,
        service: ConsentService,
        clients: Clients,
        login: LoginService | None,
        pages: Pages,
        cookie: BrowserCookie,
        person: BrowserCookie,
        origin: str,
        goes_on_to: Callable[[], Iterable[str]],
        kept: KeptRequests,
        public_url: str,
    ) -> None:
        self._kept, self._public_url = kept, public_url
        self._service, self._clients, self._login = service, clients, login
        self._pages, self._cookie, self._person, self._origin = pages, cookie, person, origin
        self._goes_on_to = goes_on_to
        """Addresses to which an install goes on from here without another click."""

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/plugin/authorize", self.authorize, allow_head=False),
            web.post("/plugin/authorize", self.decide),
        ]

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """A client asks, or a person who has signed in comes back to the question."""
        if "consent" in request.query and "client_id" not in request.query:
            return await self._question(request, request.query["consent"], None)
        ask = read_ask(request.rel_url.raw_query_string, self._clients)
        match ask:
            case Unredirectable(why):
                return self._pages.message(unredirectable_page(why), request_id=request[REQUEST_ID])
            case Bounce():
                return _redirect(ask.location(self._service.issuer))
            case Ask() if is_elsewhere(request, self._public_url):
                return moved(self._public_url, "/plugin/authorize", request.rel_url.raw_query_string)
            case Ask():
                return await self._identify(request, ask)

    async def signed_in(self, request: web.Request, person: SignedIn) -> web.StreamResponse:
        """The person whom a client sent has signed in."""
        ask = ask_from_text(person.payload, self._clients)
        if ask is None:
            return self._pages.message(gone_page("over"), request_id=request[REQUEST_ID])
        handle = await self._service.begin(ask, self._cookie.read_or_new(request), person.subject)
        return _redirect(f"/plugin/authorize?consent={handle.reveal()}")

    async def decide(self, request: web.Request) -> web.StreamResponse:
        """Allow or Deny was pressed."""
        if request.headers.get("Origin", self._origin) != self._origin:
            return self._pages.message(FOREIGN, request_id=request[REQUEST_ID])
        form = _form(await read_body(request))
        handle, decision = form.get("consent", ""), form.get("decision")
        if decision not in ("allow", "deny"):
            return await self._question(request, handle, None)
        try:
            with self._service.deciding(Secret(handle)):
                browser = self._cookie.read(request)
                consent = await self._service.look(Secret(handle), browser, request.cookies)
                await self._service.store(consent, site_of(request.get(CLIENT)))
                return await self._decided(request, consent, form)
        except ConsentGone as exc:
            return self._pages.message(gone_page(exc.why), request_id=request[REQUEST_ID])
        except WrongConnectCode:
            problem = "This is not a connect code that works. Type it once more, or ask for a new one."
            return await self._question(request, handle, problem)

    async def _decided(
        self, request: web.Request, consent: PluginConsent, form: dict[str, str]
    ) -> web.StreamResponse:
        request_id = request[REQUEST_ID]
        try:
            if form["decision"] == "deny":
                return _redirect(await self._service.deny(consent, request_id=request_id))
            allowed = await self._service.allow(consent, form.get("connect_code"), request_id=request_id)
        except (StorageUnavailable, AuditUnavailable):
            return _redirect(_unavailable(consent).location(self._service.issuer))
        response = _redirect(allowed.location)
        self._person.write(response, allowed.person)
        return response

    async def _identify(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        """Send the person to sign in, or ask for a connect code at once."""
        browser = self._cookie.read_or_new(request)
        response: web.StreamResponse
        if self._login is not None:
            begun = self._login.begin(PURPOSE, ask_to_text(ask))
            if begun is None:
                return _redirect(_too_long(ask).location(self._service.issuer))
            url, kept = begun
            response = _redirect(url)
        else:
            opened = self._service.begin_unknown(ask, browser)
            if opened is None:
                return _redirect(_too_long(ask).location(self._service.issuer))
            handle, consent, kept = opened
            response = self._page(request, consent, handle.reveal(), None)
        self._kept.write(request, response, kept)
        self._cookie.write(response, browser)
        return response

    async def _question(self, request: web.Request, handle: str, problem: str | None) -> web.StreamResponse:
        try:
            consent = await self._service.look(Secret(handle), self._cookie.read(request), request.cookies)
        except ConsentGone as exc:
            return self._pages.message(gone_page(exc.why), request_id=request[REQUEST_ID])
        return self._page(request, consent, handle, problem)

    def _page(
        self, request: web.Request, consent: PluginConsent, handle: str, problem: str | None
    ) -> web.Response:
        client, target = self._clients.named(consent.client), urlsplit(consent.redirect_uri).netloc
        # Chromium holds the whole chain of redirects behind a form to what is named here: Kit, then Kit's API.
        leads_to = [_source(url) for url in (consent.redirect_uri, *self._goes_on_to())]
        response = self._pages.render(
            "plugin_consent.html",
            status=200 if problem is None else 400,
            form_action=" ".join(dict.fromkeys(["'self'", *leads_to])),
            request_id=request[REQUEST_ID],
            client=client.title if client else consent.client,
            scopes=consent.scope.split(),
            subject=consent.subject,
            consent=handle,
            problem=problem,
            target=target,
        )
        # With no-referrer a browser would send `Origin: null`, which could be anybody's.
        response.headers["Referrer-Policy"] = "same-origin"
        return response


class ClientRoutes:
    """What Kit's own machines ask: tokens, and to revoke them."""

    def __init__(self, *, service: GrantService, clients: Clients, issuer: str) -> None:
        self._service, self._clients, self._issuer = service, clients, issuer

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/plugin/token", self.token),
            web.post("/plugin/refresh", self.token),
            web.post("/plugin/revoke", self.revoke),
            web.get("/.well-known/oauth-authorization-server", self.metadata),
        ]

    async def token(self, request: web.Request) -> web.StreamResponse:
        """Both grants, at either address."""
        try:
            asked = await _asked(request)
            match asked.text("grant_type"):
                case "authorization_code":
                    return _tokens(await self._redeem(request, asked))
                case "refresh_token":
                    return _tokens(await self._renew(request, asked))
                case _:
                    raise Refused(
                        "unsupported_grant_type", "The grant_type is authorization_code or refresh_token."
                    )
        except Refused as exc:
            return refused(exc)

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """RFC 7009; unknown tokens are answered alike."""
        try:
            asked = await _asked(request)
            client = self._clients.authenticate(_credentials(request, asked))
            await self._service.revoke(client, asked.secret("token"), request_id=request[REQUEST_ID])
        except Refused as exc:
            return refused(exc)
        return answer({}, headers=NOT_STORED)

    async def metadata(self, _: web.Request) -> web.StreamResponse:
        return answer(metadata(self._issuer, self._clients.all()))

    async def _redeem(self, request: web.Request, asked: Asked) -> Issued:
        client = self._clients.authenticate(_credentials(request, asked))
        verifier = asked.parameters.get("code_verifier")
        return await self._service.redeem(
            client,
            asked.secret("code"),
            redirect_uri=asked.parameters.get("redirect_uri"),
            verifier=Secret(verifier) if verifier is not None else None,
            request_id=request[REQUEST_ID],
        )

    async def _renew(self, request: web.Request, asked: Asked) -> Issued:
        client = self._clients.authenticate(_credentials(request, asked), renewing=True)
        return await self._service.renew(
            client,
            asked.secret("refresh_token"),
            scope=asked.parameters.get("scope"),
            request_id=request[REQUEST_ID],
        )


class PluginApi:
    """Introspection and connect codes, on the internal listener and the admin socket."""

    def __init__(
        self,
        *,
        service: GrantService,
        connect_codes: ConnectCodes,
        clients: Clients,
        issuer: str,
    ) -> None:
        self._service, self._connect_codes, self._clients = service, connect_codes, clients
        self._issuer = issuer

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/plugin/introspect", self.introspect),
            web.post("/plugin/connect-codes", self.connect_code),
        ]

    def operators(self) -> list[web.RouteDef]:
        """What only the admin socket answers."""
        return [
            web.get("/plugin/grants", self.grants),
            web.delete("/plugin/grants/{grant}", self.end),
        ]

    async def introspect(self, request: web.Request) -> web.StreamResponse:
        try:
            token = read_asked(await read_body(request), request.query).secret("token")
        except Refused as exc:
            raise InvalidRequest(exc.description) from None
        active = await self._service.introspect(request[CALLER], token, request_id=request[REQUEST_ID])
        return answer({"active": False} if active is None else self._active(active))

    async def connect_code(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request, allowed={"subject": str})
        code, expires_at = await self._connect_codes.create(
            request[CALLER], body.get("subject", ""), request_id=request[REQUEST_ID]
        )
        return answer({"connect_code": code.reveal(), "expires_at": rfc3339(expires_at)}, status=201)

    async def grants(self, request: web.Request) -> web.StreamResponse:
        check_query(request, "subject", "cursor", "limit")
        limit = int(query_number(request, "limit", most=MOST, least=1) or PAGE)
        found = await self._service.grants(
            request[CALLER],
            subject=request.query.get("subject"),
            after=request.query.get("cursor", ""),
            limit=limit,
            request_id=request[REQUEST_ID],
        )
        cursor = found[-1].id if len(found) == limit else None
        return answer({"grants": [plugin_grant_json(grant) for grant in found], "next_cursor": cursor})

    async def end(self, request: web.Request) -> web.StreamResponse:
        await self._service.end(request[CALLER], request.match_info["grant"], request_id=request[REQUEST_ID])
        return web.Response(status=204)

    def _active(self, active: Active) -> dict[str, object]:
        """RFC 7662 2.2."""
        client = self._clients.named(active.grant.client)
        return {
            "active": True,
            "scope": active.pair.scope,
            "client_id": client.client_id if client else active.grant.client,
            "token_type": "Bearer",
            "exp": int(active.pair.access_expires_at),
            "iat": int(active.pair.created_at),
            "sub": active.grant.subject,
            "iss": self._issuer,
        }


def refused(error: Refused) -> web.Response:
    """An error answer of RFC 6749 5.2."""
    headers = {**NOT_STORED, **({"WWW-Authenticate": REALM} if error.status == 401 and error.basic else {})}
    if error.status == 503:
        headers["Retry-After"] = "1"
    body = {"error": error.error, "error_description": error.description}
    return answer(body, status=error.status, headers=headers)


def machine_error(error: BrokerError) -> web.Response:
    """Any other failure at an address for programs, in OAuth's shape and with its own status."""
    match error.status:
        case 503 | 429:
            return refused(Refused("temporarily_unavailable", "Try again in a moment."))
        case 500:
            return refused(Refused("server_error", "An error of ours."))
        case status:
            body = {"error": "invalid_request", "error_description": error.title}
            return answer(body, status=status, headers=NOT_STORED)


async def _asked(request: web.Request) -> Asked:
    return read_asked(await read_body(request), request.query)


def _credentials(request: web.Request, asked: Asked) -> Credentials:
    return read_credentials(request.headers.getall("Authorization", []), asked)


def _tokens(issued: Issued) -> web.Response:
    """RFC 6749 5.1, and `created_at`, which Kit reads."""
    body = {
        "access_token": issued.tokens.access.reveal(),
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
        "refresh_token": issued.tokens.refresh.reveal(),
        "created_at": int(issued.pair.created_at),
        "scope": issued.pair.scope,
    }
    return answer(body, headers=NOT_STORED)


def _redirect(location: str) -> web.Response:
    # Never 307, which would send the form along (RFC 9700 4.12).
    return web.Response(status=303, headers={"Location": location, "Referrer-Policy": "no-referrer"})


def _source(url: str) -> str:
    """The origin, as a CSP source."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _unavailable(asked: Ask | PluginConsent) -> Bounce:
    return Bounce(asked.redirect_uri, asked.state, "temporarily_unavailable")


def _too_long(ask: Ask) -> Bounce:
    """A `state` that does not fit into the cookie in which a browser keeps the request."""
    return Bounce(ask.redirect_uri, ask.state, "invalid_request")


def _form(body: bytes) -> dict[str, str]:
    """Raises InvalidRequest."""
    try:
        return oauth.single_parameters(body.decode())
    except ValueError:
        raise InvalidRequest("the form is malformed, or a field is repeated") from None
