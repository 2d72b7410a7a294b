"""What every party the sandbox plays shares: its store, its switches, its record, its clock and its pages."""

import json
from pathlib import Path
from typing import Any

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from broker.clock import Clock
from broker.sandbox.faults import Faults, Provider
from broker.sandbox.issued import REFRESH_ROWS, Issued, is_live, to_refresh_token
from broker.sandbox.store import Clients, SandboxStore

BESIDE = "SELECT n FROM requests WHERE kind = 'refresh' AND token_sha256 = ? AND ended IS NULL"
HANDLED = """
UPDATE requests SET outcome = ?, grant_id = COALESCE(?, grant_id),
       issued_refresh_sha256 = ?, issued_access_sha256 = ? WHERE n = ?"""
END = "UPDATE requests SET ended = ?, outcome = COALESCE(outcome, 'interrupted') WHERE ended IS NULL"
ROTATIONS = "SELECT COUNT(*) FROM refresh_tokens WHERE grant_id = ? AND parent IS NOT NULL"
CURRENT = "SELECT sha256 FROM refresh_tokens WHERE grant_id = ? ORDER BY n DESC LIMIT 1"
PAGE_HEADERS = {
    # No form-action: browsers apply it to the redirect that follows, and that leads to the broker.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, undefined=StrictUndefined
)


class Record:
    """Each write commits alone or with the rotation it describes, so a killed sandbox still knows."""

    def __init__(self, store: SandboxStore, *, faults: Faults, clock: Clock) -> None:
        self._store, self._faults, self._clock = store, faults, clock

    def close_interrupted(self) -> None:
        """End what a former process left open: its connections died with it."""
        self._store.write(END, self._clock.now())

    def begin(self, provider: Provider, kind: str, token_sha256: str | None) -> int:
        """A token request has come. Returns its number."""
        with self._store.transaction():
            beside = [row["n"] for row in self._store.rows(BESIDE, token_sha256)] if kind == "refresh" else []
            request = {"provider": provider, "kind": kind, "token_sha256": token_sha256}
            begun = {"started": self._clock.now(), "beside": json.dumps(beside)}
            return self._store.insert("requests", **request, **begun)

    def handled(
        self,
        n: int,
        outcome: str,
        *,
        grant_id: int | None = None,
        issued_refresh: str | None = None,
        issued_access: str | None = None,
    ) -> None:
        """What was decided; the caller's transaction covers it together with the rotation."""
        self._store.write(HANDLED, outcome, grant_id, issued_refresh, issued_access, n)

    def end(self, n: int) -> None:
        """The last of the answer is about to leave: who has it may ask again at once and overlaps nothing."""
        self._store.write(END + " AND n = ?", self._clock.now(), n)

    def answered(self, n: int) -> None:
        self._store.write("UPDATE requests SET answered = 1 WHERE n = ?", n)

    def used(self, provider: Provider, access_sha256: str, status: int) -> None:
        use = {"provider": provider, "access_sha256": access_sha256, "status": status}
        self._store.insert("resource_uses", **use, at=self._clock.now())

    def as_json(self) -> dict[str, Any]:
        requests = [
            {**row, "answered": bool(row["answered"]), "beside": json.loads(row["beside"])}
            for row in self._store.rows("SELECT * FROM requests ORDER BY n")
        ]
        return {
            "grants": [self._grant(row) for row in self._store.rows("SELECT * FROM grants ORDER BY id")],
            "requests": requests,
            "max_outstanding_per_token": max(
                (1 + len(one["beside"]) for one in requests if one["kind"] == "refresh"), default=0
            ),
            "overlaps": [request for request in requests if request["beside"]],
            "resource_uses": [
                {name: row[name] for name in ("provider", "access_sha256", "at", "status")}
                for row in self._store.rows("SELECT * FROM resource_uses ORDER BY n")
            ],
        }

    def _grant(self, row: Any) -> dict[str, Any]:
        current = self._store.row(CURRENT, row["id"])
        switches = self._faults.switches(row["provider"])
        tokens = self._store.rows(REFRESH_ROWS + " WHERE t.grant_id = ?", row["id"])
        return {
            "provider": row["provider"],
            "external_id": row["external_id"],
            "org": row["org"],
            "client_id": row["client_id"],
            "grant_id": row["id"],
            "revoked": bool(row["revoked"]),
            "current_refresh_token_sha256": None if current is None else current["sha256"],
            "live": any(is_live(to_refresh_token(token), switches, self._clock.now()) for token in tokens),
            "rotations": self._store.row(ROTATIONS, row["id"])[0],
        }


def page(template: str, *, status: int = 200, **values: object) -> web.Response:
    text = _PAGES.get_template(template).render(**values)
    return web.Response(status=status, text=text, content_type="text/html", headers=PAGE_HEADERS)


def refusal(who: str, message: str, *, status: int = 400) -> web.Response:
    """A page for the person, where redirecting would be wrong."""
    return page("refusal.html", status=status, who=who, message=message)


class Stage:
    """What all parties of one sandbox share; raises OSError where the file is no database of the sandbox."""

    def __init__(self, database: Path, *, faults: Faults, clock: Clock, broker_public_url: str) -> None:
        self.faults, self.clock, self.broker_public_url = faults, clock, broker_public_url
        self.store = SandboxStore(database)
        self.clients = Clients(store=self.store, broker_public_url=broker_public_url)
        self.issued = Issued(self.store)
        self.record = Record(self.store, faults=faults, clock=clock)
        self.clients.supply()
        self.record.close_interrupted()


def bearer(request: web.Request) -> str | None:
    """The token of the Authorization header (RFC 6750, 2.1)."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def to(location: str) -> web.Response:
    """A redirect of the browser."""
    return web.Response(status=302, headers={"Location": location, "Cache-Control": "no-store"})


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body of a request to the sandbox's own routes; an empty one is an empty object."""
    try:
        document = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise bad_request("the body is not JSON") from error
    if not isinstance(document, dict):
        raise bad_request("the body is not a JSON object")
    return document


def bad_request(message: str) -> web.HTTPBadRequest:
    """What to raise where a request to the sandbox's own routes is wrong."""
    return web.HTTPBadRequest(text=json.dumps({"error": message}), content_type="application/json")
