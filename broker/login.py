"""The shared parts of the public pages: cookies, limits for unknown users, and the sign-in at the company's app."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from broker import oauth
from broker.callers.jws import VerifyingKey, check_claims, is_signed, load_key, read_unverified
from broker.config.settings import LoginSettings
from broker.context import Context
from broker.errors import Unauthenticated
from broker.http import schema
from broker.http.browser import PERSON, PERSON_LIFE, BrowserCookie, Kept, KeptRequests, is_same_browser
from broker.http.edge import CLIENT, REQUEST_ID
from broker.http.operations import own_shape
from broker.http.pages import Page, Pages, ShownError
from broker.http.peers import UnknownUserLimits, site_of
from broker.model import Secret

PURPOSE = "login"
LIFE = 600.0
ANSWER_LIFE = 300
REQUIRED = ("sub", "aud", "iat", "exp")
PARAMETERS = frozenset({"login_challenge", "login_response", "login_error"})
COOKIES_OFF = Page(
    title="Cookies are off",
    tone="bad",
    lines=("We need one cookie to know that it is still you. It expires within the hour.",),
    hint="Allow cookies for this site, then start again from the link or page where you began.",
    status=400,
)
OTHER_BROWSER = Page(
    title="This began in another browser",
    tone="bad",
    lines=("For safety it ends in the browser it began in.",),
    hint="Start again from the link or page where you began, and stay in that browser.",
    status=400,
)


@dataclass(frozen=True, slots=True)
class Browser:
    """The browser that sent a request: its cookies and address."""

    secret: Secret | None
    """The value of the browser's cookie; None if it has none."""
    cookies: Mapping[str, str] = field(repr=False)
    site: str
    """The network of its address, by which requests are limited."""

    def check(self, stored_hash: str | None = None) -> Secret:
        """Return the browser's secret. Raises ShownError if it has none, or if `stored_hash` is another browser's."""
        if self.secret is None:
            raise ShownError(COOKIES_OFF)
        if stored_hash is not None and not is_same_browser(self.secret, stored_hash):
            raise ShownError(OTHER_BROWSER)
        return self.secret


class Browsers:
    """The cookies, pages and limits that all public routes use."""

    def __init__(self, context: Context) -> None:
        self.public_url = context.settings.server.public_url
        https = self.public_url.startswith("https://")
        self.pages = Pages(sandbox=context.settings.sandbox.enabled, https=https)
        self.cookie = BrowserCookie(https=https)
        self.person = BrowserCookie(https=https, name=PERSON, life=PERSON_LIFE)
        """The cookie of a user who allowed a plugin access minutes ago, for the install that follows."""
        self.kept = KeptRequests(
            keyring=context.keyring, catch_up=context.ring.catch_up, clock=context.steady, https=https
        )
        self.unknown_users = UnknownUserLimits(context.clock)

    def of(self, request: web.Request) -> Browser:
        """Return the browser that sent the request."""
        return Browser(self.cookie.read(request), request.cookies, site_of(request.get(CLIENT)))

    def show(self, request: web.Request, page: Page) -> web.Response:
        """Return the response with the page."""
        return self.pages.message(page, request_id=request[REQUEST_ID])


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A user who has signed in, and the request that the sign-in interrupted."""

    subject: str
    purpose: str
    payload: str


Continue = Callable[[web.Request, SignedIn], Awaitable[web.StreamResponse]]
"""Continues a request once the user has signed in."""


class LoginService:
    """The sign-in at the company's app (`[login]`): a challenge that is valid once, for ten minutes, in one browser."""

    def __init__(self, context: Context, settings: LoginSettings, browsers: Browsers) -> None:
        self._settings, self._store, self._clock = settings, context.stores.installs, context.clock
        self._kept, self._audience = browsers.kept, browsers.public_url
        key = load_key(settings.key_pem)
        self._key = VerifyingKey("EdDSA" if isinstance(key, Ed25519PublicKey) else "ES256", key, None)
        self.purposes: dict[str, Continue] = {}
        """The functions that continue a request, by the purpose that was given to `begin`."""

    def begin(self, purpose: str, payload: str) -> tuple[str, Kept] | None:
        """Return the sign-in URL and the cookie that keeps the request meanwhile, or None if that is too long.

        `payload` comes back with the user. Nothing is stored, because the user is not known yet.
        """
        challenge = oauth.new_secret()
        kept = self._kept.keep(PURPOSE, challenge, [purpose, payload], until=self._clock.now() + LIFE)
        if kept is None:
            return None
        return oauth.with_query(self._settings.url, {"login_challenge": challenge.reveal()}), kept

    @own_shape(
        "GET",
        "/login/complete",
        "Continue after the company's own app has signed the user in",
        {
            **schema.redirect("On to the provider", "302"),
            **schema.redirect("Back to where the user came from"),
            **schema.WRONG,
        },
        query={
            "login_challenge": ("The challenge that the broker sent along", schema.TEXT),
            "login_response": ("A JWT that says who the user is", schema.TEXT),
            "login_error": ("The user declined to sign in", schema.TEXT),
        },
        has_head=False,
    )
    async def returned(self, request: web.Request) -> web.StreamResponse:
        """Continue the request of a user whom the company's app has sent back."""
        try:
            parameters = oauth.known_parameters(request.rel_url.raw_query_string, PARAMETERS)
        except ValueError:
            raise _failed("a parameter is repeated") from None
        challenge = Secret(parameters.get("login_challenge", ""))
        response = None if "login_error" in parameters else parameters.get("login_response", "")
        user = await self.complete(challenge, response, request.cookies)
        return await self.purposes[user.purpose](request, user)

    async def complete(self, challenge: Secret, response: str | None, cookies: Mapping[str, str]) -> SignedIn:
        """Return who has signed in. `response` is the app's JWT, or None if the user did not. Raises ShownError."""
        subject = None if response is None else self._subject_of(response, challenge)
        kept = await self._kept.find(PURPOSE, challenge, cookies)
        if kept is None:
            raise _failed("this sign-in began in another browser, or more than ten minutes ago")
        until, purpose, payload = kept
        if subject is None:
            raise _failed("you did not sign in")
        if not await self._store.claim(oauth.hashed(challenge), until):
            raise _failed("this sign-in was used already")
        return SignedIn(subject, purpose, payload)

    def _subject_of(self, response: str, challenge: Secret) -> str:
        """Return the user that a JWT of the company's app names. Raises ShownError."""
        answer = "the answer of the sign-in page"
        try:
            jwt = read_unverified(response, needs_issuer=False)
        except Unauthenticated:
            raise _failed(f"{answer} is malformed") from None
        if not is_signed(response, self._key, audience=self._audience, required=REQUIRED):
            raise _failed(f"{answer} is not signed by the company's app")
        try:
            check_claims(jwt, audience=self._audience, longest=ANSWER_LIFE, now=self._clock.now())
        except Unauthenticated:
            raise _failed(f"{answer} came too late; check both clocks") from None
        claimed = jwt.claims.get("challenge")
        if not isinstance(claimed, str) or Secret(claimed) != challenge:
            raise _failed(f"{answer} belongs to another sign-in")
        subject = jwt.subject
        if not subject.strip() or len(subject) > 255 or not subject.isprintable():
            raise _failed(f"{answer} does not say who signed in")
        return subject


def _failed(why: str) -> ShownError:
    return ShownError(
        Page(
            title="You are not signed in",
            tone="bad",
            lines=(f"Nothing was connected: {why}.",),
            hint="Start again from the link or page where you began.",
            status=400,
        )
    )
