"""Reads `[providers.*]`, `[callers.*]` and `[plugin]`: the keys that depend on each other or on a provider's type."""

from collections.abc import Mapping
from typing import Any, get_args

from broker.config.sections import read_network
from broker.config.settings import (
    DEAD_ERROR,
    CallerSettings,
    ClientAuth,
    DeadError,
    IssuedJwt,
    Kind,
    NetworkSettings,
    OAuthClient,
    OwnJwt,
    PeerUid,
    PluginClient,
    PluginSettings,
    Proof,
    ProviderSettings,
    PublicKey,
    Rotation,
    ServerSettings,
)
from broker.config.table import Table, as_written, is_number, quoted
from broker.config.values import (
    DURATION,
    MOST_LIFE,
    NAME,
    PEM,
    SCOPE,
    VISIBLE,
    UnixListen,
    algorithm_of,
    claim_problem,
    matching,
    page_problem,
    parse_duration,
    shown,
)
from broker.model import Permission, is_caller_name, is_glob

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
ISSUED = ("issuer", "jwks_url", "subject", "audience")
WAYS = "one of: public_key; issuer with jwks_url and subject; uid"
MOST_UID = 2**32 - 2
OVERFLOW_UID = 65534
"""The uid that the kernel shows for users that it cannot map, as from another user namespace."""
VISIBLE_ONLY = "visible ASCII characters, at most 255"


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


def read_callers(tables: Mapping[str, Table], server: ServerSettings) -> dict[str, CallerSettings]:
    """Return the valid callers; mistakes become problems of their tables."""
    found: dict[str, CallerSettings] = {}
    for name, table in tables.items():
        caller = _caller(name, table, server)
        table.done()
        if caller is not None and not any(_collides(table, caller, other) for other in found.values()):
            found[name] = caller
    return found


def _caller(name: str, table: Table, server: ServerSettings) -> CallerSettings | None:
    if not is_caller_name(name):
        table.wrong("", quoted(name), "a caller's name: lower-case letters, digits and . _ -, at most 64")
    accounts = table.texts(
        "accounts", (), lambda glob: None if is_glob(glob) else "globs over account names, as in 'kit-*'"
    )
    words = table.texts(
        "permissions",
        (Permission.TOKEN,),
        lambda word: None if word in list(Permission) else f"some of: {', '.join(Permission)}",
    )
    proofs: dict[str, Proof | None] = {
        "public_key": _own(table),
        "issuer": _issued(table),
        "uid": _uid(table, server),
    }
    given = [way for way in proofs if any(map(table.has, ISSUED if way == "issuer" else (way,)))]
    if len(given) != 1:
        table.wrong("", " and ".join(given) or "no proof of who calls", WAYS)
        return None
    proof = proofs[given[0]]
    permissions = frozenset(permission for permission in Permission if permission in words)
    return None if proof is None else CallerSettings(name, accounts, permissions, proof)


def _own(table: Table) -> OwnJwt:
    keys = []
    for secret in table.secrets("public_key", f"{PEM}, or two while one is being replaced", private=False):
        if (algorithm := algorithm_of(secret.reveal())) is None:
            table.wrong("public_key", "no such key", PEM)
        else:
            keys.append(PublicKey(secret.reveal(), algorithm))
    return OwnJwt(tuple(keys))


def _issued(table: Table) -> IssuedJwt | None:
    issuer, subject, audience = (
        table.text(key, None, claim_problem) for key in ("issuer", "subject", "audience")
    )
    url = table.text("jwks_url", None, page_problem, shown)
    if any(map(table.has, ISSUED)):
        for key in ("issuer", "jwks_url", "subject"):
            if not table.has(key):
                table.wrong(key, "nothing", "issuer, jwks_url and subject together")
    if issuer is None or subject is None or url is None:
        return None
    return IssuedJwt(issuer, url, subject, audience)


def _uid(table: Table, server: ServerSettings) -> PeerUid | None:
    uid = table.integer("uid", None)
    if uid is None:
        return None
    if uid > MOST_UID or uid == OVERFLOW_UID:
        table.wrong("uid", str(uid) if uid < 10**12 else "a number", "the uid of one user of this machine")
        return None
    if not any(isinstance(listen, UnixListen) for listen in server.internal):
        table.wrong("uid", str(uid), 'a Unix listener to call on: server.internal = { path = "…" }')
        return None
    return PeerUid(uid)


def _collides(table: Table, caller: CallerSettings, other: CallerSettings) -> bool:
    """Return whether one credential could be that of both callers, and report it."""
    name = f"callers.{other.name}"
    match caller.proof, other.proof:
        case PeerUid(uid), PeerUid(same) if uid == same:
            table.wrong("uid", str(uid), f"a uid of its own; {name} has this one")
        case IssuedJwt(issuer, _, subject), IssuedJwt(same, _, taken) if (issuer, subject) == (same, taken):
            table.wrong("subject", quoted(subject), f"another than that of {name}")
        case IssuedJwt(issuer, url), IssuedJwt(same, other_url) if issuer == same and url != other_url:
            table.wrong("jwks_url", quoted(url), f"that of {name}, the same issuer")
        case OwnJwt(), IssuedJwt(issuer) if issuer == caller.name:
            table.wrong("", quoted(issuer), f"another name than the issuer of {name}")
        case IssuedJwt(issuer), OwnJwt() if issuer == other.name:
            table.wrong("issuer", quoted(issuer), f"another than the name of {name}")
        case _:
            return False
    return True


def read_plugin(table: Table) -> PluginSettings | None:
    """Return the OAuth server for plugins, or None if it is off."""
    clients: dict[str, PluginClient] = {}
    for name, inner in table.tables("clients").items():
        client = _plugin_client(name, inner)
        if client.client_id and any(client.client_id == known.client_id for known in clients.values()):
            inner.wrong("client_id", quoted(client.client_id), "an id that no other client has")
        clients[name] = client
    settings = table.section(PluginSettings, clients=clients)
    if settings.enabled and not clients and not table.raw("clients"):
        table.wrong("clients", "none", "at least one table, as in [plugin.clients.kit]")
    if settings.refresh_ttl < settings.access_ttl:
        expected = f"at least access_ttl, which is {settings.access_ttl:.0f} s"
        table.wrong("refresh_ttl", f"{settings.refresh_ttl:.0f} s", expected)
    return settings if settings.enabled else None


def _plugin_client(name: str, table: Table) -> PluginClient:
    if not NAME.fullmatch(name):
        table.wrong("", quoted(name), "a client's name of lower-case letters, digits and hyphens, at most 32")
    title = table.text("name", name)
    if not title.strip() or not title.isprintable() or len(title) > 80:
        table.wrong("name", quoted(title), "what people call it, at most 80 characters")
    uris = table.texts("redirect_uris")
    if not uris and table.raw("redirect_uris", []) == []:
        table.wrong("redirect_uris", "none", "at least one address, compared character by character")
    for uri in uris:
        if expected := page_problem(uri):
            table.wrong("redirect_uris", quoted(shown(uri)), expected)
    secrets = table.secrets("client_secret")
    if not table.has("client_secret"):
        table.wrong("client_secret", "nothing", "the secret that was entered at the client")
    elif not all(VISIBLE.fullmatch(secret.reveal()) for secret in secrets):
        table.wrong("client_secret", "odd characters", VISIBLE_ONLY)
    return table.section(
        PluginClient,
        name=name,
        title=title,
        client_id=table.text("client_id", check=matching(VISIBLE, VISIBLE_ONLY)),
        secrets=secrets,
        redirect_uris=uris,
    )
