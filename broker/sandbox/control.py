"""The sandbox's own doors: what it is, its switches, its record, and what one may do to it."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from broker.config.sandbox import KIT_APP_ID
from broker.sandbox.clients import client_from_json
from broker.sandbox.faults import PROVIDERS, Provider, SwitchError
from broker.sandbox.render import page
from broker.sandbox.stage import Stage
from broker.sandbox.store import ASKED, ISSUED, REGISTERED


class Control:
    """`/` and `/_sandbox/…`."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def routes(self) -> list[web.RouteDef]:
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
        record = self._stage.record.as_json(self._stage.clock.now())
        return page(
            "index.html",
            grants=record["grants"][-20:],
            requests=record["requests"][-20:],
            switches=self._stage.faults.as_json(),
            app_id=KIT_APP_ID,
            broker=self._stage.broker_public_url,
        )

    async def faults(self, _request: web.Request) -> web.Response:
        return web.json_response(self._stage.faults.as_json())

    async def set_faults(self, request: web.Request) -> web.Response:
        """Change switches: `{"provider": "kit", "rotation": "S", …}`; null puts one back."""
        asked = await _object(request)
        try:
            self._stage.faults.apply(str(asked.pop("provider", "")), asked)
        except SwitchError as error:
            raise _bad(str(error)) from error
        return await self.faults(request)

    async def record(self, _request: web.Request) -> web.Response:
        return web.json_response(self._stage.record.as_json(self._stage.clock.now()))

    async def revoke(self, request: web.Request) -> web.Response:
        """A person uninstalls: `{"provider", "external_id"}` or `{"refresh_token"}`."""
        asked = await _object(request)
        if isinstance(asked.get("refresh_token"), str):
            return web.json_response({"revoked": self._revoke_token(asked["refresh_token"])})
        holder = asked.get("external_id")
        if not isinstance(holder, (str, int)):
            raise _bad("external_id or refresh_token is needed")
        return web.json_response({"revoked": self._stage.issued.revoke_all_of(_provider(asked), str(holder))})

    def _revoke_token(self, refresh_token: str) -> int:
        token = self._stage.issued.refresh_token(refresh_token)
        if token is None:
            return 0
        self._stage.issued.revoke_grant(token.grant_id)
        return 1

    async def put_client(self, request: web.Request) -> web.Response:
        """Register or replace an OAuth app.

        Members: `client_id`, `client_secret` or `client_secrets` (none: public), `redirect_uris`;
        `"removed": true` takes it away.
        """
        asked = await _object(request)
        provider = _provider(asked)
        try:
            client = client_from_json(provider, asked)
        except ValueError as error:
            raise _bad(str(error)) from error
        if asked.get("removed"):
            self._stage.clients.remove(provider, client.client_id)
        else:
            self._stage.clients.put(client)
        return web.json_response({"provider": provider, "client_id": client.client_id})

    async def reset(self, request: web.Request) -> web.Response:
        """Put the switches back and empty the record; `{"everything": true}` forgets all it issued too."""
        asked = await _object(request)
        self._stage.faults.reset()
        self._stage.store.empty(*ASKED)
        if asked.get("everything"):
            self._stage.store.empty(*ISSUED, *REGISTERED)
            self._stage.clients.supply()
        return web.json_response(
            {"reset": "everything" if asked.get("everything") else "switches and record"}
        )


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        document = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise _bad("the body is not JSON") from error
    if not isinstance(document, dict):
        raise _bad("the body is not a JSON object")
    return document


def _provider(asked: Mapping[str, Any]) -> Provider:
    for provider in PROVIDERS:
        if asked.get("provider") == provider:
            return provider
    raise _bad(f"provider: one of {', '.join(PROVIDERS)} is needed")


def _bad(message: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=json.dumps({"error": message}), content_type="application/json")
