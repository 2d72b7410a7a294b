"""The routes of the plugin server for browsers: the authorization endpoint and its consent page."""

from urllib.parse import urlsplit

from aiohttp import web
from yarl import URL

from broker import oauth
from broker.context import Context
from broker.errors import AuditUnavailable, InvalidRequest, StorageUnavailable
from broker.http import schema
from broker.http.browser import is_elsewhere, moved
from broker.http.edge import REQUEST_ID
from broker.http.operations import own_shape, read_body
from broker.http.pages import Page, ShownError
from broker.login import Browsers, LoginService, SignedIn
from broker.model import PluginConsent, Secret
from broker.plugin.clients import Clients
from broker.plugin.consent import (
    OVER,
    ConsentService,
    ErrorRedirect,
    WrongConnectCode,
    read_authorization_request,
    request_from_text,
)

FOREIGN = Page(
    title="This did not come from our page",
    tone="bad",
    lines=("Another site tried to answer for you, so nothing was allowed.",),
    hint="Go back to where you came from and begin again.",
    status=403,
)
PURPOSE = "plugin"


class ConsentRoutes:
    """The authorization endpoint `/plugin/authorize`, to which a client sends a user."""

    def __init__(
        self,
        context: Context,
        *,
        service: ConsentService,
        clients: Clients,
        browsers: Browsers,
        login: LoginService | None,
    ) -> None:
        self._context, self._service, self._clients = context, service, clients
        self._browsers, self._login = browsers, login
        self._origin = str(URL(browsers.public_url).origin())
        """The public origin as browsers send it, without a default port."""

    @own_shape(
        "GET",
        "/plugin/authorize",
        "Ask the user whether a client gets access",
        {
            **schema.answers_page("The question", "200"),
            **schema.redirect("To sign in, or back with an error"),
            **schema.redirect("To the public address: it was asked for by another name", "302"),
            **schema.WRONG,
        },
        query=dict.fromkeys(
            ("response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge"),
            ("RFC 6749, 4.1.1", schema.TEXT),
        ),
        has_head=False,
    )
    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Begin an authorization request, or go on with the one of a user who returns from the sign-in.

        With `[login]` the browser is first sent to the company's sign-in page. Without it, or after it, the answer is
        the consent page. A request that is malformed is sent back to the client with an error (RFC 6749, 4.1.2.1).
        """
        if "consent" in request.query and "client_id" not in request.query:
            return await self._consent_page(request, request.query["consent"], None)
        raw_query, browsers = request.rel_url.raw_query_string, self._browsers
        ask = read_authorization_request(raw_query, self._clients)
        if isinstance(ask, ErrorRedirect):
            return _redirect(ask.location(self._service.issuer))
        if is_elsewhere(request, browsers.public_url):
            return moved(browsers.public_url, "/plugin/authorize", raw_query)
        # The user signs in first, or types a connect code on the consent page.
        browser = browsers.cookie.read_or_new(request)
        if self._login is not None and (begun := self._login.begin(PURPOSE, ask.to_text())):
            url, kept = begun
            response = _redirect(url)
        elif self._login is None and (opened := self._service.begin_unknown(ask, browser)):
            handle, consent, kept = opened
            response = self._page(request, consent, handle.reveal(), None)
        else:
            # The `state` is too long for the cookie that keeps the request.
            too_long = ErrorRedirect(ask.redirect_uri, ask.state, "invalid_request")
            return _redirect(too_long.location(self._service.issuer))
        browsers.kept.write(request, response, kept)
        browsers.cookie.write(response, browser)
        return response

    async def signed_in(self, request: web.Request, user: SignedIn) -> web.StreamResponse:
        """Redirect a user who has signed in to the consent page."""
        ask = request_from_text(user.payload, self._clients)
        if ask is None:
            raise ShownError(OVER)
        browser = self._browsers.cookie.read_or_new(request)
        handle = await self._service.begin(ask, browser, user.subject)
        return _redirect(f"/plugin/authorize?consent={handle.reveal()}")

    @own_shape(
        "POST",
        "/plugin/authorize",
        "Take the user's answer",
        {
            **schema.answers_page("The question again", "200", "403", "413"),
            **schema.redirect("Back to the client"),
            **schema.WRONG,
        },
        body=schema.form(
            {
                "type": "object",
                "properties": {
                    "consent": schema.TEXT,
                    "connect_code": schema.TEXT,
                    "decision": {"type": "string", "enum": ["allow", "deny"]},
                },
                "required": ["consent", "decision"],
            }
        ),
    )
    async def decide(self, request: web.Request) -> web.StreamResponse:
        """Handle a click on Allow or Deny."""
        if request.headers.get("Origin", self._origin) != self._origin:
            raise ShownError(FOREIGN)
        try:
            fields = oauth.single_parameters((await read_body(request)).decode())
        except ValueError:
            raise InvalidRequest("the form is malformed, or a field is repeated") from None
        handle, decision = fields.get("consent", ""), fields.get("decision")
        if decision not in ("allow", "deny"):
            return await self._consent_page(request, handle, None)
        service, request_id = self._service, request[REQUEST_ID]
        try:
            with service.deciding(Secret(handle)):
                browser = self._browsers.of(request)
                consent = await service.find(Secret(handle), browser)
                await service.store(consent, browser.site)
                try:
                    if decision == "deny":
                        return _redirect(await service.deny(consent, request_id=request_id))
                    code = fields.get("connect_code")
                    location, person = await service.allow(consent, code, request_id=request_id)
                except (StorageUnavailable, AuditUnavailable):
                    failed = ErrorRedirect(consent.redirect_uri, consent.state, "temporarily_unavailable")
                    return _redirect(failed.location(service.issuer))
        except WrongConnectCode:
            problem = "This connect code is not valid. Type it again, or ask for a new one."
            return await self._consent_page(request, handle, problem)
        response = _redirect(location)
        self._browsers.person.write(response, person)
        return response

    async def _consent_page(self, request: web.Request, handle: str, problem: str | None) -> web.Response:
        consent = await self._service.find(Secret(handle), self._browsers.of(request))
        return self._page(request, consent, handle, problem)

    def _page(
        self, request: web.Request, consent: PluginConsent, handle: str, problem: str | None
    ) -> web.Response:
        client = self._clients.by_name.get(consent.client)
        # Chromium applies form-action to the whole chain of redirects after a form: the client, and Kit's own pages,
        # to which an install goes on without another click. Only Kit begins installs, and it has no `{org}`.
        providers = self._context.providers.values()
        kit = [one.authorize_endpoint for one in providers if one.settings.type == "kit"]
        leads_to = [URL(url).origin() for url in (consent.redirect_uri, *kit)]
        response = self._browsers.pages.render(
            "plugin_consent.html",
            status=200 if problem is None else 400,
            form_action=" ".join(dict.fromkeys(["'self'", *map(str, leads_to)])),
            request_id=request[REQUEST_ID],
            client=client.title if client else consent.client,
            scopes=consent.scope.split(),
            subject=consent.subject,
            consent=handle,
            problem=problem,
            target=urlsplit(consent.redirect_uri).netloc,
        )
        # With no-referrer a browser would send `Origin: null`, as any other site could.
        response.headers["Referrer-Policy"] = "same-origin"
        return response


def _redirect(location: str) -> web.Response:
    # Never 307, which would send the form along (RFC 9700 4.12).
    return web.Response(status=303, headers={"Location": location})
