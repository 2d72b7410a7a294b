"""The HTTP routes of installs: links and callbacks for browsers, `POST /installs` for services."""

import json
import re
from urllib.parse import unquote, urlencode, urlsplit

from aiohttp import web

from broker import oauth
from broker.config.settings import ProviderSettings
from broker.context import Context
from broker.errors import InvalidRequest
from broker.http import schema
from broker.http.bodies import rfc3339
from broker.http.browser import Kept, is_elsewhere, moved
from broker.http.edge import CALLER, REQUEST_ID, answer
from broker.http.operations import Operation, own_shape, read_body, read_object
from broker.http.pages import Action
from broker.installs.exchange import DECISION, KNOWN_ERRORS, AuthorizationResponse, InstallResult
from broker.installs.pages import provider_error, result_page, unusable
from broker.installs.service import InstallService, without_link
from broker.login import Browsers, LoginService, SignedIn
from broker.model import InstallOutcome, Permission, Secret
from broker.providers.classify import answered
from broker.providers.kinds import KIT, pages_of

PURPOSE = "install"
PARAMETERS, SHOWN = ("code", "state", "error", "iss"), ("error_description",)
"""The parameters of a callback (RFC 6749 4.1.2, RFC 9207) and those that are only shown. Others are ignored."""
TICKET = re.compile(r"[\w-]+", re.ASCII)
"""A ticket without the full stop, the blank or the second `?utm_source=…` that mail programs append to a link."""
LONGEST_RETURN = 512
"""Characters of an address at Kit that fit into the browser's cookie."""
CALLBACK: schema.Parameters = {
    "state": ("The state that the broker sent with the browser", schema.TEXT),
    "code": ("The authorization code", schema.TEXT),
    "error": ("The provider's error (RFC 6749, 4.1.2.1)", schema.TEXT),
    "iss": ("The issuer that answers (RFC 9207)", schema.TEXT),
}
LABELS = {"kit": "Kit", "kustomer": "Kustomer"}
ALLOWED_HOST = "app.kit.com"
PLAIN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,2048}", re.ASCII)
"""Visible ASCII without quotes and backslashes."""


def _callback(path: str, summary: str) -> Operation:
    answers = {
        **schema.answers_page("Connected", "200"),
        **schema.nothing("The browser only prefetched the page; the state is still unused"),
        **schema.redirect("Back to where the user came from"),
        **schema.WRONG,
    }
    return own_shape("GET", path, summary, answers, query=CALLBACK, has_head=False)


def _form_post(path: str) -> Operation:
    return own_shape(
        "POST",
        path,
        "The same for response_mode=form_post",
        {
            **schema.redirect("To GET of this address, with the posted parameters"),
            **schema.answers_page("The body is not a form", "405"),
            **schema.answers_page("The form is too large", "413"),
            **schema.WRONG,
        },
        body=schema.form({"type": "object", "properties": dict.fromkeys(CALLBACK, schema.TEXT)}),
    )


class InstallApi:
    """The route `POST /installs` on the internal listener and the admin socket."""

    def __init__(self, service: InstallService) -> None:
        self._service = service

    @Operation(
        "POST",
        "/installs",
        "Make a link that connects one account. It works once, within an hour; only `provider` is required",
        schema.answers_json(
            "The link",
            schema.record({"install_url": {"type": "string", "format": "uri"}, "expires_at": schema.MOMENT}),
            {
                "install_url": "http://127.0.0.1:8081/install/kit?ticket=…",
                "expires_at": "2026-11-20T11:00:00Z",
            },
            status="201",
        ),
        permission=Permission.INSTALL,
        body=schema.json_body(
            {
                "provider": schema.ref("Provider"),
                "account": {"type": ["string", "null"], "pattern": schema.NAME["pattern"]},
                "org": schema.TEXT_OR_NULL,
                "return_to": schema.TEXT_OR_NULL
                | {"description": "https, or http on loopback; no user, no fragment"},
                "replace": schema.FLAG_OR_NULL
                | {"description": "Accept another identity than the account had"},
            },
            {"provider": "kit", "account": "acme"},
        ),
    )
    async def create(self, request: web.Request) -> web.StreamResponse:
        """Answer with a new install link."""
        body = await read_object(request)
        if "provider" not in body:
            raise InvalidRequest("provider is missing: which one is to be connected?")
        url, expires_at = await self._service.create(
            request[CALLER],
            provider=body["provider"],
            account=body.get("account"),
            org=body.get("org"),
            return_to=body.get("return_to"),
            replace_identity=body.get("replace", False),
            request_id=request[REQUEST_ID],
        )
        return answer({"install_url": url, "expires_at": rfc3339(expires_at)}, status=201)


