"""Reads `[plugin]`: the clients that sign in to us, and how long what they get lives."""

import re
from collections.abc import Mapping

from broker.config.problems import quoted
from broker.config.providers import SCOPE
from broker.config.read import Table, as_written
from broker.config.settings import PluginClient, PluginSettings
from broker.config.urls import page_problem, shown
from broker.model import Secret

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
VISIBLE = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)
"""What a client id or secret may hold (RFC 6749 appendix A)."""
LEAST_LIFE = 60.0
MOST_LIFE = 3660 * 86400.0


def read_plugin(table: Table) -> PluginSettings | None:
    """None where it is off."""
    enabled = table.flag("enabled", True)
    access_ttl, refresh_ttl = _life(table, "access_ttl", "48h"), _life(table, "refresh_ttl", "365d")
    if refresh_ttl < access_ttl:
        table.wrong(
            "refresh_ttl", f"{refresh_ttl:.0f} s", f"at least access_ttl, which is {access_ttl:.0f} s"
        )
    clients = _clients(table.tables("clients"))
    if enabled and not clients and not table.raw("clients"):
        table.wrong("clients", "none", "at least one table, as in [plugin.clients.kit]")
    table.done()
    return PluginSettings(access_ttl, refresh_ttl, clients) if enabled else None


def _life(table: Table, key: str, usual: str) -> float:
    seconds = table.duration(key, usual, least=LEAST_LIFE)
    if seconds > MOST_LIFE:
        table.wrong(key, as_written(table.raw(key)), "at most 3660d")
    return seconds


def _clients(tables: Mapping[str, Table]) -> dict[str, PluginClient]:
    clients: dict[str, PluginClient] = {}
    for name, table in tables.items():
        client = _client(name, table)
        if client.client_id and any(client.client_id == known.client_id for known in clients.values()):
            table.wrong("client_id", quoted(client.client_id), "an id that no other client has")
        clients[name] = client
    return clients


def _client(name: str, table: Table) -> PluginClient:
    if not NAME.fullmatch(name):
        table.wrong("", quoted(name), "a client's name of lower-case letters, digits and hyphens, at most 32")
    client = PluginClient(
        name=name,
        title=_title(name, table),
        client_id=_client_id(table),
        secrets=_secrets(table),
        redirect_uris=_redirect_uris(table),
        scopes=_scopes(table),
        refresh_without_secret=table.flag("refresh_without_secret", False),
    )
    table.done()
    return client


def _title(name: str, table: Table) -> str:
    title = table.text("name", name)
    if not title.strip() or not title.isprintable() or len(title) > 80:
        table.wrong("name", quoted(title), "what people call it, at most 80 characters")
    return title


def _client_id(table: Table) -> str:
    client_id = table.text("client_id")
    if (
        table.has("client_id")
        and isinstance(table.raw("client_id"), str)
        and not VISIBLE.fullmatch(client_id)
    ):
        table.wrong("client_id", quoted(client_id), "visible ASCII characters, at most 255")
    return client_id


def _secrets(table: Table) -> tuple[Secret, ...]:
    if not table.has("client_secret"):
        table.secrets("client_secret", most=2)
        table.wrong("client_secret", "nothing", "the secret that was entered at the client")
        return ()
    secrets = table.secrets("client_secret", most=2)
    if not all(VISIBLE.fullmatch(secret.reveal()) for secret in secrets):
        table.wrong("client_secret", "odd characters", "visible ASCII characters, at most 255")
    return secrets


def _redirect_uris(table: Table) -> tuple[str, ...]:
    uris = table.texts("redirect_uris", ())
    if not uris and table.raw("redirect_uris", []) == []:
        table.wrong("redirect_uris", "none", "at least one address, compared character by character")
    for uri in uris:
        if expected := page_problem(uri):
            table.wrong("redirect_uris", quoted(shown(uri)), expected)
    return uris


def _scopes(table: Table) -> tuple[str, ...]:
    scopes = table.texts("scopes", ())
    for scope in scopes:
        if not SCOPE.fullmatch(scope) or "," in scope:
            table.wrong(
                "scopes",
                quoted(scope),
                "scopes without spaces, commas, quotes and backslashes, each on its own",
            )
    return scopes
