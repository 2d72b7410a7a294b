"""Reads `[callers.*]` and `[plugin]`: the callers of the broker, and the clients that sign in to it."""

from collections.abc import Mapping

from broker.config.settings import (
    CallerSettings,
    IssuedJwt,
    OwnJwt,
    PeerUid,
    PluginClient,
    PluginSettings,
    Proof,
    PublicKey,
    ServerSettings,
    UnixListen,
)
from broker.config.table import Table, quoted
from broker.config.values import (
    NAME,
    PEM,
    VISIBLE,
    algorithm_of,
    claim_problem,
    matching,
    page_problem,
    shown,
)
from broker.model import Permission, Secret, is_caller_name, is_glob

ISSUED = ("issuer", "jwks_url", "subject", "audience")
WAYS = "one of: public_key; issuer with jwks_url and subject; uid"
MOST_UID = 2**32 - 2
OVERFLOW_UID = 65534
"""The uid that the kernel shows for users that it cannot map, as from another user namespace."""
VISIBLE_ONLY = "visible ASCII characters, at most 255"


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
    return table.section(
        PluginClient,
        name=name,
        title=title,
        client_id=table.text("client_id", check=matching(VISIBLE, VISIBLE_ONLY)),
        secrets=_plugin_secrets(table),
        redirect_uris=uris,
    )


def _plugin_secrets(table: Table) -> tuple[Secret, ...]:
    secrets = table.secrets("client_secret")
    if not table.has("client_secret"):
        table.wrong("client_secret", "nothing", "the secret that was entered at the client")
    elif not all(VISIBLE.fullmatch(secret.reveal()) for secret in secrets):
        table.wrong("client_secret", "odd characters", VISIBLE_ONLY)
    return secrets
