"""Reads `[providers.*]`: endpoint sets, clients, and every quirk that a provider may have."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from broker.config.durations import EXPECTED, parse_duration
from broker.config.network import read_network
from broker.config.problems import quoted
from broker.config.read import Table, as_written, checked, is_number
from broker.config.settings import DeadError, NetworkSettings, OAuthClient, ProviderSettings, Rotation
from broker.config.urls import endpoint_problem

Kind = Literal["kit", "kustomer", "oauth2"]
KINDS: tuple[Kind, ...] = ("kit", "kustomer", "oauth2")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+", re.ASCII)
"""A scope-token of RFC 6749 appendix A.4."""
POINTER = re.compile(r"(/[^/~]*(~[01][^/~]*)*)+")
"""A JSON pointer, RFC 6901."""
ENDPOINT_SETS: Mapping[Kind, tuple[str, ...]] = {
    "kit": ("app", "v4"),
    "kustomer": ("global", "org"),
    "oauth2": (),
}
ROTATIONS: Mapping[Kind, Rotation] = {
    "kit": Rotation.STRICT,
    "kustomer": Rotation.STRICT,
    "oauth2": Rotation.FAMILY,
}
LIVES: Mapping[Kind, float] = {"kit": 172800.0, "kustomer": 86400.0, "oauth2": 3600.0}
MOST_LIFE = 3660 * 86400.0
KUSTOMER_SCOPES = ("org.permission.customer", "org.permission.conversation", "offline_access")
OURS = frozenset(
    {
        "client_id",
        "redirect_uri",
        "response_type",
        "state",
        "code_challenge",
        "code_challenge_method",
        "scope",
    }
)
"""Parameters of the authorization request that the broker sets itself."""
NEVER_ALONE = frozenset(
    {
        "unauthorized_client",
        "invalid_client",
        "invalid_request",
        "access_denied",
        "server_error",
        "temporarily_unavailable",
    }
)
"""Errors that say nothing about one grant; beside an exact description they may."""
DEAD_ERROR = 'words, or tables { error = "…", description = "…" }'
NEVER_ALONE_WITHOUT = 'that error with its exact description: { error = "…", description = "…" }'
URLS = ("authorize_url", "token_url", "revoke_url", "api_url", "identity_url", "issuer")


def read_providers(
    tables: Mapping[str, Table], folder: Path, environ: Mapping[str, str], network: NetworkSettings
) -> dict[str, ProviderSettings]:
    """Every provider that is right; whatever is wrong is noted in its table's problems."""
    found = {}
    for name, table in tables.items():
        own = read_network(table, folder, environ, network)
        if (provider := _read(name, table)) is not None:
            found[name] = replace(provider, network=own)
    return found


def _read(name: str, table: Table) -> ProviderSettings | None:
    if not NAME.fullmatch(name):
        table.wrong(
            "", quoted(name), "a provider's name of lower-case letters, digits and hyphens, at most 32"
        )
    kind = _kind(name, table)
    if kind is None:
        return None
    urls = {key: checked(table, key, table.text(key, None), endpoint_problem) for key in URLS}
    if kind == "oauth2":
        for key in ("authorize_url", "token_url"):
            if not table.has(key):
                table.wrong(key, "nothing", 'an address (type = "oauth2" knows none by itself)')
    client = _client(table)
    rotation = Rotation(table.choice("rotation", [str(mode) for mode in Rotation], str(ROTATIONS[kind])))
    settings = ProviderSettings(
        name=name,
        type=kind,
        client=client,
        previous_clients=_previous(table),
        endpoints=_endpoints(table, kind),
        # Left unread elsewhere: only Kit has a page of its own and begins installs.
        app_id=table.integer("app_id", None, least=1) if kind == "kit" else None,
        open_install=table.flag("open_install", False) if kind == "kit" else False,
        authorize_url=urls["authorize_url"],
        token_url=urls["token_url"],
        revoke_url=urls["revoke_url"],
        api_url=urls["api_url"],
        issuer=urls["issuer"],
        identity_url=urls["identity_url"],
        identity_pointer=_pointer(table, urls["identity_url"], kind),
        scopes=_scopes(table, KUSTOMER_SCOPES if kind == "kustomer" else ()),
        authorize_params=_authorize_params(table),
        pkce=table.flag("pkce", True),
        client_auth=_client_auth(table, client),
        body=_body(table),
        default_expires_in=_default_life(table, LIVES[kind]),
        default_is_stated=table.has("default_expires_in"),
        token_pointer=_token_pointer(table),
        token_type="Bearer" if table.choice("token_type", ("Bearer",), None) else None,
        dead_errors=_dead_errors(table),
        rotation=rotation,
        grace=_grace(table, rotation),
    )
    table.done()
    return settings


def _kind(name: str, table: Table) -> Kind | None:
    known = {str(kind): kind for kind in KINDS}
    given = table.text("type", name)
    if given not in known:
        table.wrong(
            "type", quoted(given), '"kit" or "kustomer" or "oauth2" (the default is the table\'s name)'
        )
        return None
    return known[given]


