"""Plays Kit as the client of the broker's OAuth server for plugins: install, renew, uninstall."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

import aiohttp
from aiohttp import web
from yarl import URL

from broker.config.sandbox import KIT_APP_ID, PLUGIN_CLIENT_ID, PLUGIN_CLIENT_SECRET
from broker.sandbox.stage import Stage, bad_request, refusal

PATIENCE = aiohttp.ClientTimeout(total=10)
TYPES = {"json": "application/json", "form": "application/x-www-form-urlencoded"}
HOME = frozenset({"127.0.0.1", "localhost", "::1"})
REQUIRED = ("access_token", "refresh_token", "created_at", "expires_in")
WORDS = {"body": ("json", "form"), "content_type": ("json", "form")}
ADD = """
INSERT INTO plugin_connections (access, refresh, scope, created_at, expires_at, status)
    VALUES (?, ?, ?, ?, ?, 'connected')"""
RENEWED = "UPDATE plugin_connections SET access = ?, refresh = ?, created_at = ?, expires_at = ? WHERE id = ?"
CONNECTION = "SELECT * FROM plugin_connections WHERE id = ?"


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back."""

    status: int
    document: Mapping[str, Any]
    complaint: str | None
    """What Kit would stumble over; None where all is well."""


async def ask(url: str, parameters: Mapping[str, str], *, body: str, content_type: str) -> Heard:
    """One POST. `body` and `content_type` are `json` or `form`, and need not agree: Kit's samples do not."""
    if URL(url).host not in HOME:
        return Heard(0, {}, f"{url} is not on this machine")
    data = json.dumps(parameters) if body == "json" else urlencode(parameters)
    headers = {"Content-Type": TYPES[content_type], "Accept": "application/json"}
    try:
        async with (
            aiohttp.ClientSession(timeout=PATIENCE) as session,
            session.post(url, data=data.encode(), headers=headers, allow_redirects=False) as answer,
        ):
            return _read(answer.status, answer.headers, await answer.read())
    except (aiohttp.ClientError, TimeoutError) as error:
        return Heard(0, {}, f"no answer ({type(error).__name__})")


