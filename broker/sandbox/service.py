"""The whole sandbox on one port, and the routes under `/_sandbox` that control it."""

import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from broker.clock import Clock, SystemClock
from broker.config.sandbox import KIT_APP_ID, LOGIN_PRIVATE_SEED
from broker.config.values import TcpListen
from broker.sandbox.context import SandboxContext, bad_request, json_object, page, refusal, to
from broker.sandbox.faults import PROVIDERS, Faults, Provider
from broker.sandbox.kit import Kit
from broker.sandbox.kustomer import Kustomer
from broker.sandbox.plugin_client import PluginClient
from broker.sandbox.store import ASKED, ISSUED, REGISTERED, SandboxStore, client_from_json

SHUTDOWN = 0.5
"""Seconds that a stop waits for requests under way."""
ANSWER_LIFE = 120
NOBODY = "demo-user"
NO_CHALLENGE = ("Your company", "This page needs a login_challenge: start at the broker.")


class Control:
    """The handlers of `/` and `/_sandbox/…`."""

    def __init__(self, context: SandboxContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/", self.index),
            web.get("/_sandbox/faults", self.faults),
            web.post("/_sandbox/faults", self.set_faults),
            web.get("/_sandbox/record", self.record),
            web.post("/_sandbox/revoke", self.revoke),
            web.post("/_sandbox/clients", self.put_client),
            web.post("/_sandbox/reset", self.reset),
        ]

    async def index(self, _request: web.Request) -> web.Response:
        """Show the grants, the last requests and the switches."""
        record = self._context.record.as_json()
        return page(
            "index.html",
            grants=record["grants"][-20:],
            requests=record["requests"][-20:],
            switches=self._context.faults.as_json(),
            app_id=KIT_APP_ID,
            broker=self._context.broker_public_url,
        )

    async def faults(self, _request: web.Request) -> web.Response:
        """Answer with the switches."""
        return web.json_response(self._context.faults.as_json())

    async def set_faults(self, request: web.Request) -> web.Response:
        """Change switches: `{"provider": "kit", "rotation": "S", …}`; null puts a switch back."""
        asked = await json_object(request)
        provider = _provider(asked)
        del asked["provider"]
        try:
            self._context.faults.set(provider, **asked)
        except ValueError as error:
            raise bad_request(str(error)) from error
        return await self.faults(request)

    async def record(self, _request: web.Request) -> web.Response:
        """Answer with the record of requests."""
        return web.json_response(self._context.record.as_json())

    async def revoke(self, request: web.Request) -> web.Response:
        """Revoke grants, as an uninstall does: `{"provider", "external_id"}` or `{"refresh_token"}`."""
        asked = await json_object(request)
        if isinstance(asked.get("refresh_token"), str):
            token = self._context.issued.refresh_token(asked["refresh_token"])
            if token is not None:
                self._context.issued.revoke_grant(token.grant_id)
            return web.json_response({"revoked": 0 if token is None else 1})
        holder = asked.get("external_id")
        if not isinstance(holder, (str, int)):
            raise bad_request("external_id or refresh_token is needed")
        return web.json_response(
            {"revoked": self._context.issued.revoke_all_of(_provider(asked), str(holder))}
        )

    async def put_client(self, request: web.Request) -> web.Response:
        """Register or replace an OAuth app.

        Members: `client_id`, `client_secret` or `client_secrets` (none: public), `redirect_uris`;
        `"removed": true` removes it.
        """
        asked = await json_object(request)
        provider = _provider(asked)
        try:
            client = client_from_json(provider, asked)
        except ValueError as error:
            raise bad_request(str(error)) from error
        if asked.get("removed"):
            self._context.clients.remove(provider, client.client_id)
        else:
            self._context.clients.put(client)
        return web.json_response({"provider": provider, "client_id": client.client_id})

    async def reset(self, request: web.Request) -> web.Response:
        """Put the switches back and empty the record; `{"everything": true}` also deletes all it issued."""
        asked = await json_object(request)
        self._context.faults.reset()
        self._context.store.empty(*ASKED)
        if asked.get("everything"):
            self._context.store.empty(*ISSUED, *REGISTERED)
            self._context.clients.supply()
        return web.json_response(
            {"reset": "everything" if asked.get("everything") else "switches and record"}
        )


