"""The parts that everything in the sandbox shares: store, switches, record of requests, clock and pages."""

import json
from pathlib import Path
from typing import Any

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from broker.clock import Clock
from broker.sandbox.faults import Faults, Provider
from broker.sandbox.issued import REFRESH_ROWS, Issued, RefreshToken, is_live
from broker.sandbox.store import Clients, SandboxStore

END = "UPDATE requests SET ended = ?, outcome = COALESCE(outcome, 'interrupted') WHERE ended IS NULL"
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
    """The record of token requests and of uses of access tokens.

    Each entry is committed alone or with the rotation that it describes, so it survives a killed sandbox.
    """

    def __init__(self, store: SandboxStore, *, faults: Faults, clock: Clock) -> None:
        self._store, self._faults, self._clock = store, faults, clock

    def close_interrupted(self) -> None:
        """End the requests that an earlier process left open: their connections ended with it."""
        self._store.write(END, self._clock.now())

    def begin(self, provider: Provider, kind: str, token_sha256: str | None) -> int:
        """Record that a token request arrived; return its number."""
        overlapping = "SELECT n FROM requests WHERE kind = 'refresh' AND token_sha256 = ? AND ended IS NULL"
        with self._store.transaction():
            rows = self._store.rows(overlapping, token_sha256) if kind == "refresh" else []
            return self._store.insert(
                "requests",
                provider=provider,
                kind=kind,
                token_sha256=token_sha256,
                started=self._clock.now(),
                beside=json.dumps([row["n"] for row in rows]),
            )

    def handled(
        self,
        n: int,
        outcome: str,
        grant_id: int | None = None,
        refresh: str | None = None,
        access: str | None = None,
    ) -> None:
        """Record the outcome and the fingerprints of issued tokens, in the transaction of the rotation."""
        self._store.write(
            "UPDATE requests SET outcome = ?, grant_id = COALESCE(?, grant_id),"
            " issued_refresh_sha256 = ?, issued_access_sha256 = ? WHERE n = ?",
            *(outcome, grant_id, refresh, access, n),
        )

    def end(self, n: int) -> None:
        """Record the end just before the last of the answer leaves: a client that has it may ask again."""
        self._store.write(END + " AND n = ?", self._clock.now(), n)

    def answered(self, n: int) -> None:
        """Record that the answer was written to an open connection."""
        self._store.write("UPDATE requests SET answered = 1 WHERE n = ?", n)

    def used(self, provider: Provider, access_sha256: str, status: int) -> None:
        """Record the use of an access token at a resource."""
        use = {"provider": provider, "access_sha256": access_sha256, "status": status}
        self._store.insert("resource_uses", **use, at=self._clock.now())

    def as_json(self) -> dict[str, Any]:
        """Return the whole record, as `GET /_sandbox/record` shows it."""
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
                dict(row)
                for row in self._store.rows(
                    "SELECT provider, access_sha256, at, status FROM resource_uses ORDER BY n"
                )
            ],
        }

    def _grant(self, row: Any) -> dict[str, Any]:
        switches, now = self._faults.switches(row["provider"]), self._clock.now()
        rows = self._store.rows(f"{REFRESH_ROWS} WHERE t.grant_id = ? ORDER BY t.n", row["id"])
        tokens = [RefreshToken(**one) for one in rows]
        return {
            **{name: row[name] for name in ("provider", "external_id", "org", "client_id")},
            "grant_id": row["id"],
            "revoked": bool(row["revoked"]),
            "current_refresh_token_sha256": tokens[-1].sha256 if tokens else None,
            "live": any(is_live(token, switches, now) for token in tokens),
            "rotations": self._store.row(
                "SELECT COUNT(*) FROM refresh_tokens WHERE grant_id = ? AND parent IS NOT NULL", row["id"]
            )[0],
        }


def page(template: str, *, status: int = 200, **values: object) -> web.Response:
    """Render a page of the sandbox."""
    text = _PAGES.get_template(template).render(**values)
    return web.Response(status=status, text=text, content_type="text/html", headers=PAGE_HEADERS)


def refusal(who: str, message: str, *, status: int = 400) -> web.Response:
    """Answer a user with an error page where a redirect would be wrong."""
    return page("refusal.html", status=status, who=who, message=message)


class SandboxContext:
    """The parts that everything in one sandbox shares. Raises OSError where the file is not a sandbox database."""

    def __init__(self, database: Path, *, faults: Faults, clock: Clock, broker_public_url: str) -> None:
        self.faults, self.clock, self.broker_public_url = faults, clock, broker_public_url
        self.store = SandboxStore(database)
        self.clients = Clients(store=self.store, broker_public_url=broker_public_url)
        self.issued = Issued(self.store)
        self.record = Record(self.store, faults=faults, clock=clock)
        self.clients.supply()
        self.record.close_interrupted()


def bearer(request: web.Request) -> str | None:
    """Return the token of the Authorization header (RFC 6750, 2.1), or None."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def to(location: str) -> web.Response:
    """Redirect the browser."""
    return web.Response(status=302, headers={"Location": location, "Cache-Control": "no-store"})


async def json_object(request: web.Request) -> dict[str, Any]:
    """Return the JSON body of a request to the sandbox's own routes; an empty body is an empty object."""
    try:
        document = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise bad_request("the body is not JSON") from error
    if not isinstance(document, dict):
        raise bad_request("the body is not a JSON object")
    return document


def bad_request(message: str) -> web.HTTPBadRequest:
    """Make the exception to raise for a wrong request to the sandbox's own routes."""
    return web.HTTPBadRequest(text=json.dumps({"error": message}), content_type="application/json")
