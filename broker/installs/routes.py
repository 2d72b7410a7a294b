"""The HTTP of installs: links and callbacks for browsers, `POST /installs` for services."""

import json
from collections.abc import Mapping

from aiohttp import web

from broker import oauth
from broker.browser import BrowserCookie
from broker.config.settings import ProviderSettings
from broker.errors import InvalidRequest
from broker.installs import kit_return
from broker.installs.pages import unusable_page, visit_page
from broker.installs.service import InstallService, LinkUnusable, Visit
from broker.login.remembered import RememberedPeople
from broker.login.service import LoginService, SignedIn
from broker.model import InstallOutcome, Secret
from broker.pages import Action, Pages
from broker.providers.kit import APP_PAGE, APPS_PAGE
from broker.web import CALLER, REQUEST_ID, answer, read_object
from broker.wire import rfc3339

PURPOSE = "install"
AUTHORIZATION_ERRORS = frozenset(
    {
        "access_denied",
        "invalid_request",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_response_type",
    }
)
LABELS = {"kit": "Kit", "kustomer": "Kustomer"}


class InstallApi:
    """`POST /installs` on the internal listener and the admin socket."""

    def __init__(self, *, service: InstallService) -> None:
        self._service = service

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/installs", self.create)]

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(
            request,
            allowed={"provider": str, "account": str, "org": str, "return_to": str, "replace": bool},
        )
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
        settings: Mapping[str, ProviderSettings],
        pages: Pages,
        cookie: BrowserCookie,
        people: RememberedPeople | None,
        person: BrowserCookie,
    ) -> None:
        self._service, self._login, self._settings = service, login, settings
        self._pages, self._cookie = pages, cookie
        self._people, self._person = people, person

    def use(self, settings: Mapping[str, ProviderSettings]) -> None:
        """Go on with other settings: the configuration was reloaded."""
        self._settings = settings

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/install/{provider}", self.install, allow_head=False),
            web.get("/callback/{provider}", self.callback, allow_head=False),
            # The documents of Kustomer write the redirect URI with a trailing slash.
            web.get("/callback/{provider}/", self.callback, allow_head=False),
        ]

    async def install(self, request: web.Request) -> web.StreamResponse:
        """An announced install by its ticket, or one that Kit's creator began at Kit."""
        provider = request.match_info["provider"]
        browser = self._cookie.read_or_new(request)
        ticket = request.query.get("ticket")
        try:
            if ticket is not None and len(request.query) == 1:
                url = await self._service.open_ticket(provider, Secret(ticket), browser)
            else:
                url = await self._unannounced(request, provider, browser)
        except LinkUnusable as exc:
            return self._unusable(request, exc.why)
        response = web.Response(status=302, headers={"Location": url, "Referrer-Policy": "no-referrer"})
        self._cookie.write(response, browser)
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

    async def callback(self, request: web.Request) -> web.StreamResponse:
        """The provider sent the browser back."""
        if "prefetch" in request.headers.get("Sec-Purpose", ""):
            return web.Response(status=204)
        provider = request.match_info["provider"]
        try:
            parameters = _callback_parameters(request)
            visit = await self._service.callback(
                provider,
                state=Secret(parameters["state"]),
                code=Secret(parameters["code"]) if "code" in parameters else None,
                error=_known_error(parameters.get("error")),
                browser=self._cookie.read(request),
            )
        except LinkUnusable as exc:
            return self._unusable(request, exc.why)
        if visit.outcome is InstallOutcome.CONNECTED and self._people is not None:
            install = visit.install
            await self._people.connected(install.browser_hash, install.subject, visit.account)
        return self._after(request, visit)

    async def _unannounced(self, request: web.Request, provider: str, browser: Secret) -> str:
        settings = self._settings.get(provider)
        if settings is None or settings.type != "kit":
            raise LinkUnusable("unknown")
        kit_return_url = _kit_return_url(request, settings)
        if self._people and (subject := await self._people.take(self._person.read(request))):
            return await self._service.begin_unannounced(
                provider, kit_return_url=kit_return_url, subject=subject, browser=browser
            )
        if self._login is not None:
            payload = json.dumps({"provider": provider, "kit_return_url": kit_return_url})
            return await self._login.begin(PURPOSE, payload, browser)
        if not settings.open_install:
            raise LinkUnusable("invitation")
        return await self._service.begin_unannounced(
            provider, kit_return_url=kit_return_url, subject=None, browser=browser
        )

    def _after(self, request: web.Request, visit: Visit) -> web.StreamResponse:
        """Kit's `redirect`, the ticket's `return_to`, or a page."""
        install = visit.install
        back = install.kit_return_url
        if back is not None and not kit_return.is_allowed(back):
            back = None
        if visit.outcome in (InstallOutcome.CONNECTED, InstallOutcome.IDENTITY_PENDING) and back is not None:
            return web.Response(status=303, headers={"Location": back, "Referrer-Policy": "no-referrer"})
        if install.return_to is not None:
            url = oauth.with_query(
                install.return_to, {"account": visit.account or "", "status": visit.outcome.told}
            )
            return web.Response(status=303, headers={"Location": url, "Referrer-Policy": "no-referrer"})
        label = LABELS.get(self._settings[install.provider].type, install.provider)
        action = Action(label=f"Back to {label}", url=back) if back else None
        return self._pages.message(visit_page(visit, label, action), request_id=request[REQUEST_ID])

    def _unusable(self, request: web.Request, why: str) -> web.StreamResponse:
        return self._pages.message(unusable_page(why), request_id=request[REQUEST_ID])


def _kit_return_url(request: web.Request, settings: ProviderSettings) -> str:
    """Kit's `redirect` if it may be followed, else the app's page at Kit."""
    _, _, raw_query = request.raw_path.partition("?")
    given = kit_return.from_raw_query(raw_query)
    if given is not None and kit_return.is_allowed(given):
        return given
    return APP_PAGE.format(app_id=settings.app_id) if settings.app_id is not None else APPS_PAGE


def _callback_parameters(request: web.Request) -> dict[str, str]:
    """Raises LinkUnusable where a parameter is missing or repeated (RFC 6749 3.1), or both code and error came."""
    try:
        parameters = oauth.single_parameters(request.rel_url.raw_query_string)
    except ValueError:
        raise LinkUnusable("malformed") from None
    if not parameters.get("state") or ("code" in parameters) == ("error" in parameters):
        raise LinkUnusable("malformed")
    if parameters.get("code") == "" or any(len(value) > 4096 for value in parameters.values()):
        raise LinkUnusable("malformed")
    return parameters


def _known_error(error: str | None) -> str | None:
    """The provider's error word, for the log: one of RFC 6749 4.1.2.1, else `other`; it comes from the browser."""
    return error if error is None or error in AUTHORIZATION_ERRORS else "other"
