"""The routes of the dashboard, on the internal listener. Operators sign in to it; its routes need no caller."""

import re
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from broker.context import Context
from broker.dashboard.service import DashboardService
from broker.dashboard.session import LINK_LIFE, SESSION_LIFE, Session, Sessions
from broker.errors import (
    BrokerError,
    Forbidden,
    InvalidRequest,
    StorageUnavailable,
    UnknownAccount,
)
from broker.http import schema
from broker.http.bodies import rfc3339
from broker.http.edge import BASE, CALLER, REQUEST_ID, answer
from broker.http.operations import Operation, own_shape, read_body
from broker.http.pages import Page, Pages, error_page
from broker.http.streams import EventStream, EventStreams, Tell
from broker.model import Permission, Secret, Status, is_account_name
from broker.store.account_queries import AccountQuery

LOOK_EVERY = 1.0
TICK_EVERY = 15
"""Polls between two messages without news, with which the page updates times such as “in 3 min”."""
MOST_OPEN = 100
SignedIn = Callable[["DashboardRoutes", web.Request, Session], Awaitable[web.StreamResponse]]
Handler = Callable[["DashboardRoutes", web.Request], Awaitable[web.StreamResponse]]
PAGE = schema.answers_page("The page", "200")
SIGNED_OUT = schema.answers_page(
    "An error, or how to sign in", "400", "403", "404", "409", "500", "502", "503"
)
NO_QUERY: schema.Parameters = MappingProxyType({})
OWN_FORM = schema.form(schema.record({"form": {**schema.TEXT, "description": "From the page itself"}}))
NOBODY = "You are not signed in in this browser."
MOST_FIELDS = 8
SEARCH_MOST = 100
SHOWN = 12
"""Characters of a session's id that are shown."""
SESSION_ID = re.compile(rf"[0-9a-f]{{{SHOWN}}}", re.ASCII)
PAGE_LINK = re.compile(r'( (?:href|action)=")/(?!static/)')


def _signed_in(
    method: str,
    path: str,
    summary: str,
    answers: Mapping[str, schema.JSON] = PAGE,
    *,
    query: schema.Parameters = NO_QUERY,
) -> Callable[[SignedIn], Handler]:
    """Declare a page, or with POST a form, for the operator who is signed in; others are told how to sign in."""
    is_form = method == "POST"

    def declare(handler: SignedIn) -> Handler:
        body = OWN_FORM if is_form else None

        @own_shape(method, path, summary, {**answers, **SIGNED_OUT}, query=query, body=body)
        async def page(routes: "DashboardRoutes", request: web.Request) -> web.StreamResponse:
            return await routes.signed_in(handler, request, is_form=is_form)

        return page

    return declare


