"""A person walks an install, against a broker that is just a few lines long."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from broker.config.sandbox import LOGIN_PRIVATE_SEED
from broker.config.values import TcpListen
from broker.sandbox import Sandbox
from broker.sandbox.visitor import LostError, install

from .app import HandClock


class TinyBroker:
    """Sends people to sign in, to Kit or Kustomer, and takes them back; notes what it was told."""

    def __init__(self) -> None:
        self.base = ""
        self.sandbox = ""
        self.seen: list[dict[str, str]] = []
        self.kit_return_url = ""

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/install/{provider}", self.begin),
            web.get("/login/complete", self.signed_in),
            web.get("/callback/{provider}", self.callback),
            web.get("/loop", self.loop),
        ]

    async def begin(self, request: web.Request) -> web.Response:
        _, _, self.kit_return_url = request.query_string.partition("redirect=")
        response = self._found(f"{self.sandbox}/company/login", {"login_challenge": "challenge-1"})
        response.set_cookie("broker_provider", request.match_info["provider"])
        return response

    async def signed_in(self, request: web.Request) -> web.Response:
        self.seen.append(dict(request.query))
        provider = request.cookies["broker_provider"]
        asked = {
            "client_id": f"sandbox-{provider}",
            "response_type": "code",
            "redirect_uri": f"{self.base}/callback/{provider}",
            "state": "s1",
        }
        return self._found(f"{self.sandbox}/{provider}/oauth/authorize", asked)

    async def callback(self, request: web.Request) -> web.Response:
        self.seen.append(dict(request.query))
        if self.kit_return_url:
            return web.Response(status=302, headers={"Location": self.kit_return_url})
        return web.Response(text="<h1>Connected</h1>", content_type="text/html")

    async def loop(self, _request: web.Request) -> web.Response:
        return self._found(f"{self.base}/loop", {})

    def _found(self, url: str, query: dict[str, str]) -> web.Response:
        return web.Response(status=302, headers={"Location": str(URL(url).update_query(query))})


@pytest.fixture
async def broker(clock: HandClock, tmp_path: Path) -> AsyncIterator[TinyBroker]:
    tiny = TinyBroker()
    app = web.Application()
    app.add_routes(tiny.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    tiny.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    sandbox = Sandbox(
        listen=TcpListen("127.0.0.1", 0),
        database=tmp_path / "sandbox.db",
        clock=clock,
        broker_public_url=tiny.base,
    )
    await sandbox.start()
    tiny.sandbox = sandbox.base_url
    yield tiny
    await sandbox.stop()
    await runner.cleanup()


async def test_an_install_is_walked_to_the_brokers_page(broker: TinyBroker) -> None:
    """Through sign-in and consent to the result page, with the cookie kept."""
    visit = await install(f"{broker.base}/install/kit?ticket=t1")

    assert (visit.status, visit.text) == (200, "<h1>Connected</h1>")
    assert visit.final_url.startswith(f"{broker.base}/callback/kit?code=sbx-kit-code-")
    assert broker.seen[-1]["state"] == "s1"


async def test_kustomers_org_is_filled_in(broker: TinyBroker) -> None:
    """The person types another org."""
    visit = await install(f"{broker.base}/install/kustomer", answers={"org": "globex"})

    assert visit.status == 200
    assert broker.seen[-1]["code"].startswith("sbx-kus-code-")


async def test_an_unusable_answer_ends_at_the_providers_page(broker: TinyBroker) -> None:
    """What Kustomer refuses is shown there."""
    visit = await install(f"{broker.base}/install/kustomer", answers={"org": "No Such"})

    assert visit.status == 400
    assert visit.final_url.startswith(broker.sandbox)


async def test_a_person_says_no(broker: TinyBroker) -> None:
    """Deny brings the refusal to the callback."""
    await install(f"{broker.base}/install/kit", decision="deny")

    assert broker.seen[-1]["error"] == "access_denied"


async def test_the_sign_in_is_signed(broker: TinyBroker, clock: HandClock) -> None:
    """The answer is an EdDSA JWT about this person, this challenge and this broker, for two minutes."""
    await install(f"{broker.base}/install/kit", login_as="ada")

    key = Ed25519PrivateKey.from_private_bytes(LOGIN_PRIVATE_SEED).public_key()
    claims = jwt.decode(
        broker.seen[0]["login_response"],
        key,
        algorithms=["EdDSA"],
        audience=broker.base,
        options={"verify_exp": False, "verify_iat": False},
    )
    now = int(clock.now())
    assert {
        "sub": "ada",
        "challenge": "challenge-1",
        "aud": broker.base,
        "iat": now,
        "exp": now + 120,
    } == claims
    assert broker.seen[0]["login_challenge"] == "challenge-1"


async def test_the_visitor_does_not_leave_the_machine(broker: TinyBroker) -> None:
    """Kit's return address is where it ends, as given and not visited."""
    link = f"{broker.base}/install/kit?redirect=https://app.kit.com/apps/717?success=true"

    visit = await install(link)

    assert (visit.final_url, visit.status) == ("https://app.kit.com/apps/717?success=true", 302)


async def test_kits_app_store_is_a_way_in(broker: TinyBroker) -> None:
    """Install at Kit carries the unencoded redirect through to the end."""
    visit = await install(f"{broker.sandbox}/kit/apps/717/install")

    assert visit.final_url == f"{broker.sandbox}/kit/apps/717?success=true"


async def test_a_stranger_is_not_visited(broker: TinyBroker) -> None:
    """An install link of another machine is refused before anything is sent."""
    with pytest.raises(LostError):
        await install("http://broker.example/install/kit")


async def test_a_loop_is_noticed(broker: TinyBroker) -> None:
    """Nobody is sent around forever."""
    with pytest.raises(LostError):
        await install(f"{broker.base}/loop")


async def test_refusing_to_sign_in(broker: TinyBroker) -> None:
    """The button takes the person back with login_error."""
    form = {"login_challenge": "c/2", "decision": "refuse"}

    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{broker.sandbox}/company/login", data=form, allow_redirects=False) as answer,
    ):
        location = URL(answer.headers["Location"])

    assert location.path == "/login/complete"
    assert dict(location.query) == {"login_challenge": "c/2", "login_error": "access_denied"}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_signing_in_needs_a_challenge(broker: TinyBroker, method: str) -> None:
    """Who comes from nowhere is told where to start."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{broker.sandbox}/company/login") as answer,
    ):
        assert answer.status == 400
