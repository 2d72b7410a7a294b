"""The HTTP of the plugin server for browsers: where a client sends a person to ask for consent."""

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from aiohttp import web

from broker import oauth
from broker.callers.login import LoginService, SignedIn
from broker.errors import AuditUnavailable, InvalidRequest, StorageUnavailable
from broker.http.browser import BrowserCookie, KeptRequests, is_elsewhere, moved
from broker.http.edge import CLIENT, REQUEST_ID
from broker.http.operations import TEXT, WRONG, answers_page, form, own_shape, read_body, redirect
from broker.http.pages import Page, Pages
from broker.http.peers import site_of
from broker.model import PluginConsent, Secret
from broker.plugin.authorize import Ask, Bounce, Unredirectable, Why, ask_from_text, ask_to_text, read_ask
from broker.plugin.clients import Clients
from broker.plugin.consent import ConsentGone, ConsentService, Gone, WrongConnectCode

BEGIN_AGAIN = "Go back to where you came from and begin again."
UNREDIRECTABLE: dict[Why, tuple[str, str]] = {
    "malformed": ("This address is incomplete", "Something is missing from it, or it is garbled."),
    "client": (
        "We do not know who sent you",
        "The app that sent you here is not registered with this service, so nothing was allowed.",
    ),
    "redirect_uri": (
        "This app may not ask for that address",
        "You would have been sent back to an address that is not registered for the app, so nothing was allowed.",
    ),
}
GONE: dict[Gone, tuple[str, str, str]] = {
    "over": (
        "This question is over",
        "It was answered already, too many wrong codes were typed, ten minutes have passed, or this browser did not"
        " keep our cookie.",
        "If the app you came from says that it is connected, all is well. Else begin again there.",
    ),
    "cookies": (
        "Cookies are off",
        "We need one cookie to know that it is still you. It is gone within the hour.",
        "Allow cookies for this site, then begin again where you came from.",
    ),
    "browser": (
        "This began in another browser",
        "For safety it ends in the browser it began in.",
        BEGIN_AGAIN,
    ),
}
FOREIGN = Page(
    title="This did not come from our page",
    tone="bad",
    lines=("Another site tried to answer for you, so nothing was allowed.",),
    hint=BEGIN_AGAIN,
    status=403,
)
PURPOSE = "plugin"


def unredirectable_page(why: Why) -> Page:
    """Why nobody is asked."""
    title, line = UNREDIRECTABLE[why]
    hint = "Whoever runs the app has to compare its client id and redirect URI with what was agreed here."
    return Page(title=title, tone="bad", lines=(line,), hint=hint, status=400)


def gone_page(why: Gone) -> Page:
    """Why the answer does not count."""
    title, line, hint = GONE[why]
    return Page(title=title, tone="bad", lines=(line,), hint=hint, status=410 if why == "over" else 400)


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

    @own_shape(
        "GET",
        "/plugin/authorize",
        "A client asks a person for access",
        {
            **answers_page("The question", "200"),
            **redirect("To sign in, or back with an error"),
            **redirect("To the public address: it was asked for by another name", "302"),
            **WRONG,
        },
        query=dict.fromkeys(
            ("response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge"),
            ("RFC 6749, 4.1.1", TEXT),
        ),
        has_head=False,
    )
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

    @own_shape(
        "POST",
        "/plugin/authorize",
        "The person's answer",
        {
            **answers_page("The question again", "200", "403", "413"),
            **redirect("Back to the client"),
            **WRONG,
        },
        body=form(
            {
                "type": "object",
                "properties": {
                    "consent": TEXT,
                    "connect_code": TEXT,
                    "decision": {"type": "string", "enum": ["allow", "deny"]},
                },
                "required": ["consent", "decision"],
            }
        ),
    )
    async def decide(self, request: web.Request) -> web.StreamResponse:
        """Allow or Deny was pressed."""
        if request.headers.get("Origin", self._origin) != self._origin:
            return self._pages.message(FOREIGN, request_id=request[REQUEST_ID])
        fields = _form(await read_body(request))
        handle, decision = fields.get("consent", ""), fields.get("decision")
        if decision not in ("allow", "deny"):
            return await self._question(request, handle, None)
        try:
            with self._service.deciding(Secret(handle)):
                browser = self._cookie.read(request)
                consent = await self._service.look(Secret(handle), browser, request.cookies)
                await self._service.store(consent, site_of(request.get(CLIENT)))
                return await self._decided(request, consent, fields)
        except ConsentGone as exc:
            return self._pages.message(gone_page(exc.why), request_id=request[REQUEST_ID])
        except WrongConnectCode:
            problem = "This is not a connect code that works. Type it once more, or ask for a new one."
            return await self._question(request, handle, problem)

    async def _decided(
        self, request: web.Request, consent: PluginConsent, fields: dict[str, str]
    ) -> web.StreamResponse:
        request_id = request[REQUEST_ID]
        try:
            if fields["decision"] == "deny":
                return _redirect(await self._service.deny(consent, request_id=request_id))
            allowed = await self._service.allow(consent, fields.get("connect_code"), request_id=request_id)
        except (StorageUnavailable, AuditUnavailable):
            failed = Bounce(consent.redirect_uri, consent.state, "temporarily_unavailable")
            return _redirect(failed.location(self._service.issuer))
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


def _redirect(location: str) -> web.Response:
    # Never 307, which would send the form along (RFC 9700 4.12).
    return web.Response(status=303, headers={"Location": location, "Referrer-Policy": "no-referrer"})


def _source(url: str) -> str:
    """The origin, as a CSP source."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _too_long(ask: Ask) -> Bounce:
    """A `state` that does not fit into the cookie in which a browser keeps the request."""
    return Bounce(ask.redirect_uri, ask.state, "invalid_request")


def _form(body: bytes) -> dict[str, str]:
    """Raises InvalidRequest."""
    try:
        return oauth.single_parameters(body.decode())
    except ValueError:
        raise InvalidRequest("the form is malformed, or a field is repeated") from None
