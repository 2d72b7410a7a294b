"""Plays the company's own app: the page where people sign in before the broker lets them connect anything."""

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from broker.config.sandbox import LOGIN_PRIVATE_SEED
from broker.sandbox.render import page, refusal
from broker.sandbox.stage import Stage

ANSWER_LIFE = 120
NOBODY = "demo-user"


class Company:
    """The sign-in under `/company/login`; anybody may be anybody."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._key = Ed25519PrivateKey.from_private_bytes(LOGIN_PRIVATE_SEED)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/company/login", self.show), web.post("/company/login", self.answer)]

    async def show(self, request: web.Request) -> web.Response:
        challenge = request.query.get("login_challenge", "")
        if not challenge:
            return refusal("Your company", "This page needs a login_challenge: start at the broker.")
        return page("login.html", challenge=challenge, who=NOBODY)

    async def answer(self, request: web.Request) -> web.Response:
        """Send the person back to the broker with a signed answer, or with a refusal."""
        form = await request.post()
        challenge = str(form.get("login_challenge", ""))
        if not challenge:
            return refusal("Your company", "This page needs a login_challenge: start at the broker.")
        if form.get("decision") == "refuse":
            told = {"login_challenge": challenge, "login_error": "access_denied"}
        else:
            signed = self._signed(str(form.get("login_as") or NOBODY), challenge)
            told = {"login_challenge": challenge, "login_response": signed}
        back = URL(f"{self._stage.broker_public_url}/login/complete").update_query(told)
        return web.Response(status=302, headers={"Location": str(back), "Cache-Control": "no-store"})

    def _signed(self, subject: str, challenge: str) -> str:
        now = int(self._stage.clock.now())
        claims = {
            "sub": subject,
            "challenge": challenge,
            "aud": self._stage.broker_public_url,
            "iat": now,
            "exp": now + ANSWER_LIFE,
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA")
