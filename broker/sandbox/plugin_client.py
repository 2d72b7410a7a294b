"""Plays Kit as the client of the broker's OAuth server for plugins: install, renew, uninstall."""

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from aiohttp import web
from yarl import URL

from broker.config.sandbox import KIT_APP_ID, PLUGIN_CLIENT_ID, PLUGIN_CLIENT_SECRET
from broker.sandbox.issued import fingerprint
from broker.sandbox.stage import Stage, bad_request, json_object, refusal, to

PATIENCE = aiohttp.ClientTimeout(total=10)
TYPES = {"json": "application/json", "form": "application/x-www-form-urlencoded"}
HOME = frozenset({"127.0.0.1", "localhost", "::1"})
REQUIRED = ("access_token", "refresh_token", "created_at", "expires_in")
WORDS = {"body": ("json", "form"), "content_type": ("json", "form")}
TOKENS = "UPDATE plugin_connections SET access = ?, refresh = ?, created_at = ?, expires_at = ? WHERE id = ?"
USUAL: Mapping[str, bool | str | None] = {
    "enabled": None,
    "authorization_url": "",
    "token_url": "",
    "refresh_url": "",
    "revoke_url": "",
    "client_id": PLUGIN_CLIENT_ID,
    "client_secret": PLUGIN_CLIENT_SECRET,
    "scope": "",
    "send_state": True,
    "body": "json",
    "content_type": "form",
}
"""What stands on the app's page at Kit under “Authentication”, and how Kit talks.

`enabled`: None where that depends on whether the broker has an OAuth server. An empty address stands for the broker's
own, an empty scope is not asked for. The content type is another than the body's, as in Kit's samples.
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back."""

    status: int
    document: Mapping[str, Any]
    complaint: str | None
    """What Kit would stumble over; None where all is well."""


async def ask(url: str, parameters: Mapping[str, str], *, body: str, content_type: str) -> Heard:
    """One POST. `body` and `content_type` are `json` or `form`, and need not agree: Kit's samples do not."""
    data = json.dumps(parameters) if body == "json" else urlencode(parameters)
    headers = {"Content-Type": TYPES[content_type], "Accept": "application/json"}
    return await _fetch("POST", url, data=data.encode(), headers=headers)


async def metadata(base: str) -> Mapping[str, Any] | None:
    """What the server says of itself (RFC 8414); None where it is none."""
    return (await _fetch("GET", f"{base}/.well-known/oauth-authorization-server")).document or None


async def _fetch(method: str, url: str, **sent: Any) -> Heard:
    if URL(url).host not in HOME:
        return Heard(0, {}, f"{url} is not on this machine")
    try:
        async with (
            aiohttp.ClientSession(timeout=PATIENCE) as session,
            session.request(method, url, allow_redirects=False, **sent) as answer,
        ):
            status, headers, raw = answer.status, answer.headers, await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return Heard(0, {}, f"no answer ({type(error).__name__})")
    document: Any = None
    with suppress(ValueError):
        document = json.loads(raw)
    complaint = None
    if "no-store" not in headers.get("Cache-Control", ""):
        complaint = "the answer may be cached"
    elif headers.get("Content-Type", "").partition(";")[0] != "application/json":
        complaint = "the answer is not application/json"
    elif not isinstance(document, dict):
        complaint = "the answer is no JSON object"
    return Heard(status, {} if complaint else document, complaint)


def token_complaint(heard: Heard) -> str | None:
    """Kit needs four members, two of them integers (developers.kit.com, "OAuth authorization")."""
    if heard.complaint is not None:
        return heard.complaint
    if heard.status != 200:
        return f"status {heard.status}: {heard.document.get('error', 'no error given')}"
    missing = [name for name in REQUIRED if name not in heard.document]
    if missing:
        return f"missing: {', '.join(missing)}"
    for name in ("created_at", "expires_in"):
        value = heard.document[name]
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            return f"{name} is no positive integer"
    for name in ("access_token", "refresh_token"):
        if not isinstance(heard.document[name], str) or not heard.document[name]:
            return f"{name} is no string"
    return None if heard.document.get("token_type") == "Bearer" else "token_type is not Bearer"


