"""The HTTP of installs: links and callbacks for browsers, `POST /installs` for services."""

import json
import re
from collections.abc import Mapping
from urllib.parse import urlencode

from aiohttp import web

from broker import oauth
from broker.callers.login import LoginService, RememberedUsers, SignedIn
from broker.config.settings import ProviderSettings
from broker.errors import InvalidRequest
from broker.http.bodies import rfc3339
from broker.http.browser import BrowserCookie, Kept, KeptRequests, is_elsewhere, moved
from broker.http.edge import CALLER, CLIENT, REQUEST_ID, answer
from broker.http.operations import (
    FLAG_OR_NULL,
    MOMENT,
    NAME,
    TEXT,
    TEXT_OR_NULL,
    WRONG,
    Operation,
    Parameters,
    answers_json,
    answers_page,
    form,
    json_body,
    nothing,
    own_shape,
    read_body,
    read_object,
    record,
    redirect,
    ref,
)
from broker.http.pages import Action, Pages
from broker.http.peers import site_of
from broker.installs import kit_return
from broker.installs.exchange import DECISION, KNOWN_ERRORS, Returned, Visit
from broker.installs.pages import provider_error_page, unusable_page, visit_page
from broker.installs.service import InstallService, LinkUnusable
from broker.model import InstallOutcome, Permission, Secret
from broker.providers.classify import answered
from broker.providers.kinds import pages_of
from broker.providers.oauth2 import OAuth2Provider

PURPOSE = "install"
RETURNED, TOLD = ("code", "state", "error", "iss"), ("error_description",)
"""What a callback may hold for us (RFC 6749 4.1.2, RFC 9207); the rest is ignored."""
TICKET = re.compile(r"[\w-]+", re.ASCII)
"""A ticket without the full stop, the blank or the second `?utm_source=…` that mail programs put behind a link."""
LONGEST_RETURN = 512
"""Characters of an address at Kit that a browser can keep for us."""
CALLBACK: Parameters = {
    "state": ("Ours, from the way there", TEXT),
    "code": ("The provider's code", TEXT),
    "error": ("The provider's refusal (RFC 6749, 4.1.2.1)", TEXT),
    "iss": ("Who answers (RFC 9207)", TEXT),
}
LABELS = {"kit": "Kit", "kustomer": "Kustomer"}


def _callback(path: str, summary: str) -> Operation:
    answers = {
        **answers_page("Connected", "200"),
        **nothing("Only fetched ahead; nothing was spent"),
        **redirect("Back to where the person came from"),
        **WRONG,
    }
    return own_shape("GET", path, summary, answers, query=CALLBACK, has_head=False)


def _form_post(path: str) -> Operation:
    return own_shape(
        "POST",
        path,
        "The same for response_mode=form_post",
        {
            **redirect("To GET of this address, with what was posted"),
            **answers_page("It was no form", "405"),
            **answers_page("The form is too large", "413"),
            **WRONG,
        },
        body=form({"type": "object", "properties": dict.fromkeys(CALLBACK, TEXT)}),
    )


