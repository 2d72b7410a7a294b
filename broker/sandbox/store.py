"""The sandbox's store: its SQLite file, and the OAuth apps registered at the providers it plays."""

import errno
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from broker.config.sandbox import KIT_CLIENT_ID, KIT_CLIENT_SECRET, KUSTOMER_CLIENT_ID, KUSTOMER_CLIENT_SECRET
from broker.config.values import is_loopback
from broker.sandbox.faults import PROVIDERS, Provider

SCHEMA = """
CREATE TABLE IF NOT EXISTS clients (
    provider TEXT NOT NULL, client_id TEXT NOT NULL,
    secrets TEXT NOT NULL,          -- JSON list; empty: a public client
    redirect_uris TEXT,             -- JSON list; NULL: any loopback or the broker's own callback
    PRIMARY KEY (provider, client_id));
CREATE TABLE IF NOT EXISTS apps (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, client_id TEXT NOT NULL, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS codes (
    sha256 TEXT PRIMARY KEY, provider TEXT NOT NULL, client_id TEXT NOT NULL, redirect_uri TEXT NOT NULL,
    challenge TEXT, scope TEXT NOT NULL, tenant TEXT, org TEXT,
    external_id TEXT NOT NULL, label TEXT NOT NULL, email TEXT NOT NULL,
    expires_at REAL NOT NULL, grant_id INTEGER);
CREATE TABLE IF NOT EXISTS grants (
    id INTEGER PRIMARY KEY AUTOINCREMENT, provider TEXT NOT NULL, client_id TEXT NOT NULL,
    external_id TEXT NOT NULL, label TEXT NOT NULL, email TEXT NOT NULL, org TEXT, tenant TEXT,
    scope TEXT NOT NULL, created_at REAL NOT NULL, revoked INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS refresh_tokens (
    n INTEGER PRIMARY KEY AUTOINCREMENT, sha256 TEXT NOT NULL UNIQUE, value TEXT NOT NULL,
    grant_id INTEGER NOT NULL REFERENCES grants, parent TEXT,
    last_used_at REAL NOT NULL, superseded_at REAL, revoked INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS access_tokens (
    n INTEGER PRIMARY KEY AUTOINCREMENT, sha256 TEXT NOT NULL UNIQUE, value TEXT NOT NULL,
    grant_id INTEGER NOT NULL REFERENCES grants, refresh TEXT, parent TEXT,
    created_at REAL NOT NULL, expires_at REAL NOT NULL, revoked INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS requests (
    n INTEGER PRIMARY KEY AUTOINCREMENT, provider TEXT NOT NULL, kind TEXT NOT NULL, token_sha256 TEXT,
    grant_id INTEGER, started REAL NOT NULL, ended REAL, outcome TEXT,
    issued_refresh_sha256 TEXT, issued_access_sha256 TEXT, answered INTEGER NOT NULL DEFAULT 0,
    beside TEXT NOT NULL);          -- JSON list: others with the same token, not over when this came
CREATE TABLE IF NOT EXISTS resource_uses (
    n INTEGER PRIMARY KEY AUTOINCREMENT, provider TEXT NOT NULL, access_sha256 TEXT NOT NULL,
    at REAL NOT NULL, status INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS plugin_trips (
    state TEXT PRIMARY KEY, app_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS plugin_connections (
    id INTEGER PRIMARY KEY AUTOINCREMENT, access TEXT NOT NULL, refresh TEXT NOT NULL, scope TEXT,
    created_at REAL NOT NULL, expires_at REAL NOT NULL, status TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS plugin_steps (
    n INTEGER PRIMARY KEY AUTOINCREMENT, step TEXT NOT NULL, status INTEGER NOT NULL, complaint TEXT);
CREATE INDEX IF NOT EXISTS requests_by_token ON requests (token_sha256);
CREATE INDEX IF NOT EXISTS refresh_by_grant ON refresh_tokens (grant_id);
CREATE INDEX IF NOT EXISTS access_by_grant ON access_tokens (grant_id);
"""
ISSUED = ("codes", "access_tokens", "refresh_tokens", "grants", "plugin_trips", "plugin_connections")
ASKED = ("requests", "resource_uses", "plugin_steps")
REGISTERED = ("clients", "apps")
OWN = {"refresh_tokens", "resource_uses"}
"""Tables by which a database of the sandbox is recognized."""
SUPPLIED: Mapping[Provider, tuple[str, str]] = {
    "kit": (KIT_CLIENT_ID, KIT_CLIENT_SECRET),
    "kustomer": (KUSTOMER_CLIENT_ID, KUSTOMER_CLIENT_SECRET),
}


