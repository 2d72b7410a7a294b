"""`GET /login/complete`, where the company's app sends the browser back."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from broker.login.service import LoginService, SignedIn, SignInFailed
from broker.model import Secret
from broker.oauth import known_parameters
from broker.pages import Page, Pages
from broker.web import REQUEST_ID

Continue = Callable[[web.Request, SignedIn], Awaitable[web.StreamResponse]]
"""What goes on once it is known who is there."""
PARAMETERS = frozenset({"login_challenge", "login_response", "login_error"})


class LoginRoutes:
    """The way back from a sign-in."""

    def __init__(self, *, service: LoginService, pages: Pages, purposes: Mapping[str, Continue]) -> None:
        self._service, self._pages, self._purposes = service, pages, purposes

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/login/complete", self.complete, allow_head=False)]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        try:
            parameters = known_parameters(request.rel_url.raw_query_string, PARAMETERS)
            challenge = Secret(parameters.get("login_challenge", ""))
            refused = "login_error" in parameters
            response = None if refused else parameters.get("login_response", "")
            signed_in = await self._service.complete(challenge, response, request.cookies)
        except (SignInFailed, ValueError) as exc:
            return self._pages.message(_failed(exc), request_id=request[REQUEST_ID])
        return await self._purposes[signed_in.purpose](request, signed_in)


def _failed(exc: Exception) -> Page:
    why = str(exc) if isinstance(exc, SignInFailed) else "a parameter is repeated"
    return Page(
        title="You are not signed in",
        tone="bad",
        lines=(f"Nothing was connected: {why}.",),
        hint="Go back to where you came from and begin again.",
        status=400,
    )