class InstallApi:
    """`POST /installs` on the internal listener and the admin socket."""

    def __init__(self, *, service: InstallService) -> None:
        self._service = service

    @Operation(
        "POST",
        "/installs",
        "A link that connects one account, once, within an hour",
        answers_json(
            "The link",
            record({"install_url": {"type": "string", "format": "uri"}, "expires_at": MOMENT}),
            {
                "install_url": "http://127.0.0.1:8081/install/kit?ticket=…",
                "expires_at": "2026-11-20T11:00:00Z",
            },
            status="201",
        ),
        permission=Permission.INSTALL,
        body=json_body(
            {
                "provider": ref("Provider"),
                "account": {"type": ["string", "null"], "pattern": NAME["pattern"]},
                "org": TEXT_OR_NULL,
                "return_to": TEXT_OR_NULL
                | {"description": "https, or http on loopback; no user, no fragment"},
                "replace": FLAG_OR_NULL | {"description": "Take another identity than before"},
            },
            {"provider": "kit", "account": "acme"},
        ),
    )
    async def create(self, request: web.Request) -> web.StreamResponse:
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
    """What a browser meets: the install link, Kit's own entry, the callback."""

    def __init__(
        self,
        *,
        service: InstallService,
        login: LoginService | None,
        providers: Mapping[str, OAuth2Provider],
        pages: Pages,
        cookie: BrowserCookie,
        users: RememberedUsers | None,
        person: BrowserCookie,
        kept: KeptRequests,
        public_url: str,
    ) -> None:
        self._service, self._login, self._providers = service, login, providers
        self._pages, self._cookie = pages, cookie
        self._users, self._person = users, person
        self._kept, self._public_url = kept, public_url

    @own_shape(
        "GET",
        "/install/{provider}",
        "Begin an install: by a link's ticket, or from Kit",
        {
            **redirect("To the provider, or to sign in", "302"),
            **answers_page("By invitation only", "403"),
            **WRONG,
        },
        query={
            "ticket": ("From an install link", TEXT),
            "redirect": ("Where Kit wants the person back", TEXT),
        },
        has_head=False,
    )
    async def install(self, request: web.Request) -> web.StreamResponse:
        """An announced install by its ticket, or one that Kit's creator began at Kit."""
        provider = request.match_info["provider"]
        browser = self._cookie.read_or_new(request)
        # Whatever else is in the address: mail programs and Kit append parameters of their own.
        ticket = request.query.get("ticket")
        if ticket is not None and (alone := TICKET.match(ticket)):
            ticket = alone[0]
        kept = None
        try:
            if is_elsewhere(request, self._public_url):
                return await self._moved(request, provider, ticket)
            if ticket is not None:
                url = await self._service.open_ticket(provider, Secret(ticket), browser)
            else:
                url, kept = await self._unannounced(request, provider, browser)
        except LinkUnusable as exc:
            return self._unusable(request, exc.why)
        response = web.Response(status=302, headers={"Location": url, "Referrer-Policy": "no-referrer"})
        self._cookie.write(response, browser)
        if kept is not None:
            self._kept.write(request, response, kept)
        if ticket is None and self._person.read(request) is not None:
            self._person.clear(response)
        return response

    async def signed_in(self, request: web.Request, person: SignedIn) -> web.StreamResponse:
        """The person who began an unannounced install has signed in."""
        browser = self._cookie.read_or_new(request)
        began = json.loads(person.payload)
        url = await self._service.begin_unannounced(
            began["provider"], kit_return_url=began["kit_return_url"], subject=person.subject, browser=browser
        )
        return web.Response(status=302, headers={"Location": url, "Referrer-Policy": "no-referrer"})

    @_callback("/callback/{provider}", "The redirect URI")
    @_callback("/callback/{provider}/", "The same, as Kustomer's documents write it")
    async def callback(self, request: web.Request) -> web.StreamResponse:
        """The provider sent the browser back."""
        if "prefetch" in request.headers.get("Sec-Purpose", ""):
            return web.Response(status=204)
        try:
            parameters = oauth.known_parameters(request.rel_url.raw_query_string, RETURNED, told=TOLD)
            if "state" not in parameters and "error" in parameters:
                page = provider_error_page(parameters["error"], parameters.get("error_description", ""))
                return self._pages.message(page, request_id=request[REQUEST_ID])
            visit = await self._service.callback(
                request.match_info["provider"],
                _returned(parameters),
                browser=self._cookie.read(request),
                cookies=request.cookies,
                site=site_of(request.get(CLIENT)),
            )
        except (LinkUnusable, ValueError) as exc:
            return self._unusable(request, exc.why if isinstance(exc, LinkUnusable) else "malformed")
        if visit.outcome is InstallOutcome.CONNECTED and self._users is not None:
            install = visit.install
            await self._users.connected(install.browser_hash, install.subject, visit.account)
        return self._after(request, visit)

    @_form_post("/callback/{provider}")
    @_form_post("/callback/{provider}/")
    async def form_post(self, request: web.Request) -> web.StreamResponse:
        """The provider posts its answer (`response_mode=form_post`): the browser brings it again by GET.

        The post comes from the provider's site, and with it none of our cookies, which are SameSite=Lax.
        """
        if request.content_type != "application/x-www-form-urlencoded":
            raise web.HTTPMethodNotAllowed(request.method, ["GET"])
        if request.match_info["provider"] not in self._providers:
            return self._unusable(request, "unknown")
        try:
            parameters = oauth.known_parameters(
                (await read_body(request)).decode(errors="replace"), RETURNED, told=TOLD
            )
        except ValueError:
            return self._unusable(request, "malformed")
        location = oauth.with_query(f"{self._public_url}{request.rel_url.raw_path}", parameters)
        return web.Response(status=303, headers={"Location": location, "Referrer-Policy": "no-referrer"})

    async def _moved(self, request: web.Request, provider: str, ticket: str | None) -> web.Response:
        """To the public address, where the cookies count. Raises LinkUnusable."""
        if ticket is not None:
            await self._service.check_ticket(provider, Secret(ticket))
            query = urlencode({"ticket": ticket})
        else:
            # Last, as Kit writes it: everything behind it belongs to it.
            query = f"redirect={_kit_return_url(request, self._kit(provider))}"
        return moved(self._public_url, f"/install/{provider}", query)

    def _kit(self, provider: str) -> ProviderSettings:
        """The settings of a provider where an install may begin without a link; raises LinkUnusable."""
        found = self._providers.get(provider)
        if found is None or (settings := found.settings).type != "kit":
            raise LinkUnusable("unknown")
        if self._login is None and self._users is None and not settings.open_install:
            raise LinkUnusable("invitation")
        return settings

    async def _unannounced(
        self, request: web.Request, provider: str, browser: Secret
    ) -> tuple[str, Kept | None]:
        settings = self._kit(provider)
        kit_return_url = _kit_return_url(request, settings)
        if self._users and (subject := await self._users.take(self._person.read(request))):
            url = await self._service.begin_unannounced(
                provider, kit_return_url=kit_return_url, subject=subject, browser=browser
            )
            return url, None
        if self._login is not None:
            payload = json.dumps({"provider": provider, "kit_return_url": kit_return_url})
            if begun := self._login.begin(PURPOSE, payload):
                return begun
            raise LinkUnusable("malformed")
        if not settings.open_install:
            raise LinkUnusable("invitation")
        return self._service.begin_unknown(provider, kit_return_url=kit_return_url)

    def _after(self, request: web.Request, visit: Visit) -> web.StreamResponse:
        """Kit's `redirect`, the ticket's `return_to`, or a page."""
        install = visit.install
        back = install.kit_return_url
        if back is not None and not kit_return.is_allowed(
            back, pages_of(self._providers[install.provider].settings.authorize_url)
        ):
            back = None
        if visit.outcome in (InstallOutcome.CONNECTED, InstallOutcome.IDENTITY_PENDING) and back is not None:
            return web.Response(status=303, headers={"Location": back, "Referrer-Policy": "no-referrer"})
        if install.return_to is not None:
            url = oauth.with_query(
                install.return_to, {"account": visit.account or "", "status": visit.outcome.told}
            )
            return web.Response(status=303, headers={"Location": url, "Referrer-Policy": "no-referrer"})
        label = LABELS.get(self._providers[install.provider].settings.type, install.provider)
        action = Action(label=f"Back to {label}", url=back) if back else None
        return self._pages.message(visit_page(visit, label, action), request_id=request[REQUEST_ID])

    def _unusable(self, request: web.Request, why: str) -> web.StreamResponse:
        return self._pages.message(unusable_page(why), request_id=request[REQUEST_ID])