class SandboxStore:
    """A connection to the SQLite file, used from one thread. Statements outside `transaction` commit by themselves.

    Raises OSError with the file's name where it is not a sandbox database; the file is left as it is.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It holds tokens in clear text, though only the sandbox's own.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            try:
                self._open(path, "NORMAL")
            except sqlite3.OperationalError:
                # A full disk has no space for the shared memory next to the file; one connection can do without.
                self._open(path, "EXCLUSIVE")
        except sqlite3.DatabaseError as exc:
            raise OSError(errno.EINVAL, str(exc), str(path)) from None

    def _open(self, path: Path, locking: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        try:
            self.write(f"PRAGMA locking_mode = {locking}")
            tables = {row["name"] for row in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not tables >= OWN:
                raise sqlite3.DatabaseError("it is a database of something else")
            # What the kernel has been given outlives a killed process, though not a power cut: enough for a judge.
            self.write("PRAGMA synchronous = OFF")
            self.write("PRAGMA journal_mode = WAL")
            self._connection.executescript(f"BEGIN;{SCHEMA};COMMIT")
        except sqlite3.DatabaseError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the statements of the block together, or none of them if it raises."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def rows(self, sql: str, *values: object) -> list[Any]:
        """Return all rows."""
        return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: object) -> Any:
        """Return the first row, or None."""
        return self._connection.execute(sql, values).fetchone()

    def write(self, sql: str, *values: object) -> int:
        """Run a statement; return the id of the row that it inserted."""
        return self._connection.execute(sql, values).lastrowid or 0

    def insert(self, table: str, **columns: object) -> int:
        """Insert a row; return its id."""
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        sql = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608 - names of our own columns only
        return self.write(sql, *columns.values())

    def empty(self, *tables: str) -> None:
        """Delete all rows of these tables."""
        with self.transaction():
            for table in tables:
                self.write(f"DELETE FROM {table}")  # noqa: S608 - names of our own tables only


@dataclass(frozen=True, slots=True)
class Client:
    """A registered app. Without secrets it is a public client, which must use PKCE."""

    provider: Provider
    client_id: str
    secrets: tuple[str, ...]
    redirect_uris: tuple[str, ...] | None
    """None: the provider's callback at any loopback port or at the broker's public URL."""


class Clients:
    """The registered apps, the two that `[sandbox]` supplies among them."""

    def __init__(self, *, store: SandboxStore, broker_public_url: str) -> None:
        self._store = store
        self._broker = broker_public_url

    def supply(self) -> None:
        """Register the supplied apps, unless apps with their ids are registered."""
        for provider in PROVIDERS:
            client_id, secret = SUPPLIED[provider]
            if self.find(provider, client_id) is None:
                self.put(Client(provider, client_id, (secret,), None))

    def put(self, client: Client) -> None:
        """Register or replace an app."""
        uris = None if client.redirect_uris is None else json.dumps(client.redirect_uris)
        values = client.provider, client.client_id, json.dumps(client.secrets), uris
        self._store.write("INSERT OR REPLACE INTO clients VALUES (?, ?, ?, ?)", *values)

    def remove(self, provider: Provider, client_id: str) -> None:
        """Remove an app."""
        self._store.write("DELETE FROM clients WHERE provider = ? AND client_id = ?", provider, client_id)

    def find(self, provider: Provider, client_id: str) -> Client | None:
        """Return an app, or None if it is not registered."""
        row = self._store.row(
            "SELECT * FROM clients WHERE provider = ? AND client_id = ?", provider, client_id
        )
        if row is None:
            return None
        uris = None if row["redirect_uris"] is None else tuple(json.loads(row["redirect_uris"]))
        return Client(provider, client_id, tuple(json.loads(row["secrets"])), uris)

    def allows(self, client: Client, redirect_uri: str) -> bool:
        """Return whether the app registered this redirect URI, compared as text (RFC 9700, 2.1)."""
        if client.redirect_uris is not None:
            return redirect_uri in client.redirect_uris
        path = f"/callback/{client.provider}"
        parts = urlsplit(redirect_uri)
        is_bare = not parts.query and not parts.fragment and "@" not in parts.netloc and parts.path == path
        is_local = parts.scheme in ("http", "https") and is_loopback(parts.hostname)
        return redirect_uri == f"{self._broker}{path}" or (is_local and is_bare)


def client_from_json(provider: Provider, document: Mapping[str, object]) -> Client:
    """Return the app that `POST /_sandbox/clients` describes. Raises ValueError with the wrong member."""
    client_id = document.get("client_id")
    if not isinstance(client_id, str) or not client_id:
        raise ValueError("client_id: a string is needed")
    secret = document.get("client_secret")
    secrets = [] if secret is None else [secret]
    redirect_uris = document.get("redirect_uris")
    return Client(
        provider,
        client_id,
        _texts("client_secrets", document.get("client_secrets", secrets)),
        None if redirect_uris is None else _texts("redirect_uris", redirect_uris),
    )


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name}: a list of strings is needed")
    return tuple(value)
