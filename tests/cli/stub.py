"""A strict stand-in for the admin socket: refuses what `interface.md` does not know, and remembers what was asked."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from broker.errors import no_provider

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC).timestamp()
KEY = "tbk_0123456789ab_" + "k" * 43
ACCESS_TOKEN = "at_" + "x" * 160
LINK = "http://127.0.0.1:8081/install/kit?ticket=" + "t" * 120
PAGE = 2
KID, NEW_KID = "0123456789abcdef", "fedcba9876543210"


def account(name: str, **members: Any) -> dict[str, Any]:
    """An account as the API shows it."""
    return {
        "account": name,
        "provider": "kit",
        "status": "active",
        "frozen": False,
        "reason": None,
        "since": None,
        "detail": None,
        "what_to_do": None,
        "subject": None,
        "external_id": "12345",
        "label": "Acme Inc.",
        "org": None,
        "scope": "public",
        "generation": 17,
        "provider_expires_at": "2026-11-22T13:30:00Z",
        "expires_at": "2026-11-22T13:30:00Z",
        "refreshed_at": "2026-11-22T09:58:00Z",
        "last_used_at": None,
        "next_renewal_at": "2026-11-22T13:15:00Z",
        "created_at": "2026-11-01T10:00:00Z",
        "removed_at": None,
        "client_id": "client-1",
        **members,
    }


def provider(name: str, **members: Any) -> dict[str, Any]:
    """A provider as the admin socket shows it."""
    return {
        "name": name,
        "type": "kit",
        "client_id": "client-1",
        "token_url": "https://app.kit.com/oauth/token",
        "install_page": "https://app.kit.com/apps/717/install?k_app_id=k_717",
        "breaker": "closed",
        "reason": None,
        "since": None,
        "paused_until": None,
        "what_to_do": None,
        "accounts": {"active": 3},
        **members,
    }


def data_key(kid: str, **members: Any) -> dict[str, Any]:
    """A data key as the admin socket shows it."""
    return {
        "kid": kid,
        "purpose": "data",
        "state": "active",
        "records": 0,
        "where": {},
        "master": "fd0a02c3",
        "created_at": "2026-11-01T10:00:00Z",
        "retired_at": None,
        **members,
    }


def event(number: int, kind: str = "renewed", **members: Any) -> dict[str, Any]:
    """An event as the API shows it."""
    return {
        "id": number,
        "at": "2026-11-22T09:58:00Z",
        "event": kind,
        "account": "acme",
        "provider": "kit",
        "reason": None,
        "what_to_do": None,
        "generation": 17,
        **members,
    }


def caller(name: str, *, accounts: list[str], permissions: list[str]) -> dict[str, Any]:
    key = {
        "id": "0123456789ab",
        "created_at": "2026-11-22T09:00:00Z",
        "expires_at": None,
        "last_used_at": "2026-11-22T09:58:00Z",
    }
    return {
        "name": name,
        "kind": "keys",
        "overridden": False,
        "accounts": accounts,
        "permissions": permissions,
        "keys": [key],
        "last_used_at": key["last_used_at"],
    }


def grant(number: int, **members: Any) -> dict[str, Any]:
    """What a person allowed a client, as the admin socket shows it."""
    return {
        "grant": f"{number:016x}",
        "client": "kit",
        "subject": "user-42",
        "scope": "",
        "account": None,
        "created_at": "2026-11-01T10:00:00Z",
        "last_used_at": "2026-11-22T09:58:00Z",
        "expires_at": "2027-11-22T10:00:00Z",
        **members,
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    what: str
    """Method and path."""
    query: Mapping[str, str]
    body: Any = None


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


@web.middleware
async def problems(request: web.Request, handler: Any) -> web.StreamResponse:
    """Every refusal as application/problem+json, an unknown route too."""
    try:
        response: web.StreamResponse = await handler(request)
    except (Refusal, web.HTTPException) as exc:
        refusal = exc if isinstance(exc, Refusal) else Refusal(404, "not_found", "No such route")
        return web.json_response(
            {
                "type": f"urn:token-broker:error:{refusal.code}",
                "title": "Refused",
                "status": refusal.status,
                "detail": refusal.detail,
                "code": refusal.code,
                "request_id": "0123456789abcdef",
            },
            status=refusal.status,
            content_type="application/problem+json",
        )
    return response


class Stub:
    """What the tests set up, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.accounts: dict[str, dict[str, Any]] = {}
        self.removed: dict[str, dict[str, Any]] = {}
        self.callers: dict[str, dict[str, Any]] = {}
        self.providers: dict[str, dict[str, Any]] = {}
        self.grants: dict[str, dict[str, Any]] = {}
        self.plugin_is_on = True
        self.events: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.reloaded: dict[str, Any] = {"config": "config.toml", "problems": [], "needs_restart": []}
        self.not_started = ""
        """Why the broker does not start, if it does not."""
        self.systemd: dict[str, bytes] = {}
        """What commands of systemd print, by their first two words."""
        self.keys: dict[str, dict[str, Any]] = {KID: data_key(KID)}
        self.sealed, self.walked = 0, 0
        """How many records there are to be sealed anew, and how many of them were looked at."""
        self.unreadable: list[str] = []
        self.store = b""
        """What a backup gives."""
        self.warning: str | None = None
        self.crashes = False
        self.is_copy = True
        self.stopping = asyncio.Event()
        self.goes_on = False
        """Whether the stream of events stays open."""

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    def app(self) -> web.Application:
        app = web.Application(middlewares=[problems])
        app.add_routes(
            [
                web.get("/token/{name}", self.token),
                web.post("/token/{name}/refresh", self.refresh),
                web.get("/accounts", self.find),
                web.get("/accounts/{name}", self.show),
                web.patch("/accounts/{name}", self.rename),
                web.delete("/accounts/{name}", self.remove),
                web.post("/accounts/{name}/freeze", self.freeze),
                web.post("/accounts/{name}/unfreeze", self.freeze),
                web.post("/accounts/{name}/restore", self.restore),
                web.post("/installs", self.install),
                web.get("/callers", self.list_callers),
                web.post("/callers", self.add_caller),
                web.post("/callers/{name}/rotate", self.rotate_caller),
                web.delete("/callers/{name}", self.remove_caller),
                web.get("/providers", self.list_providers),
                web.post("/providers/{name}/resume", self.resume),
                web.post("/plugin/connect-codes", self.connect_code),
                web.get("/plugin/grants", self.list_grants),
                web.delete("/plugin/grants/{name}", self.end_grant),
                web.get("/events", self.list_events),
                web.get("/check", self.check),
                web.post("/adopt", self.adopt),
                web.get("/keys", self.list_keys),
                web.post("/keys", self.new_key),
                web.post("/keys/rewrap", self.rewrap),
                web.delete("/keys/{kid}", self.drop_key),
                web.post("/backup", self.backup),
                web.get("/version", self.version),
                web.post("/reload", self.reload),
            ]
        )
        return app

    async def token(self, request: web.Request) -> web.Response:
        await self._note(request, query={"min_ttl"})
        found = self._account(request)
        if self.crashes:
            raise Refusal(500, "internal", "An error of ours; quote the request id when you report it")
        return web.json_response(self._token(found))

    async def refresh(self, request: web.Request) -> web.Response:
        await self._note(request, body=set())
        found = self._account(request)
        found["generation"] += 1
        return web.json_response(self._token(found))

    async def find(self, request: web.Request) -> web.Response:
        """Two accounts a page, whatever the limit, so that every list of more has pages."""
        query = {"provider", "status", "subject", "expiring_within", "cursor", "limit", "removed"}
        await self._note(request, query=query)
        status = request.query.get("status")
        accounts = self.removed if request.query.get("removed") == "1" else self.accounts
        names = [name for name, one in accounts.items() if status in (None, one["status"])]
        rest = [name for name in sorted(names) if name > request.query.get("cursor", "")]
        page = [accounts[name] for name in rest[:PAGE]]
        cursor = rest[PAGE - 1] if len(rest) > PAGE else None
        return web.json_response({"accounts": page, "next_cursor": cursor})

    async def show(self, request: web.Request) -> web.Response:
        await self._note(request)
        return web.json_response(self._account(request))

    async def rename(self, request: web.Request) -> web.Response:
        body = await self._note(request, body={"name"})
        found = self.accounts.pop(self._account(request)["account"])
        if body["name"] in self.accounts:
            raise Refusal(409, "conflict", "the new name is taken")
        self.accounts[body["name"]] = found = {**found, "account": body["name"]}
        return web.json_response(found)

    async def freeze(self, request: web.Request) -> web.Response:
        await self._note(request)
        found = self._account(request)
        found["frozen"] = request.path.endswith("/freeze")
        found["status"] = "frozen" if found["frozen"] else "active"
        return web.json_response(found)

    async def remove(self, request: web.Request) -> web.Response:
        await self._note(request, query={"purge", "revoke"})
        if not set(request.query.values()) <= {"1"}:
            raise Refusal(400, "invalid_request", "purge and revoke are 1")
        name = self._account(request)["account"]
        self.removed[name] = self.accounts.pop(name)
        return web.Response(status=204)

    async def restore(self, request: web.Request) -> web.Response:
        await self._note(request)
        name = request.match_info["name"]
        if name not in self.removed:
            raise Refusal(404, "unknown_account", f"There is no account {request.match_info['name']!r}.")
        self.accounts[name] = self.removed.pop(name)
        return web.json_response(self.accounts[name])

    async def install(self, request: web.Request) -> web.Response:
        body = await self._note(request, body={"provider", "account", "org", "return_to", "replace"})
        if body["provider"] not in self.providers:
            raise Refusal(400, "invalid_request", no_provider(body["provider"], self.providers))
        link = {"install_url": LINK, "expires_at": "2026-11-22T11:00:00Z"}
        return web.json_response(link, status=201)

    async def list_callers(self, request: web.Request) -> web.Response:
        await self._note(request)
        return web.json_response({"callers": list(self.callers.values())})

    async def add_caller(self, request: web.Request) -> web.Response:
        body = await self._note(request, body={"name", "accounts", "permissions", "expires_in"})
        if body["name"] in self.callers:
            raise Refusal(409, "conflict", f"there is a caller {body['name']} already")
        added = caller(body["name"], accounts=body["accounts"], permissions=body["permissions"])
        self.callers[body["name"]] = added
        return web.json_response({"key": KEY, "caller": added}, status=201)

    async def rotate_caller(self, request: web.Request) -> web.Response:
        await self._note(request, body={"now"})
        return web.json_response({"key": KEY, "caller": self._caller(request)})

    async def remove_caller(self, request: web.Request) -> web.Response:
        await self._note(request)
        del self.callers[self._caller(request)["name"]]
        return web.Response(status=204)

    async def list_providers(self, request: web.Request) -> web.Response:
        await self._note(request)
        return web.json_response({"providers": list(self.providers.values())})

    async def resume(self, request: web.Request) -> web.Response:
        await self._note(request)
        found = self.providers.get(request.match_info["name"])
        if found is None:
            raise Refusal(404, "not_found", no_provider(request.match_info["name"], self.providers))
        found["breaker"] = "closed"
        return web.json_response(found)

    async def connect_code(self, request: web.Request) -> web.Response:
        await self._note(request, body={"subject"})
        self._plugin()
        code = {"connect_code": "ABCD-EFGH-JKMN", "expires_at": "2026-11-22T10:10:00Z"}
        return web.json_response(code, status=201)

    async def list_grants(self, request: web.Request) -> web.Response:
        """Two a page, as accounts."""
        await self._note(request, query={"subject", "cursor", "limit"})
        self._plugin()
        rest = [name for name in sorted(self.grants) if name > request.query.get("cursor", "")]
        cursor = rest[PAGE - 1] if len(rest) > PAGE else None
        page = [self.grants[name] for name in rest[:PAGE]]
        return web.json_response({"grants": page, "next_cursor": cursor})

    async def end_grant(self, request: web.Request) -> web.Response:
        await self._note(request)
        if self.grants.pop(request.match_info["name"], None) is None:
            raise Refusal(
                404, "not_found", "There is no grant 'g', or it has ended; `broker plugin grants` lists them."
            )
        return web.Response(status=204)

    def _plugin(self) -> None:
        if not self.plugin_is_on:
            raise web.HTTPNotFound

    async def list_events(self, request: web.Request) -> web.StreamResponse:
        await self._note(request, query={"after", "limit", "account"})
        after = int(request.query.get("after", "0"))
        found = [one for one in self.events if one["id"] > after]
        if request.headers["Accept"] != "text/event-stream":
            return web.json_response({"events": found})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for one in found:
            await response.write(f": still here\n\nid: {one['id']}\ndata: {json.dumps(one)}\n\n".encode())
        if self.goes_on:
            await self.stopping.wait()
        return response

    async def check(self, request: web.Request) -> web.Response:
        await self._note(request)
        if self.not_started:
            raise Refusal(503, "not_started", self.not_started)
        return web.json_response({"checks": self.checks})

    async def adopt(self, request: web.Request) -> web.Response:
        await self._note(request)
        copied_at = "2026-11-22T07:00:00Z" if self.is_copy else None
        return web.json_response(
            {"adopted": self.is_copy, "accounts": sorted(self.accounts), "copied_at": copied_at}
        )

    async def list_keys(self, request: web.Request) -> web.Response:
        await self._note(request)
        return web.json_response({"keys": list(self.keys.values())})

    async def new_key(self, request: web.Request) -> web.Response:
        await self._note(request)
        for one in self.keys.values():
            one["state"] = "old"
        self.keys[NEW_KID] = data_key(NEW_KID)
        return web.json_response(self.keys[NEW_KID], status=201)

    async def rewrap(self, request: web.Request) -> web.Response:
        """Three records a step."""
        body = await self._note(request, body={"cursor"} if self.walked else set())
        if self.walked and body["cursor"] != f"after {self.walked}":
            raise Refusal(400, "invalid_request", "cursor is what an earlier answer gave")
        looked_at = min(3, self.sealed - self.walked)
        self.walked += looked_at
        more = self.walked < self.sealed
        return web.json_response(
            {
                "looked_at": looked_at,
                "resealed": looked_at,
                "unreadable": [] if more else self.unreadable,
                "cursor": f"after {self.walked}" if more else None,
            }
        )

    async def drop_key(self, request: web.Request) -> web.Response:
        await self._note(request)
        found = self.keys.get(request.match_info["kid"])
        if found is None:
            raise Refusal(404, "not_found", f"There is no key {request.match_info['kid']!r}.")
        if found["records"]:
            raise Refusal(409, "conflict", "7 in accounts.sealed_access are still sealed with it")
        found["state"] = "retired"
        return web.json_response(found)

    async def backup(self, request: web.Request) -> web.Response:
        await self._note(request)
        return web.Response(body=self.store, content_type="application/vnd.sqlite3")

    async def reload(self, request: web.Request) -> web.Response:
        await self._note(request)
        return web.json_response(self.reloaded)

    def run_systemd(self, *words: str) -> bytes | None:
        return self.systemd.get(" ".join(words[:2]))

    async def version(self, request: web.Request) -> web.Response:
        await self._note(request)
        if self.not_started:
            raise Refusal(503, "not_started", self.not_started)
        return web.json_response({"version": "9.9.9", "started_at": "2026-11-22T07:00:00Z"})

    async def _note(
        self, request: web.Request, *, query: set[str] | None = None, body: set[str] | None = None
    ) -> Any:
        """Remember the request; refuse what the route does not know. The body has exactly the members given."""
        text = await request.text()
        read = json.loads(text) if text else None
        self.asked.append(Asked(f"{request.method} {request.path}", dict(request.query), read))
        if request.host != "broker" or not set(request.query) <= (query or set()):
            raise Refusal(400, "invalid_request", "unknown parameter")
        if body is None and read is not None:
            raise Refusal(400, "invalid_request", "no body is expected")
        if body is not None and (not isinstance(read, dict) or set(read) != body):
            raise Refusal(400, "invalid_request", "the body has other members")
        return read

    def _account(self, request: web.Request) -> dict[str, Any]:
        found = self.accounts.get(request.match_info["name"])
        if found is None:
            raise Refusal(404, "unknown_account", f"There is no account {request.match_info['name']!r}.")
        return found

    def _caller(self, request: web.Request) -> dict[str, Any]:
        found = self.callers.get(request.match_info["name"])
        if found is None:
            raise Refusal(404, "not_found", f"There is no caller {request.match_info['name']!r}.")
        return found

    def _token(self, found: Mapping[str, Any]) -> dict[str, Any]:
        token = {
            "account": found["account"],
            "provider": found["provider"],
            "access_token": ACCESS_TOKEN,
            "token_type": "Bearer",
            "scope": "public",
            "expires_in": 11700,
            "expires_at": "2026-11-22T13:15:00Z",
            "provider_expires_at": "2026-11-22T13:30:00Z",
            "generation": found["generation"],
        }
        return token if self.warning is None else {**token, "warning": self.warning}
