"""The judge: what was asked of the token endpoints, what became of every grant; never a token in clear."""

import json
from typing import Any

from broker.sandbox.faults import Faults, Provider
from broker.sandbox.issued import REFRESH_ROWS, to_refresh_token
from broker.sandbox.rotation import is_live
from broker.sandbox.store import SandboxStore

BESIDE = "SELECT n FROM requests WHERE kind = 'refresh' AND token_sha256 = ? AND ended IS NULL"
BEGIN = """
INSERT INTO requests (provider, kind, token_sha256, started, beside) VALUES (?, ?, ?, ?, ?)"""
HANDLED = """
UPDATE requests SET outcome = ?, grant_id = COALESCE(?, grant_id),
       issued_refresh_sha256 = ?, issued_access_sha256 = ? WHERE n = ?"""
ROTATIONS = "SELECT COUNT(*) FROM refresh_tokens WHERE grant_id = ? AND parent IS NOT NULL"
CURRENT = "SELECT sha256 FROM refresh_tokens WHERE grant_id = ? ORDER BY n DESC LIMIT 1"


class Record:
    """Each write commits alone or with the rotation it describes, so a killed sandbox still knows."""

    def __init__(self, *, store: SandboxStore, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    def close_interrupted(self, now: float) -> None:
        """End what a former process left open: its connections died with it."""
        self._store.write(
            "UPDATE requests SET ended = ?, outcome = COALESCE(outcome, 'interrupted') WHERE ended IS NULL",
            now,
        )

    def begin(self, provider: Provider, kind: str, token_sha256: str | None, now: float) -> int:
        """A token request has come. Returns its number."""
        with self._store.transaction():
            beside = [row["n"] for row in self._store.rows(BESIDE, token_sha256)] if kind == "refresh" else []
            return self._store.write(BEGIN, provider, kind, token_sha256, now, json.dumps(beside))

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

    def end(self, n: int, now: float) -> None:
        """The last of the answer is about to leave: who has it may ask again at once and overlaps nothing."""
        self._store.write(
            "UPDATE requests SET ended = ?, outcome = COALESCE(outcome, 'interrupted')"
            " WHERE n = ? AND ended IS NULL",
            now,
            n,
        )

    def answered(self, n: int) -> None:
        self._store.write("UPDATE requests SET answered = 1 WHERE n = ?", n)

    def used(self, provider: Provider, access_sha256: str, status: int, now: float) -> None:
        self._store.write(
            "INSERT INTO resource_uses (provider, access_sha256, at, status) VALUES (?, ?, ?, ?)",
            provider,
            access_sha256,
            now,
            status,
        )

    def as_json(self, now: float) -> dict[str, Any]:
        requests = [_request(row) for row in self._store.rows("SELECT * FROM requests ORDER BY n")]
        return {
            "grants": [self._grant(row, now) for row in self._store.rows("SELECT * FROM grants ORDER BY id")],
            "requests": requests,
            "max_outstanding_per_token": max(
                (1 + len(request["beside"]) for request in requests if request["kind"] == "refresh"),
                default=0,
            ),
            "overlaps": [request for request in requests if request["beside"]],
            "resource_uses": [
                {name: row[name] for name in ("provider", "access_sha256", "at", "status")}
                for row in self._store.rows("SELECT * FROM resource_uses ORDER BY n")
            ],
        }

    def _grant(self, row: Any, now: float) -> dict[str, Any]:
        current = self._store.row(CURRENT, row["id"])
        return {
            "provider": row["provider"],
            "external_id": row["external_id"],
            "org": row["org"],
            "client_id": row["client_id"],
            "grant_id": row["id"],
            "revoked": bool(row["revoked"]),
            "current_refresh_token_sha256": None if current is None else current["sha256"],
            "live": self._is_live(row, now),
            "rotations": self._store.row(ROTATIONS, row["id"])[0],
        }

    def _is_live(self, row: Any, now: float) -> bool:
        switches = self._faults.switches(row["provider"])
        tokens = self._store.rows(REFRESH_ROWS + " WHERE t.grant_id = ?", row["id"])
        return any(is_live(to_refresh_token(token), switches, now) for token in tokens)


def _request(row: Any) -> dict[str, Any]:
    return {**row, "answered": bool(row["answered"]), "beside": json.loads(row["beside"])}