class DashboardRoutes:
    """The pages at `/` and below `/dashboard/`."""

    def __init__(
        self,
        context: Context,
        service: DashboardService,
        sessions: Sessions,
        *,
        pages: Pages,
        command: str,
    ) -> None:
        self._context, self._service, self._sessions, self._pages = context, service, sessions, pages
        self._origin = context.settings.server.internal_url
        self._command = command
        """The command that prints a sign-in link."""
        self._streams = EventStreams(context.clock, every=LOOK_EVERY, most=MOST_OPEN, most_of_one=MOST_OPEN)
        self.stop = self._streams.stop

    @_signed_in("GET", "/", "Show what is broken, which accounts it concerns and what to do")
    async def start(self, request: web.Request, session: Session) -> web.StreamResponse:
        start = await self._service.start(session.actor, request[REQUEST_ID])
        return self._render(request, session, "start.html", start=start)

    @own_shape(
        "GET",
        "/dashboard/sign-in",
        "Sign in with the link that `broker dashboard` prints",
        {**schema.redirect("To the first page"), **SIGNED_OUT},
        query={"link": ("The secret of the link; it works once", schema.TEXT)},
        has_head=False,
    )
    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """Sign the browser in with a one-time link, and redirect to the first page."""
        response = self._go("/")
        base = await self._sessions.sign_in(Secret(request.query.get("link", "")), response)
        if base is not None:
            response.headers["Location"] = f"{base}/"
            return response
        used = "This link has been used, or is older than a minute."
        return self._signed_out(request, used if "link" in request.query else "You are signed out.")

    @_signed_in(
        "POST",
        "/dashboard/sign-out",
        "End the session in this browser, or all sessions of this operator",
        schema.answers_page("Signed out", "200", "413"),
    )
    async def sign_out(self, request: web.Request, session: Session) -> web.StreamResponse:
        response = self._go("/dashboard/sign-in")
        await self._sessions.sign_out(request, response, session)
        if "everywhere" in await _fields(request):
            for one in await self._sessions.sessions():
                if one.actor.name == session.actor.name:
                    await self._sessions.end(one.id)
        return response

    @_signed_in(
        "GET",
        "/dashboard/accounts",
        "Search the accounts, fifty a page",
        query={
            "status": ("Only accounts with this status", schema.TEXT),
            "provider": ("Only accounts of this provider", schema.TEXT),
            "search": ("A part of a name, label, subject or id", schema.TEXT),
            "removed": ("1: removed accounts that can be restored, instead", schema.TEXT),
            "after": ("Only accounts after this name", schema.TEXT),
        },
    )
    async def accounts(self, request: web.Request, session: Session) -> web.StreamResponse:
        listing = await self._service.accounts(session.actor, _query(request), request[REQUEST_ID])
        return self._render(request, session, "accounts.html", **listing)

    @_signed_in("GET", "/dashboard/accounts/{account}", "Show one account, its history and its callers")
    async def account(self, request: web.Request, session: Session) -> web.StreamResponse:
        name = request.match_info["account"]
        if not is_account_name(name):
            raise UnknownAccount(f"There is no account {name[:64]!r}.")
        shown = await self._service.account(session.actor, name, request[REQUEST_ID])
        return self._render(request, session, "account.html", **shown)

    @_signed_in(
        "POST",
        "/dashboard/accounts/{account}/{action}",
        "Renew, freeze, unfreeze, remove or restore an account, or make a link to reconnect it",
        schema.redirect("To the page that says what was done") | schema.answers_page("Too large", "413"),
    )
    async def act(self, request: web.Request, session: Session) -> web.StreamResponse:
        """Perform an action and redirect to the page that reports it, so that a reload does not repeat the action."""
        name, action = request.match_info["account"], request.match_info["action"]
        done = await self._service.act(session.actor, name, action, request_id=request[REQUEST_ID])
        response = self._go("/dashboard/accounts?removed=1" if done.gone else f"/dashboard/accounts/{name}")
        self._sessions.keep(done, request, session, response)
        return response

    @_signed_in("GET", "/dashboard/providers", "Show the providers, their breakers and pauses")
    async def providers(self, request: web.Request, session: Session) -> web.StreamResponse:
        providers = await self._service.overview.providers(session.actor, request_id=request[REQUEST_ID])
        return self._render(request, session, "providers.html", providers=providers, status_of=Status.stored)

    @_signed_in(
        "POST",
        "/dashboard/providers/{provider}/resume",
        "Close the breaker of a provider",
        schema.redirect("Back to the providers") | schema.answers_page("Too large", "413"),
    )
    async def resume(self, request: web.Request, session: Session) -> web.StreamResponse:
        provider = request.match_info["provider"]
        await self._service.overview.resume(session.actor, provider, request_id=request[REQUEST_ID])
        return self._go("/dashboard/providers")

    @_signed_in("GET", "/dashboard/callers", "Show the callers, their permissions and last use")
    async def callers(self, request: web.Request, session: Session) -> web.StreamResponse:
        callers = await self._service.callers(session.actor, request[REQUEST_ID])
        return self._render(request, session, "callers.html", callers=callers)

    @_signed_in(
        "GET", "/dashboard/keys", "Show the data keys, how much is encrypted with each and what to do"
    )
    async def keys(self, request: web.Request, session: Session) -> web.StreamResponse:
        keys = await self._service.keys(session.actor, request[REQUEST_ID])
        return self._render(request, session, "keys.html", keys=keys)

    @_signed_in("GET", "/dashboard/activity", "Show the last events, the latest first")
    async def activity(self, request: web.Request, session: Session) -> web.StreamResponse:
        recent = await self._service.activity(session.actor, request[REQUEST_ID])
        return self._render(request, session, "activity.html", recent=recent)

    @_signed_in(
        "GET",
        "/dashboard/live",
        "Send an event to the page whenever something has changed",
        schema.answers_text("The stream", "text/event-stream"),
    )
    async def live(self, request: web.Request, session: Session) -> web.StreamResponse:
        """Notify the page's script, which then fetches the whole page again: there is one way to render it."""
        newest, looks = 0, 0

        async def begin() -> tuple[str, Tell]:
            nonlocal newest
            newest = await self._newest(0)
            return "\n", tell

        async def tell(stream: EventStream) -> bool:
            nonlocal newest, looks
            looks += 1
            if looks % TICK_EVERY == 0 and await self._sessions.read(request) is None:
                return False
            seen = await self._newest(newest)
            if seen != newest or looks % TICK_EVERY == 0:
                newest = seen
                await stream.write(f"event: changed\ndata: {newest}\n\n")
            return True

        return await self._streams.follow(request, session.id, begin)

    async def _newest(self, before: int) -> int:
        try:
            last = await self._context.stores.events.last_events(1)
        except StorageUnavailable:
            return before
        return last[-1].id if last else 0

    async def signed_in(
        self, handler: SignedIn, request: web.Request, *, is_form: bool = False
    ) -> web.StreamResponse:
        """Call the handler if an operator is signed in. A form must come from a page of that session."""
        session = await self._sessions.read(request)
        if session is None:
            return self._signed_out(request, NOBODY)
        if is_form:
            if request.headers.get("Origin", self._origin) != self._origin:
                raise Forbidden(
                    f"The form was sent from another address than {self._origin}; open the dashboard there."
                )
            if not self._sessions.is_own_form(session, (await _fields(request)).get("form", "")):
                raise Forbidden("The form is not of this session. Go back, reload the page, and try again.")
        return _below(request.get(BASE, ""), await handler(self, request, session))

    def error(self, error: BrokerError, request: web.Request) -> web.StreamResponse:
        """Render an error as a page, with the navigation if an operator is signed in."""
        session, page = self._sessions.remembered(request), error_page(error)
        if session is not None:
            shown = self._render(request, session, "error.html", status=page.status, page=page)
            return _below(request.get(BASE, ""), shown)
        # Somebody who is not signed in must not learn which pages exist.
        if error.status == 404:
            return self._signed_out(request, NOBODY)
        return self._pages.message(page, request_id=request[REQUEST_ID])

    def _render(
        self, request: web.Request, session: Session, template: str, **values: Any
    ) -> web.StreamResponse:
        done = self._sessions.kept(request, session)
        response = self._pages.render(
            template,
            request_id=request[REQUEST_ID],
            live=True,
            here=request.path,
            actor=session.actor.name,
            form=self._sessions.form_token(session),
            near=self._service.near,
            done=done,
            **values,
        )
        if done is not None:
            self._sessions.forget_kept(request, response)
        return response

    def _go(self, path: str) -> web.Response:
        return web.Response(status=303, headers={"Location": path, **self._pages.security_headers()})

    def _signed_out(self, request: web.Request, why: str) -> web.StreamResponse:
        page = Page(
            title="Sign in from the command line",
            tone="wait",
            lines=(why, f"On the broker's machine, type: {self._command}"),
            hint="`broker dashboard` prints a link that opens this dashboard once, within a minute.",
            status=403,
        )
        return self._pages.message(page, request_id=request[REQUEST_ID])