class PluginClient:
    """Kit's half of an install with a plugin, and `/_sandbox/plugin`."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._setup: dict[str, Any] = dict(USUAL)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/kit/apps/{id}/start", self.start),
            web.get("/kit/apps/install", self.back),
            web.get("/kit/apps", self.back),
            web.get("/_sandbox/plugin", self.show),
            web.post("/_sandbox/plugin", self.change),
            web.get("/_sandbox/plugin/{connection}", self.held),
            web.post("/_sandbox/plugin/{connection}/refresh", self.refresh),
            web.post("/_sandbox/plugin/{connection}/uninstall", self.uninstall),
        ]

    async def start(self, request: web.Request) -> web.Response:
        """Install was clicked: the plugin comes first, then the API, as Kit's page on authentication draws it."""
        app_id, setup = request.match_info["id"], self._setup
        app_id = app_id if app_id.isdecimal() else str(KIT_APP_ID)
        has_plugin = setup["enabled"]
        if has_plugin is None:
            has_plugin = await metadata(self._stage.broker_public_url) is not None
        if not has_plugin:
            return self._api_half(request, app_id)
        state = secrets.token_urlsafe(16)
        self._stage.store.write("INSERT INTO plugin_trips VALUES (?, ?)", state, app_id)
        asked = {
            "client_id": setup["client_id"],
            "response_type": "code",
            "redirect_uri": f"{request.scheme}://{request.host}/kit/apps/install",
            **({"state": state} if setup["send_state"] else {}),
            **({"scope": setup["scope"]} if setup["scope"] else {}),
        }
        return to(str(URL(self._url("authorization_url", "authorize")).update_query(asked)))

    async def back(self, request: web.Request) -> web.Response:
        """The person is back with a code; Kit redeems it, and goes on with the API."""
        query = request.query
        trip = self._stage.store.row("SELECT * FROM plugin_trips WHERE state = ?", query.get("state", ""))
        if self._setup["send_state"] and trip is None:
            return self._refuse("back", "the state is not the one that was sent")
        if "error" in query or not query.get("code"):
            return self._refuse("back", f"no code: {query.get('error', 'and no error either')}")
        heard = await self._ask(
            "token_url",
            "token",
            client_secret=self._setup["client_secret"],
            grant_type="authorization_code",
            code=query["code"],
            # Another than before, as in Kit's documents.
            redirect_uri=f"{request.scheme}://{request.host}/kit/apps",
        )
        complaint = token_complaint(heard)
        self._note("token", heard.status, complaint)
        if complaint is not None:
            return self._refuse("install", complaint)
        self._stage.store.insert(
            "plugin_connections",
            **_tokens(heard.document),
            scope=heard.document.get("scope"),
            status="connected",
        )
        return self._api_half(request, trip["app_id"] if trip is not None else str(KIT_APP_ID))

    async def refresh(self, request: web.Request) -> web.Response:
        """Kit renews, without a secret; `{"lose_answer": true}`: and forgets what it heard."""
        connection, asked = self._connection(request), await json_object(request)
        heard = await self._ask(
            "refresh_url", "refresh", grant_type="refresh_token", refresh_token=connection["refresh"]
        )
        complaint = token_complaint(heard)
        self._note("refresh", heard.status, complaint)
        if complaint is None and not asked.get("lose_answer"):
            self._stage.store.write(TOKENS, *_tokens(heard.document).values(), connection["id"])
        return web.json_response({"status": heard.status, "complaint": complaint})

    async def uninstall(self, request: web.Request) -> web.Response:
        """The creator uninstalls: Kit revokes its access token, with the secret."""
        connection, secret = self._connection(request), self._setup["client_secret"]
        heard = await self._ask("revoke_url", "revoke", client_secret=secret, token=connection["access"])
        complaint = heard.complaint or (None if heard.status == 200 else f"status {heard.status}")
        self._note("revoke", heard.status, complaint)
        self._stage.store.write(
            "UPDATE plugin_connections SET status = 'uninstalled' WHERE id = ?", connection["id"]
        )
        return web.json_response({"status": heard.status, "complaint": complaint})

    async def show(self, _request: web.Request) -> web.Response:
        """The setup, the connections and every step; no token in it."""
        connections = []
        for row in map(dict, self._stage.store.rows("SELECT * FROM plugin_connections ORDER BY id")):
            prints = {f"{name}_sha256": fingerprint(row.pop(name)) for name in ("access", "refresh")}
            connections.append(row | prints)
        steps = self._stage.store.rows("SELECT step, status, complaint FROM plugin_steps ORDER BY n")
        return web.json_response(
            {"setup": self._setup, "connections": connections, "steps": [dict(row) for row in steps]}
        )

    async def change(self, request: web.Request) -> web.Response:
        """Change the setup: `{"body": "form", …}`; null puts a member back."""
        asked = await json_object(request)
        for name, value in asked.items():
            if name not in USUAL:
                raise bad_request(f"{name}: no such member; there are {', '.join(USUAL)}")
            wanted = bool if name in ("enabled", "send_state") else str
            if value is not None and not isinstance(value, wanted):
                raise bad_request(f"{name}: {wanted.__name__} is needed")
            if value is not None and name in WORDS and value not in WORDS[name]:
                raise bad_request(f"{name}: one of {', '.join(WORDS[name])} is needed")
        self._setup |= {name: USUAL[name] if value is None else value for name, value in asked.items()}
        return await self.show(request)

    async def held(self, request: web.Request) -> web.Response:
        """The tokens that Kit holds, for trying out an app's own endpoints."""
        connection = self._connection(request)
        return web.json_response(
            {"access_token": connection["access"], "refresh_token": connection["refresh"]}
        )

    async def _ask(self, setting: str, path: str, **parameters: str) -> Heard:
        sent = {"client_id": self._setup["client_id"], **parameters}
        talk = {name: self._setup[name] for name in WORDS}
        return await ask(self._url(setting, path), sent, **talk)

    def _url(self, setting: str, path: str) -> str:
        return self._setup[setting] or f"{self._stage.broker_public_url}/plugin/{path}"

    def _api_half(self, request: web.Request, app_id: str) -> web.Response:
        """Kit's own link holds the redirect unencoded, with its nested question mark."""
        back = f"{request.scheme}://{request.host}/kit/apps/{app_id}?success=true"
        return to(f"{self._stage.broker_public_url}/install/kit?redirect={back}")

    def _refuse(self, step: str, complaint: str) -> web.Response:
        self._note(step, 0, complaint)
        return refusal("Kit", f"The app was not installed: {complaint}.")

    def _note(self, step: str, status: int, complaint: str | None) -> None:
        self._stage.store.insert("plugin_steps", step=step, status=status, complaint=complaint)

    def _connection(self, request: web.Request) -> Any:
        connection = request.match_info["connection"]
        row = self._stage.store.row("SELECT * FROM plugin_connections WHERE id = ?", connection)
        if row is None:
            raise bad_request("there is no such connection; GET /_sandbox/plugin lists them")
        return row


def _tokens(document: Mapping[str, Any]) -> dict[str, Any]:
    """What Kit keeps of a token answer, by column."""
    created_at = document["created_at"]
    return {
        "access": document["access_token"],
        "refresh": document["refresh_token"],
        "created_at": created_at,
        "expires_at": created_at + document["expires_in"],
    }