def _client(table: Table) -> OAuthClient:
    if table.raw("client_id") == "":
        table.wrong("client_id", '""', "the id that the provider gave the app")
    client_id = table.text("client_id")
    if not client_id.isprintable() or client_id != client_id.strip():
        table.wrong("client_id", quoted(client_id), "printable text without blanks around it")
    return OAuthClient(client_id, table.secrets("client_secret", most=2))


def _previous(table: Table) -> tuple[OAuthClient, ...]:
    clients = []
    for entry in table.each("previous_clients"):
        clients.append(_client(entry))
        entry.done()
    return tuple(clients)


def _endpoints(table: Table, kind: Kind) -> Literal["app", "v4", "global", "org"] | None:
    match kind:
        case "kit":
            return "v4" if table.choice("endpoints", ENDPOINT_SETS[kind], "app") == "v4" else "app"
        case "kustomer":
            return "org" if table.choice("endpoints", ENDPOINT_SETS[kind], "global") == "org" else "global"
        case "oauth2":
            # Left unread where absent, so that a stray one is told as unknown.
            return None


def _pointer(table: Table, identity_url: str | None, kind: Kind) -> str | None:
    pointer = _json_pointer(table, "identity_pointer", "/account/id")
    if kind == "oauth2" and (pointer is None) != (identity_url is None):
        table.wrong(
            "identity_pointer" if pointer is None else "identity_url", "nothing", "both of them, or neither"
        )
    return pointer


def _token_pointer(table: Table) -> str | None:
    return _json_pointer(table, "token_pointer", "/data")


def _json_pointer(table: Table, key: str, example: str) -> str | None:
    pointer = table.text(key, None)
    if pointer is not None and not POINTER.fullmatch(pointer):
        table.wrong(key, quoted(pointer), f'a JSON pointer, as in "{example}"')
        return None
    return pointer


def _dead_errors(table: Table) -> tuple[DeadError, ...]:
    """Words, or tables of an error and the description that has to stand beside it."""
    value: Any = table.raw("dead_errors", [])
    errors = []
    for one in value if isinstance(value, list) else [value]:
        pair = {"error": one} if isinstance(one, str) else one
        if not _is_dead_error(pair):
            table.wrong("dead_errors", as_written(one), DEAD_ERROR)
        elif pair["error"].strip().lower() in NEVER_ALONE and not pair.get("description"):
            table.wrong("dead_errors", quoted(pair["error"]), NEVER_ALONE_WITHOUT)
        else:
            errors.append(DeadError(pair["error"], pair.get("description", "")))
    return tuple(errors)


def _is_dead_error(pair: object) -> bool:
    return (
        isinstance(pair, dict)
        and {"error"} <= pair.keys() <= {"error", "description"}
        and all(
            isinstance(text, str) and text.isprintable() and 0 < len(text) <= 300 for text in pair.values()
        )
    )


def _scopes(table: Table, usual: tuple[str, ...]) -> tuple[str, ...]:
    scopes = table.texts("scopes", usual)
    for scope in scopes:
        if not SCOPE.fullmatch(scope):
            table.wrong(
                "scopes", quoted(scope), "scopes without spaces, quotes and backslashes, each on its own"
            )
    return scopes


def _authorize_params(table: Table) -> dict[str, str]:
    inner = table.raw("authorize_params", {})
    if not isinstance(inner, dict) or not all(isinstance(value, str) for value in inner.values()):
        table.wrong("authorize_params", "something else", "a table of strings")
        return {}
    for name in sorted(OURS & set(inner)):
        table.wrong(f"authorize_params.{name}", "a value", "no such parameter: the broker sets it itself")
    return dict(inner)


def _client_auth(table: Table, client: OAuthClient) -> Literal["post", "basic", "basic-raw", "none"]:
    usual: Literal["post", "none"] = "post" if client.secrets else "none"
    given = table.choice("client_auth", ("post", "basic", "basic-raw", "none"), usual)
    match given:
        case "post" | "basic" | "basic-raw":
            if not client.secrets and not table.has("client_secret"):
                table.wrong("client_auth", quoted(given), '"none", or a client_secret')
            if given == "basic-raw" and ":" in client.client_id:
                # The first colon ends the name (RFC 7617).
                table.wrong("client_auth", quoted(given), '"basic", for the client_id holds a colon')
            return given
        case _:
            return "none"


def _body(table: Table) -> Literal["form", "json"]:
    return "json" if table.choice("body", ("form", "json"), "form") == "json" else "form"


def _default_life(table: Table, usual: float) -> float:
    value: Any = table.raw("default_expires_in", None)
    if value is None:
        return usual
    seconds = parse_duration(value) if isinstance(value, str) else None
    if isinstance(value, int) and is_number(value):
        seconds = value
    if seconds is None or not 1 <= seconds <= MOST_LIFE:
        table.wrong("default_expires_in", as_written(value), f"{EXPECTED}, or a number of seconds")
        return usual
    return float(seconds)


def _grace(table: Table, rotation: Rotation) -> float | None:
    if rotation is not Rotation.GRACE:
        if table.has("grace"):
            table.raw("grace")
            table.wrong("grace", "a value", 'none without rotation = "grace"')
        return None
    return table.duration("grace", "10s", least=1)