class LinkRoute:
    """The routes of the admin socket for sign-in links and dashboard sessions."""

    def __init__(self, context: Context, sessions: Sessions) -> None:
        self._context, self._sessions = context, sessions

    @Operation("GET", "/dashboard-sessions", permission=Permission.ADMIN)
    async def sessions(self, request: web.Request) -> web.StreamResponse:
        """List the browsers that are signed in to the dashboard, with the operator and the end of each session."""
        await self._require(request, "dashboard.sessions")
        found = await self._sessions.sessions()
        return answer({"sessions": [_session_json(session) for session in found]})

    @Operation(
        "DELETE",
        "/dashboard-sessions",
        permission=Permission.ADMIN,
        query={"id": ("Only the session with this id", schema.TEXT)},
    )
    async def end(self, request: web.Request) -> web.StreamResponse:
        """Sign all browsers out of the dashboard, or only the one of `id`."""
        id_ = request.query.get("id")
        if id_ is not None and not SESSION_ID.fullmatch(id_):
            raise InvalidRequest("id is that of a session, as GET /dashboard-sessions shows it")
        await self._require(request, "dashboard.sign_out")
        ends = [one.id for one in await self._sessions.sessions() if id_ and one.id.startswith(id_)]
        ended = sum([await self._sessions.end(one) for one in ends]) if id_ else await self._sessions.end()
        return answer({"ended": ended})

    async def _require(self, request: web.Request, action: str) -> None:
        """Permit it even while the audit cannot be written, so that operators can find out why."""
        await self._context.authorizer.require_look(request[CALLER], action, request_id=request[REQUEST_ID])

    @Operation("POST", "/dashboard-links", permission=Permission.ADMIN)
    async def create(self, request: web.Request) -> web.StreamResponse:
        """Make a link that signs one browser in to the dashboard. It works once, within a minute."""
        await self._require(request, "dashboard.link")
        expires_at = rfc3339(self._context.clock.now() + LINK_LIFE)
        link = await self._sessions.new_link(request[CALLER])
        url = f"{self._context.settings.server.internal_url}/dashboard/sign-in?link={link.reveal()}"
        return answer({"url": url, "expires_at": expires_at}, status=201)


def _session_json(session: Session) -> dict[str, str | None]:
    return {
        "id": session.id[:SHOWN],
        "actor": session.actor.name,
        "signed_in_at": rfc3339(session.expires_at - SESSION_LIFE),
        "expires_at": rfc3339(session.expires_at),
    }


def _below(base: str, response: web.StreamResponse) -> web.StreamResponse:
    """Prefix the path of every link to a dashboard page with `base`."""
    if base and response.headers.get("Location", "").startswith("/"):
        response.headers["Location"] = base + response.headers["Location"]
    if base and isinstance(response, web.Response) and response.content_type == "text/html":
        response.text = PAGE_LINK.sub(rf"\1{base}/", response.text or "")
    return response


def _query(request: web.Request) -> AccountQuery:
    """Return the query of the search form; values that the form cannot have sent are dropped."""
    status, search = request.query.get("status", ""), request.query.get("search", "").strip()
    return AccountQuery(
        status=Status.stored(status) if status in set(Status) else None,
        provider=request.query.get("provider") or None,
        search=search[:SEARCH_MOST] or None,
        removed=request.query.get("removed") == "1",
        after=request.query.get("after", ""),
    )


async def _fields(request: web.Request) -> dict[str, str]:
    try:
        pairs = parse_qsl((await read_body(request)).decode(), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise InvalidRequest("the form is malformed") from None
    return dict(pairs)