async def metadata(base: str) -> Mapping[str, Any] | None:
    """What the server says of itself (RFC 8414); None where it is none."""
    url = f"{base}/.well-known/oauth-authorization-server"
    if URL(url).host not in HOME:
        return None
    try:
        async with (
            aiohttp.ClientSession(timeout=PATIENCE) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            return _read(answer.status, answer.headers, await answer.read()).document or None
    except (aiohttp.ClientError, TimeoutError):
        return None


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


def _read(status: int, headers: Mapping[str, str], raw: bytes) -> Heard:
    if "no-store" not in headers.get("Cache-Control", ""):
        return Heard(status, {}, "the answer may be cached")
    if headers.get("Content-Type", "").partition(";")[0] != "application/json":
        return Heard(status, {}, "the answer is not application/json")
    try:
        document = json.loads(raw)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return Heard(status, {}, "the answer is no JSON object")
    return Heard(status, document, None)


@dataclass(frozen=True, slots=True)
class PluginSetup:
    """What stands on the app's page at Kit under “Authentication”, and how Kit talks."""

    enabled: bool | None = None
    """None: where the broker has an OAuth server."""
    authorization_url: str = ""
    """As the other three: empty stands for the broker's own."""
    token_url: str = ""
    refresh_url: str = ""
    revoke_url: str = ""
    client_id: str = PLUGIN_CLIENT_ID
    client_secret: str = PLUGIN_CLIENT_SECRET
    scope: str = ""
    """Not asked for where it is empty."""
    send_state: bool = True
    body: str = "json"
    content_type: str = "form"
    """Other than the body, as Kit's samples are."""


class PluginClient:
    """Kit's half of an install with a plugin, and `/_sandbox/plugin`."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._setup = PluginSetup()

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
        app_id = request.match_info["id"]
        app_id = app_id if app_id.isdecimal() else str(KIT_APP_ID)
        has_plugin = self._setup.enabled
        if has_plugin is None:
            has_plugin = await metadata(self._stage.broker_public_url) is not None
        if not has_plugin:
            return self._api_half(request, app_id)
        state = secrets.token_urlsafe(16)
        self._stage.store.write("INSERT INTO plugin_trips VALUES (?, ?)", state, app_id)
        asked = {
            "client_id": self._setup.client_id,
            "response_type": "code",
            "redirect_uri": f"{_own(request)}/kit/apps/install",
            **({"state": state} if self._setup.send_state else {}),
            **({"scope": self._setup.scope} if self._setup.scope else {}),
        }
        return _to(str(URL(self._url("authorization_url", "authorize")).update_query(asked)))

    async def back(self, request: web.Request) -> web.Response:
        """The person is back with a code; Kit redeems it, and goes on with the API."""
        query = request.query
        trip = self._stage.store.row("SELECT * FROM plugin_trips WHERE state = ?", query.get("state", ""))
        if self._setup.send_state and trip is None:
            return self._refuse("back", "the state is not the one that was sent")
        if "error" in query or not query.get("code"):
            return self._refuse("back", f"no code: {query.get('error', 'and no error either')}")
        heard = await self._ask(
            "token_url",
            "token",
            {
                "client_id": self._setup.client_id,
                "client_secret": self._setup.client_secret,
                "grant_type": "authorization_code",
                "code": query["code"],
                # Another than before, as in Kit's documents.
                "redirect_uri": f"{_own(request)}/kit/apps",
            },
        )
        complaint = token_complaint(heard)
        self._note("token", heard.status, complaint)
        if complaint is not None:
            return self._refuse("install", complaint)
        self._stage.store.write(
            ADD, *_pair(heard.document), heard.document.get("scope"), *_times(heard.document)
        )
        return self._api_half(request, trip["app_id"] if trip is not None else str(KIT_APP_ID))

    async def refresh(self, request: web.Request) -> web.Response:
        """Kit renews, without a secret; `{"lose_answer": true}`: and forgets what it heard."""
        connection, asked = self._connection(request), await _object(request)
        heard = await self._ask(
            "refresh_url",
            "refresh",
            {
                "client_id": self._setup.client_id,
                "grant_type": "refresh_token",
                "refresh_token": connection["refresh"],
            },
        )
        complaint = token_complaint(heard)
        self._note("refresh", heard.status, complaint)
        if complaint is None and not asked.get("lose_answer"):
            self._stage.store.write(
                RENEWED, *_pair(heard.document), *_times(heard.document), connection["id"]
            )
        return web.json_response({"status": heard.status, "complaint": complaint})

    async def uninstall(self, request: web.Request) -> web.Response:
        """The creator uninstalls: Kit revokes its access token, with the secret."""
        connection = self._connection(request)
        heard = await self._ask(
            "revoke_url",
            "revoke",
            {
                "client_id": self._setup.client_id,
                "client_secret": self._setup.client_secret,
                "token": connection["access"],
            },
        )
        complaint = heard.complaint or (None if heard.status == 200 else f"status {heard.status}")
        self._note("revoke", heard.status, complaint)
        self._stage.store.write(
            "UPDATE plugin_connections SET status = 'uninstalled' WHERE id = ?", connection["id"]
        )
        return web.json_response({"status": heard.status, "complaint": complaint})

    async def show(self, _request: web.Request) -> web.Response:
        """The setup, the connections and every step; no token in it."""
        connections = self._stage.store.rows("SELECT * FROM plugin_connections ORDER BY id")
        steps = self._stage.store.rows("SELECT step, status, complaint FROM plugin_steps ORDER BY n")
        return web.json_response(
            {
                "setup": asdict(self._setup),
                "connections": [_shown(row) for row in connections],
                "steps": [dict(row) for row in steps],
            }
        )

    async def change(self, request: web.Request) -> web.Response:
        """Change the setup: `{"body": "form", …}`; null puts a member back."""
        asked = await _object(request)
        self._setup = _changed(self._setup, asked)
        return await self.show(request)

    async def held(self, request: web.Request) -> web.Response:
        """The tokens that Kit holds, for trying out an app's own endpoints."""
        connection = self._connection(request)
        return web.json_response(
            {"access_token": connection["access"], "refresh_token": connection["refresh"]}
        )

    async def _ask(self, setting: str, path: str, parameters: Mapping[str, str]) -> Heard:
        setup = self._setup
        return await ask(
            self._url(setting, path), parameters, body=setup.body, content_type=setup.content_type
        )

    def _url(self, setting: str, path: str) -> str:
        return str(getattr(self._setup, setting) or f"{self._stage.broker_public_url}/plugin/{path}")

    def _api_half(self, request: web.Request, app_id: str) -> web.Response:
        """Kit's own link holds the redirect unencoded, with its nested question mark."""
        back = f"{_own(request)}/kit/apps/{app_id}?success=true"
        return _to(f"{self._stage.broker_public_url}/install/kit?redirect={back}")

    def _refuse(self, step: str, complaint: str) -> web.Response:
        self._note(step, 0, complaint)
        return refusal("Kit", f"The app was not installed: {complaint}.")

    def _note(self, step: str, status: int, complaint: str | None) -> None:
        self._stage.store.write(
            "INSERT INTO plugin_steps (step, status, complaint) VALUES (?, ?, ?)", step, status, complaint
        )

    def _connection(self, request: web.Request) -> Any:
        row = self._stage.store.row(CONNECTION, request.match_info["connection"])
        if row is None:
            raise bad_request("there is no such connection; GET /_sandbox/plugin lists them")
        return row


def _to(location: str) -> web.Response:
    return web.Response(status=302, headers={"Location": location, "Cache-Control": "no-store"})


def _own(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


def _pair(document: Mapping[str, Any]) -> tuple[str, str]:
    return document["access_token"], document["refresh_token"]


def _times(document: Mapping[str, Any]) -> tuple[int, int]:
    return document["created_at"], document["created_at"] + document["expires_in"]


def _shown(row: Any) -> dict[str, Any]:
    tokens = {f"{name}_sha256": sha256(row[name].encode()).hexdigest() for name in ("access", "refresh")}
    return {name: row[name] for name in ("id", "scope", "created_at", "expires_at", "status")} | tokens


def _changed(setup: PluginSetup, asked: Mapping[str, Any]) -> PluginSetup:
    usual: dict[str, Any] = {spec.name: spec.default for spec in fields(PluginSetup)}
    for name, value in asked.items():
        if name not in usual:
            raise bad_request(f"{name}: no such member; there are {', '.join(usual)}")
        wanted = bool if name in ("enabled", "send_state") else str
        if value is not None and not isinstance(value, wanted):
            raise bad_request(f"{name}: {wanted.__name__} is needed")
        if value is not None and name in WORDS and value not in WORDS[name]:
            raise bad_request(f"{name}: one of {', '.join(WORDS[name])} is needed")
    given: dict[str, Any] = {name: usual[name] if value is None else value for name, value in asked.items()}
    return replace(setup, **given)


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        document = json.loads(await request.read() or b"{}")
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise bad_request("the body is not a JSON object")
    return document
