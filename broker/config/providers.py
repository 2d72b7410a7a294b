"""Reads `[providers.*]`: the keys that depend on the provider's type or on each other."""

from collections.abc import Mapping
from typing import Any, get_args

from broker.config.sections import read_network
from broker.config.settings import (
    DEAD_ERROR,
    ClientAuth,
    DeadError,
    Kind,
    NetworkSettings,
    OAuthClient,
    ProviderSettings,
    Rotation,
)
from broker.config.table import Table, as_written, is_number, quoted
from broker.config.values import DURATION, MOST_LIFE, NAME, SCOPE, matching, parse_duration

KUSTOMER_SCOPES = ("org.permission.customer", "org.permission.conversation", "offline_access")
USUAL: Mapping[Kind, tuple[tuple[str, ...], Rotation, float, tuple[str, ...]]] = {
    "kit": (("app", "v4"), Rotation.STRICT, 172800.0, ()),
    "kustomer": (("global", "org"), Rotation.STRICT, 86400.0, KUSTOMER_SCOPES),
    "oauth2": ((), Rotation.FAMILY, 3600.0, ()),
}
"""The endpoint sets of each type, and its defaults of rotation, lifetime and scopes."""
OURS = {
    *("client_id", "redirect_uri", "response_type", "state", "scope"),
    *("code_challenge", "code_challenge_method"),
}
"""The parameters of the authorization request that the broker sets itself."""
NEVER_ALONE = {
    *("unauthorized_client", "invalid_client", "invalid_request"),
    *("access_denied", "server_error", "temporarily_unavailable"),
}
"""Errors that say nothing about one grant, unless they come with an exact description."""
NEVER_ALONE_WITHOUT = 'that error with its exact description: { error = "…", description = "…" }'
SCOPES = matching(SCOPE, "scopes without spaces, quotes and backslashes, each on its own")


def read_provider(name: str, table: Table, network: NetworkSettings) -> ProviderSettings | None:
    """Return the provider, or None if its type is unknown; mistakes become problems of the table."""
    network = read_network(table, network)
    if not NAME.fullmatch(name):
        table.wrong(
            "", quoted(name), "a provider's name of lower-case letters, digits and hyphens, at most 32"
        )
    given = table.text("type", name)
    kind = next((kind for kind in USUAL if kind == given), None)
    if kind is None:
        table.wrong(
            "type", quoted(given), '"kit" or "kustomer" or "oauth2" (the default is the table\'s name)'
        )
        return None
    if kind == "oauth2":
        for key in ("authorize_url", "token_url"):
            if not table.has(key):
                table.wrong(key, "nothing", 'an address (type = "oauth2" knows none by itself)')
    (sets, rotation, life, scopes), client = USUAL[kind], _client(table)
    rotation = Rotation(table.choice("rotation", list(Rotation), rotation))
    previous = []
    for entry in table.each("previous_clients"):
        previous.append(_client(entry))
        entry.done()
    # Keys of another type are not read, so that they are reported as unknown.
    absent = {} if kind == "kit" else {"app_id": None, "open_install": False}
    settings = table.section(
        ProviderSettings,
        name=name,
        type=kind,
        client=client,
        previous_clients=tuple(previous),
        endpoints=table.choice("endpoints", sets, sets[0]) if sets else None,
        scopes=table.texts("scopes", scopes, SCOPES),
        authorize_params=_authorize_params(table),
        client_auth=_client_auth(table, client),
        default_expires_in=_default_life(table, life),
        default_is_stated=table.has("default_expires_in"),
        dead_errors=_dead_errors(table),
        rotation=rotation,
        grace=_grace(table, rotation),
        network=network,
        **absent,
    )
    url, pointer = settings.identity_url, settings.identity_pointer
    if kind == "oauth2" and (pointer is None) != (url is None):
        missing = "identity_pointer" if pointer is None else "identity_url"
        table.wrong(missing, "nothing", "both of them, or neither")
    return settings


def _client(table: Table) -> OAuthClient:
    return OAuthClient(table.text("client_id", check=_client_id_problem), table.secrets("client_secret"))


def _client_id_problem(text: str) -> str | None:
    if not text:
        return "the id that the provider gave the app"
    is_plain = text.isprintable() and text == text.strip()
    return None if is_plain else "printable text without blanks around it"


def _dead_errors(table: Table) -> tuple[DeadError, ...]:
    value: Any = table.raw("dead_errors", [])
    errors = []
    for one in value if isinstance(value, list) else [value]:
        pair = {"error": one} if isinstance(one, str) else one
        if not (
            isinstance(pair, dict)
            and {"error"} <= pair.keys() <= {"error", "description"}
            and all(isinstance(text, str) and text.isprintable() for text in pair.values())
            and all(0 < len(text) <= 300 for text in pair.values())
        ):
            table.wrong("dead_errors", as_written(one), DEAD_ERROR)
        elif pair["error"].strip().lower() in NEVER_ALONE and not pair.get("description"):
            table.wrong("dead_errors", quoted(pair["error"]), NEVER_ALONE_WITHOUT)
        else:
            errors.append(DeadError(**pair))
    return tuple(errors)


def _authorize_params(table: Table) -> dict[str, str]:
    inner = table.raw("authorize_params", {})
    if not isinstance(inner, dict) or not all(isinstance(value, str) for value in inner.values()):
        table.wrong("authorize_params", "something else", "a table of strings")
        return {}
    for name in sorted(OURS & set(inner)):
        table.wrong(f"authorize_params.{name}", "a value", "no such parameter: the broker sets it itself")
    return dict(inner)


def _client_auth(table: Table, client: OAuthClient) -> str:
    given = table.choice("client_auth", get_args(ClientAuth), "post" if client.secrets else "none")
    if given != "none" and not client.secrets and not table.has("client_secret"):
        table.wrong("client_auth", quoted(given), '"none", or a client_secret')
    if given == "basic-raw" and ":" in client.client_id:
        # The first colon ends the name (RFC 7617).
        table.wrong("client_auth", quoted(given), '"basic", for the client_id holds a colon')
    return given


def _default_life(table: Table, usual: float) -> float:
    value: Any = table.raw("default_expires_in", usual)
    seconds = parse_duration(value) if isinstance(value, str) else None
    if is_number(value) and (isinstance(value, int) or value is usual):
        seconds = value
    if seconds is None or not 1 <= seconds <= MOST_LIFE:
        table.wrong("default_expires_in", as_written(value), f"{DURATION}, or a number of seconds")
        return usual
    return float(seconds)


def _grace(table: Table, rotation: Rotation) -> float | None:
    if rotation is Rotation.GRACE:
        return table.duration("grace", "10s", least=1)
    if table.has("grace"):
        table.raw("grace")
        table.wrong("grace", "a value", 'none without rotation = "grace"')
    return None
