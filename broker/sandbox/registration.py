"""Kustomer's app registration: `POST /v1/apps/available` and the two spellings of the way to a secret."""

import json
import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from aiohttp import web

from broker.sandbox.clients import Client
from broker.sandbox.stage import Stage, bearer

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
LATEST = "SELECT * FROM apps WHERE id = ? OR name = ? ORDER BY rowid DESC LIMIT 1"


class AppDirectory:
    """The apps registered at Kustomer; any API key that is not empty may register one."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def routes(self) -> list[web.RouteDef]:
        available = "/kustomer/v1/apps/available"
        return [
            web.post(available, self.register),
            web.get(available, self.registered),
            # With and without the trailing slash, by name or by name-version: the vendor's pages disagree.
            web.post(f"{available}/{{app}}/secret", self.new_secret),
            web.post(f"{available}/{{app}}/secret/", self.new_secret),
        ]

    async def register(self, request: web.Request) -> web.Response:
        """A new version of an app; versions are permanent."""
        key = bearer(request)
        if key is None:
            return _error(401, "unauthorized", "Missing authorization")
        asked = await _json(request)
        if asked is None or not _is_definition(asked):
            return _error(400, "bad_request", "app, version, title or visibility is missing or malformed")
        private = asked["visibility"] == "private"
        name = f"{asked['app']}_{_org_of(key)}" if private else asked["app"]
        app_id = f"{name}-{asked['version']}"
        if self._stage.store.row("SELECT 1 FROM apps WHERE id = ?", app_id) is not None:
            return _error(409, "conflict", f"{app_id} exists; versions are permanent")
        return web.json_response({"data": self._keep(app_id, name, asked)})

    def _keep(self, app_id: str, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        older = self._stage.store.row(LATEST, name, name)
        client_id = secrets.token_hex(12) if older is None else older["client_id"]
        uris = tuple(asked.get("redirectUris", ()))
        attributes = {
            "name": name,
            "auth": {},
            "title": asked["title"],
            "version": asked["version"],
            "visibility": asked["visibility"],
            "redirectUris": list(uris),
            "clientId": client_id,
        }
        data = {"type": "available_app", "id": app_id, "attributes": attributes}
        known = self._stage.clients.find("kustomer", client_id)
        # Until a secret is made, nobody knows one: not a public client, but one that cannot get in.
        client_secrets = known.secrets if known else (secrets.token_urlsafe(32),)
        with self._stage.store.transaction():
            self._stage.store.write(
                "INSERT INTO apps VALUES (?, ?, ?, ?)", app_id, name, client_id, json.dumps(data)
            )
            self._stage.clients.put(Client("kustomer", client_id, client_secrets, uris))
        return data

    async def registered(self, request: web.Request) -> web.Response:
        if bearer(request) is None:
            return _error(401, "unauthorized", "Missing authorization")
        rows = self._stage.store.rows("SELECT document FROM apps ORDER BY rowid")
        return web.json_response({"data": [json.loads(row["document"]) for row in rows]})

    async def new_secret(self, request: web.Request) -> web.Response:
        """A new secret, shown once; the one before stops working."""
        if bearer(request) is None:
            return _error(401, "unauthorized", "Missing authorization")
        app = request.match_info["app"]
        row = self._stage.store.row(LATEST, app, app)
        if row is None:
            return _error(404, "not_found", f"There is no app {app}")
        data = json.loads(row["document"])
        secret = f"sbx-kus-secret-{secrets.token_urlsafe(32)}"
        uris = tuple(data["attributes"]["redirectUris"])
        self._stage.clients.put(Client("kustomer", row["client_id"], (secret,), uris))
        data["attributes"]["clientSecret"] = secret
        return web.json_response({"data": data})


def _org_of(key: str) -> str:
    """The org an API key belongs to."""
    return sha256(b"key " + key.encode()).hexdigest()[:24]


def _is_definition(asked: Mapping[str, Any]) -> bool:
    uris = asked.get("redirectUris", [])
    return (
        isinstance(asked.get("app"), str)
        and NAME.fullmatch(asked["app"]) is not None
        and isinstance(asked.get("version"), str)
        and VERSION.fullmatch(asked["version"]) is not None
        and isinstance(asked.get("title"), str)
        and asked.get("visibility") in ("private", "public")
        and isinstance(uris, list)
        and all(isinstance(uri, str) for uri in uris)
    )


async def _json(request: web.Request) -> Mapping[str, Any] | None:
    try:
        document = json.loads(await request.read())
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message, "meta": {}}]}, status=status)
