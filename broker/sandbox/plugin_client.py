"""The stand-in for Kit as the client of the broker's OAuth server for plugins: install, renew, uninstall."""

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
from broker.config.values import is_loopback
from broker.sandbox.context import SandboxContext, bad_request, json_object, refusal, to
from broker.sandbox.issued import fingerprint

PATIENCE = aiohttp.ClientTimeout(total=10)
TYPES = {"json": "application/json", "form": "application/x-www-form-urlencoded"}
REQUIRED = ("access_token", "refresh_token", "created_at", "expires_in")
DEFAULT_SETUP: Mapping[str, bool | str | None] = {
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
"""The settings of the app at Kit, and the form of Kit's requests.

`enabled`: None means yes if the broker has an OAuth server. An empty URL means the broker's own. An empty scope is
left out. `body` and `content_type` are json or form, and differ as in Kit's samples.
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer of the broker's OAuth server."""

    status: int
    document: Mapping[str, Any]
    complaint: str | None
    """The reason why Kit would not accept the answer; None if Kit would accept it."""


async def ask(url: str, parameters: Mapping[str, str], *, body: str, content_type: str) -> Heard:
    """POST once. `body` and `content_type` are `json` or `form` and need not agree: in Kit's samples they do not."""
    data = json.dumps(parameters) if body == "json" else urlencode(parameters)
    headers = {"Content-Type": TYPES[content_type], "Accept": "application/json"}
    return await _fetch("POST", url, data=data.encode(), headers=headers)


async def metadata(base: str) -> Mapping[str, Any] | None:
    """Return the server's metadata (RFC 8414), or None if there is no OAuth server."""
    return (await _fetch("GET", f"{base}/.well-known/oauth-authorization-server")).document or None


async def _fetch(method: str, url: str, **sent: Any) -> Heard:
    if not is_loopback(URL(url).host):
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
    """Return what Kit would not accept in a token answer (developers.kit.com, "OAuth authorization"), or None."""
    if heard.complaint is not None:
        return heard.complaint
    document = heard.document
    if heard.status != 200:
        return f"status {heard.status}: {document.get('error', 'no error given')}"
    missing = [name for name in REQUIRED if name not in document]
    if missing:
        return f"missing: {', '.join(missing)}"
    for name in ("created_at", "expires_in"):
        value = document[name]
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            return f"{name} is no positive integer"
    for name in ("access_token", "refresh_token"):
        if not isinstance(document[name], str) or not document[name]:
            return f"{name} is no string"
    return None if document.get("token_type") == "Bearer" else "token_type is not Bearer"


class PluginClient:
    """Kit's side of an install with a plugin, and the handlers of `/_sandbox/plugin`."""

    def __init__(self, context: SandboxContext) -> None:
        self._context, self._store = context, context.store
        self._setup: dict[str, Any] = dict(DEFAULT_SETUP)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/kit/apps/{id}/start", self.start),
            web.get("/kit/apps/install", self.back),
            web.get("/kit/apps", self.back),
            web.get("/_sandbox/plugin", self.show),
            web.post("/_sandbox/plugin", self.change),
            web.get("/_sandbox/plugin/{connection}", self.tokens),
            web.post("/_sandbox/plugin/{connection}/refresh", self.refresh),
            web.post("/_sandbox/plugin/{connection}/uninstall", self.uninstall),
        ]

    async def start(self, request: web.Request) -> web.Response:
        """Handle a click on Install: connect the plugin first, then the API, in the order of Kit's documentation."""
        app_id, setup = request.match_info["id"], self._setup
        app_id = app_id if app_id.isdecimal() else str(KIT_APP_ID)
        has_plugin = setup["enabled"]
        if has_plugin is None:
            has_plugin = await metadata(self._context.broker_public_url) is not None
        if not has_plugin:
            return self._connect_api(request, app_id)
        state = secrets.token_urlsafe(16)
        self._store.insert("plugin_trips", state=state, app_id=app_id)
        asked = {
            "client_id": setup["client_id"],
            "response_type": "code",
            "redirect_uri": f"{request.scheme}://{request.host}/kit/apps/install",
            **({"state": state} if setup["send_state"] else {}),
            **({"scope": setup["scope"]} if setup["scope"] else {}),
        }
        return to(str(URL(self._url("authorization_url", "authorize")).update_query(asked)))

    async def back(self, request: web.Request) -> web.Response:
        """Handle the user's return with a code: redeem it, and go on with the API."""
        query = request.query
        begun = self._store.row("SELECT * FROM plugin_trips WHERE state = ?", query.get("state", ""))
        if self._setup["send_state"] and begun is None:
            return self._refuse("back", "the state is not the one that was sent")
        if "error" in query or not query.get("code"):
            return self._refuse("back", f"no code: {query.get('error', 'and no error either')}")
        heard = await self._ask(
            "token",
            client_secret=self._setup["client_secret"],
            grant_type="authorization_code",
            code=query["code"],
            # It differs from the one before, as in Kit's documents.
            redirect_uri=f"{request.scheme}://{request.host}/kit/apps",
        )
        complaint = token_complaint(heard)
        self._note("token", heard.status, complaint)
        if complaint is not None:
            return self._refuse("install", complaint)
        scope = heard.document.get("scope")
        self._store.insert("plugin_connections", **_columns(heard.document), scope=scope, status="connected")
        return self._connect_api(request, begun["app_id"] if begun is not None else str(KIT_APP_ID))

    async def refresh(self, request: web.Request) -> web.Response:
        """Renew as Kit does, without a secret. With `{"lose_answer": true}` the answer is not stored."""
        connection, asked = self._connection(request), await json_object(request)
        heard = await self._ask("refresh", grant_type="refresh_token", refresh_token=connection["refresh"])
        complaint = token_complaint(heard)
        if complaint is None and not asked.get("lose_answer"):
            new = _columns(heard.document)
            assignments = ", ".join(f"{name} = ?" for name in new)
            sql = f"UPDATE plugin_connections SET {assignments} WHERE id = ?"  # noqa: S608 - our own columns
            self._store.write(sql, *new.values(), connection["id"])
        return self._note("refresh", heard.status, complaint)

    async def uninstall(self, request: web.Request) -> web.Response:
        """Uninstall as Kit does: revoke the access token, with the secret."""
        connection, secret = self._connection(request), self._setup["client_secret"]
        heard = await self._ask("revoke", client_secret=secret, token=connection["access"])
        complaint = heard.complaint or (None if heard.status == 200 else f"status {heard.status}")
        self._store.write(
            "UPDATE plugin_connections SET status = 'uninstalled' WHERE id = ?", connection["id"]
        )
        return self._note("revoke", heard.status, complaint)

    async def show(self, _request: web.Request) -> web.Response:
        """Answer with the setup, the connections and every step, without tokens."""
        connections = []
        for row in map(dict, self._store.rows("SELECT * FROM plugin_connections ORDER BY id")):
            prints = {f"{name}_sha256": fingerprint(row.pop(name)) for name in ("access", "refresh")}
            connections.append(row | prints)
        steps = map(dict, self._store.rows("SELECT step, status, complaint FROM plugin_steps ORDER BY n"))
        return web.json_response({"setup": self._setup, "connections": connections, "steps": list(steps)})

    async def change(self, request: web.Request) -> web.Response:
        """Change the setup: `{"body": "form", …}`; null puts a member back to its default."""
        asked = await json_object(request)
        for name, value in asked.items():
            if name not in DEFAULT_SETUP:
                raise bad_request(f"{name}: no such member; there are {', '.join(DEFAULT_SETUP)}")
            wanted = bool if name in ("enabled", "send_state") else str
            if value is not None and not isinstance(value, wanted):
                raise bad_request(f"{name}: {wanted.__name__} is needed")
            if value is not None and name in ("body", "content_type") and value not in TYPES:
                raise bad_request(f"{name}: one of {', '.join(TYPES)} is needed")
        self._setup |= {
            name: DEFAULT_SETUP[name] if value is None else value for name, value in asked.items()
        }
        return await self.show(request)

    async def tokens(self, request: web.Request) -> web.Response:
        """Answer with the tokens of a connection, for trying out an app's own endpoints."""
        connection = self._connection(request)
        return web.json_response(
            {"access_token": connection["access"], "refresh_token": connection["refresh"]}
        )

    async def _ask(self, path: str, **parameters: str) -> Heard:
        setup, url = self._setup, self._url(f"{path}_url", path)
        sent = {"client_id": setup["client_id"], **parameters}
        return await ask(url, sent, body=setup["body"], content_type=setup["content_type"])

    def _url(self, setting: str, path: str) -> str:
        return self._setup[setting] or f"{self._context.broker_public_url}/plugin/{path}"

    def _connect_api(self, request: web.Request, app_id: str) -> web.Response:
        """Redirect to the install of the API. Kit's own link holds the redirect unencoded, with its question mark."""
        back = f"{request.scheme}://{request.host}/kit/apps/{app_id}?success=true"
        return to(f"{self._context.broker_public_url}/install/kit?redirect={back}")

    def _refuse(self, step: str, complaint: str) -> web.Response:
        self._note(step, 0, complaint)
        return refusal("Kit", f"The app was not installed: {complaint}.")

    def _note(self, step: str, status: int, complaint: str | None) -> web.Response:
        """Record a step, and answer with how it ended."""
        self._store.insert("plugin_steps", step=step, status=status, complaint=complaint)
        return web.json_response({"status": status, "complaint": complaint})

    def _connection(self, request: web.Request) -> Any:
        connection = request.match_info["connection"]
        row = self._store.row("SELECT * FROM plugin_connections WHERE id = ?", connection)
        if row is None:
            raise bad_request("there is no such connection; GET /_sandbox/plugin lists them")
        return row


def _columns(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Kit stores of a token answer, by column."""
    created_at = document["created_at"]
    return {
        "access": document["access_token"],
        "refresh": document["refresh_token"],
        "created_at": created_at,
        "expires_at": created_at + document["expires_in"],
    }