class InstallRoutes:
    """The routes that browsers use: the install link, an install that begins at Kit, and the callback."""

    def __init__(
        self, context: Context, *, service: InstallService, browsers: Browsers, login: LoginService | None
    ) -> None:
        self._context, self._service, self._browsers, self._login = context, service, browsers, login

    @own_shape(
        "GET",
        "/install/{provider}",
        "Begin an install: with the `ticket` of an install link, or without one from Kit",
        {
            **schema.redirect("To the provider, or to sign in", "302"),
            **schema.answers_page("By invitation only", "403"),
            **schema.WRONG,
        },
        query={
            "ticket": ("The ticket of an install link", schema.TEXT),
            "redirect": ("Where Kit wants the user to return", schema.TEXT),
        },
        has_head=False,
    )
    async def install(self, request: web.Request) -> web.StreamResponse:
        """Begin an install with the ticket of a link, or one that a creator began at Kit."""
        provider, browsers = request.match_info["provider"], self._browsers
        browser = browsers.cookie.read_or_new(request)
        # Other parameters are ignored: mail programs and Kit append their own.
        ticket = request.query.get("ticket")
        if ticket is not None and (found := TICKET.match(ticket)):
            ticket = found[0]
        if is_elsewhere(request, browsers.public_url):
            # Cookies work only at the public address.
            if ticket is not None:
                await self._service.check_ticket(provider, Secret(ticket))
                query = urlencode({"ticket": ticket})
            else:
                # Last, as Kit writes it: everything after it belongs to it.
                query = f"redirect={_kit_return_url(request, self._kit(provider))}"
            return moved(browsers.public_url, f"/install/{provider}", query)
        kept = None
        if ticket is not None:
            checked = await self._service.check_ticket(provider, Secret(ticket))
            url = await self._service.begin(checked, browser)
        else:
            url, kept = await self._without_link(request, provider, browser)
        response = web.Response(status=302, headers={"Location": url})
        browsers.cookie.write(response, browser)
        if kept is not None:
            browsers.kept.write(request, response, kept)
        if ticket is None and browsers.person.read(request) is not None:
            browsers.person.clear(response)
        return response

    async def signed_in(self, request: web.Request, user: SignedIn) -> web.StreamResponse:
        """Continue the install of a user who has signed in."""
        began = json.loads(user.payload)
        ticket, browser = without_link(began["provider"], user.subject), self._browsers.cookie
        url = await self._service.begin(ticket, browser.read_or_new(request), began["kit_return_url"])
        return web.Response(status=302, headers={"Location": url})

    @_callback("/callback/{provider}", "The redirect URI")
    @_callback("/callback/{provider}/", "The same, as Kustomer's documentation writes it")
    async def callback(self, request: web.Request) -> web.StreamResponse:
        """Finish the install whose browser the provider has sent back."""
        if "prefetch" in request.headers.get("Sec-Purpose", ""):
            return web.Response(status=204)
        parameters = _parameters(request.rel_url.raw_query_string)
        code, error = parameters.get("code"), parameters.get("error")
        description = parameters.get("error_description", "")
        if "state" not in parameters and error is not None:
            raise provider_error(error, description)
        if "state" not in parameters or (code is None) == (error is None):
            raise unusable("malformed")
        kind = error
        if error is not None and error not in KNOWN_ERRORS:
            # Anybody can write this word, and it goes into the log and the page.
            kind = "denied" if DECISION.search(error) else "other"
        response = AuthorizationResponse(
            state=Secret(parameters["state"]),
            # No code contains a blank, so this was a `+` that the provider did not encode.
            code=None if code is None else Secret(code.replace(" ", "+")),
            error=kind,
            iss=parameters.get("iss"),
            detail=None if error is None else answered(error, description),
        )
        browser = self._browsers.of(request)
        result = await self._service.callback(request.match_info["provider"], response, browser)
        return self._answer(request, result)

    @_form_post("/callback/{provider}")
    @_form_post("/callback/{provider}/")
    async def form_post(self, request: web.Request) -> web.StreamResponse:
        """Redirect a callback that the provider posts (`response_mode=form_post`) to the same address by GET.

        The POST comes from the provider's site, so it has none of our cookies, which are SameSite=Lax.
        """
        if request.content_type != "application/x-www-form-urlencoded":
            raise web.HTTPMethodNotAllowed(request.method, ["GET"])
        if request.match_info["provider"] not in self._context.providers:
            raise unusable("unknown")
        parameters = _parameters((await read_body(request)).decode(errors="replace"))
        location = oauth.with_query(f"{self._browsers.public_url}{request.rel_url.raw_path}", parameters)
        return web.Response(status=303, headers={"Location": location})

    def _kit(self, provider: str) -> ProviderSettings:
        """Return the settings of a provider where an install may begin without a link. Raises ShownError."""
        found = self._context.providers.get(provider)
        if found is None or (settings := found.settings).type != "kit":
            raise unusable("unknown")
        if self._login is None and self._context.settings.plugin is None and not settings.open_install:
            raise unusable("invitation")
        return settings

    async def _without_link(
        self, request: web.Request, provider: str, browser: Secret
    ) -> tuple[str, Kept | None]:
        """Return where to send the browser, and the cookie that keeps its request, if any."""
        settings = self._kit(provider)
        kit_return_url = _kit_return_url(request, settings)
        if self._context.settings.plugin and (person := self._browsers.person.read(request)):
            # A user who allowed a plugin access minutes ago does not sign in again.
            subject = await self._context.stores.plugin.take_person(
                oauth.hashed(person), self._context.steady.now()
            )
            if subject is not None:
                ticket = without_link(provider, subject)
                return await self._service.begin(ticket, browser, kit_return_url), None
        if self._login is not None:
            payload = json.dumps({"provider": provider, "kit_return_url": kit_return_url})
            if begun := self._login.begin(PURPOSE, payload):
                return begun
            raise unusable("malformed")
        if not settings.open_install:
            raise unusable("invitation")
        return self._service.begin_unknown(provider, kit_return_url)

    def _answer(self, request: web.Request, result: InstallResult) -> web.StreamResponse:
        """Redirect to Kit's `redirect` or the link's `return_to`, or show a page."""
        install, outcome = result.install, result.outcome
        settings = self._context.providers[install.provider].settings
        back = install.kit_return_url
        if back is not None and not is_allowed(back, pages_of(settings.authorize_url)):
            back = None
        if outcome in (InstallOutcome.CONNECTED, InstallOutcome.IDENTITY_PENDING) and back is not None:
            return web.Response(status=303, headers={"Location": back})
        if install.return_to is not None:
            url = oauth.with_query(
                install.return_to, {"account": result.account or "", "status": outcome.public}
            )
            return web.Response(status=303, headers={"Location": url})
        label = LABELS.get(settings.type, install.provider)
        action = Action(label=f"Back to {label}", url=back) if back else None
        return self._browsers.show(request, result_page(result, label, action))