def _kit_return_url(request: web.Request, settings: ProviderSettings) -> str:
    """Kit's `redirect` if it may be followed, else the app's page at Kit."""
    _, _, raw_query = request.raw_path.partition("?")
    given, kit = kit_return.from_raw_query(raw_query), pages_of(settings.authorize_url)
    if given is not None and len(given) <= LONGEST_RETURN and kit_return.is_allowed(given, kit):
        return given
    return kit_return.app_page(settings.app_id, kit)


def _returned(parameters: Mapping[str, str]) -> Returned:
    """Raises LinkUnusable where the state is missing, or both or neither of code and error came."""
    code, error = parameters.get("code"), parameters.get("error")
    if "state" not in parameters or (code is None) == (error is None):
        raise LinkUnusable("malformed")
    return Returned(
        state=Secret(parameters["state"]),
        # No code holds a blank, so this was a `+` that the provider did not encode.
        code=None if code is None else Secret(code.replace(" ", "+")),
        # For the log and the page: it comes from the browser.
        error=None if error is None else _kind_of(error),
        iss=parameters.get("iss"),
        detail=None if error is None else answered(error, parameters.get("error_description", "")),
    )


def _kind_of(error: str) -> str:
    if error in KNOWN_ERRORS:
        return error
    return "denied" if DECISION.search(error) else "other"