def _provider(asked: Mapping[str, Any]) -> Provider:
    for provider in PROVIDERS:
        if asked.get("provider") == provider:
            return provider
    raise bad_request(f"provider: one of {', '.join(PROVIDERS)} is needed")


class CompanyLogin:
    """The sign-in page under `/company/login`, where a user may sign in under any name."""

    def __init__(self, context: SandboxContext) -> None:
        self._context = context
        self._key = Ed25519PrivateKey.from_private_bytes(LOGIN_PRIVATE_SEED)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the sign-in page."""
        return [web.get("/company/login", self.show), web.post("/company/login", self.answer)]

    async def show(self, request: web.Request) -> web.Response:
        """Show the sign-in page."""
        challenge = request.query.get("login_challenge", "")
        return page("login.html", challenge=challenge, who=NOBODY) if challenge else refusal(*NO_CHALLENGE)

    async def answer(self, request: web.Request) -> web.Response:
        """Send the user back to the broker with a signed answer or a refusal."""
        form = await request.post()
        challenge = str(form.get("login_challenge", ""))
        if not challenge:
            return refusal(*NO_CHALLENGE)
        told = {"login_challenge": challenge}
        if form.get("decision") == "refuse":
            told["login_error"] = "access_denied"
        else:
            now = int(self._context.clock.now())
            claims = {
                "sub": str(form.get("login_as") or NOBODY),
                "challenge": challenge,
                "aud": self._context.broker_public_url,
                "iat": now,
                "exp": now + ANSWER_LIFE,
            }
            told["login_response"] = jwt.encode(claims, self._key, algorithm="EdDSA")
        return to(str(URL(f"{self._context.broker_public_url}/login/complete").update_query(told)))


class Sandbox:
    """Kit, Kustomer and the company's own app on one real socket."""

    def __init__(self, *, listen: TcpListen, database: Path, clock: Clock, broker_public_url: str) -> None:
        self.listen = listen
        """The address; after `start` it has the port that was bound."""
        self.faults = Faults()
        self._database, self._clock = database, clock
        self._broker_public_url = broker_public_url.rstrip("/")
        self._store: SandboxStore | None = None
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        """The URL of the sandbox."""
        return f"http://{self.listen}"

    async def start(self) -> None:
        """Open the store and listen. Raises OSError where the port is taken."""
        url = self._broker_public_url
        context = SandboxContext(self._database, faults=self.faults, clock=self._clock, broker_public_url=url)
        self._store = context.store
        app, kustomer = web.Application(), Kustomer(context)
        # The plugin's before Kit's: `/kit/apps/install` is no app's page.
        for party in (Control(context), PluginClient(context), Kit(context), kustomer, CompanyLogin(context)):
            app.add_routes(party.routes())
        app.on_response_prepare.append(kustomer.limit_headers)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self.listen.host, self.listen.port).start()
        except BaseException:
            await self.stop()
            raise
        self.listen = replace(self.listen, port=self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening and close the store; a second call does nothing."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        store, self._store = self._store, None
        if store is not None:
            store.close()


async def run_alone(
    listen: TcpListen, database: Path, broker_public_url: str, *, ready: Callable[[Sandbox], None]
) -> None:
    """Run the sandbox in this process until SIGTERM or SIGINT; `ready` is called once it listens."""
    sandbox = Sandbox(
        listen=listen, database=database, clock=SystemClock(), broker_public_url=broker_public_url
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await sandbox.start()
    try:
        ready(sandbox)
        await stop.wait()
    finally:
        await sandbox.stop()