def _parameters(raw: str) -> dict[str, str]:
    try:
        return oauth.known_parameters(raw, PARAMETERS, shown=SHOWN)
    except ValueError:
        raise unusable("malformed") from None


def _kit_return_url(request: web.Request, settings: ProviderSettings) -> str:
    """Return Kit's `redirect` if the browser may be sent there, else the app's page at Kit."""
    _, _, raw_query = request.raw_path.partition("?")
    given, kit = kit_redirect(raw_query), pages_of(settings.authorize_url)
    if given is not None and len(given) <= LONGEST_RETURN and is_allowed(given, kit):
        return given
    return app_page(settings.app_id, kit)


def kit_redirect(raw_query: str) -> str | None:
    """Return the value of Kit's `redirect` parameter as it was sent, or None.

    Kit sends it unencoded with a nested `?` (developers.kit.com, "App authentication"), so everything after the first
    `redirect=` belongs to it. It is decoded only if it begins percent-encoded.
    """
    found = re.search(r"(?:^|&)redirect=(.*)", raw_query, re.DOTALL)
    if found is None:
        return None
    value = found[1]
    return unquote(value) if value[:9].lower().startswith("https%3a") else value


def app_page(app_id: int | None, kit: str) -> str:
    """Return the address of the app's page at Kit (`kit` is its origin), or of all apps if the app id is unknown."""
    return f"{kit}/apps" + (f"/{app_id}" if app_id is not None else "")


def is_allowed(url: str, kit: str = KIT) -> bool:
    """Return whether the browser may be sent to `url`: https, exactly Kit's host, a path below /apps.

    `kit`: the origin of a sandbox that stands in for Kit; its pages are allowed too.
    """
    if not PLAIN.fullmatch(url):
        return False
    if kit != KIT and (url == f"{kit}/apps" or url.startswith((f"{kit}/apps/", f"{kit}/apps?"))):
        return "/.." not in unquote(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        # As it is written: urlsplit() would take "Https" as well.
        url.startswith("https://")
        and parts.netloc == ALLOWED_HOST
        and port is None
        and (parts.path == "/apps" or parts.path.startswith("/apps/"))
        and "/.." not in unquote(parts.path)
    )
