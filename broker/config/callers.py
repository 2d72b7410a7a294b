"""Reads `[callers.*]`: who calls with a JWT of its own or of an issuer, or as a user of this machine."""

from collections.abc import Mapping

from broker.config.pem import EXPECTED, algorithm_of
from broker.config.problems import quoted
from broker.config.read import Table, checked
from broker.config.settings import (
    CallerSettings,
    IssuedJwt,
    OwnJwt,
    PeerUid,
    Proof,
    PublicKey,
    ServerSettings,
    UnixListen,
)
from broker.config.urls import page_problem
from broker.model import Permission, is_caller_name, is_glob

ISSUED = ("issuer", "jwks_url", "subject", "audience")
WAYS = "one of: public_key; issuer with jwks_url and subject; uid"
MOST_UID = 2**32 - 2
OVERFLOW_UID = 65534
"""What the kernel shows for every user that it cannot name, as from another user namespace."""
LONGEST_CLAIM = 512


def read_callers(tables: Mapping[str, Table], server: ServerSettings) -> dict[str, CallerSettings]:
    """Every caller that is right; whatever is wrong is noted in its table's problems."""
    found: dict[str, CallerSettings] = {}
    for name, table in tables.items():
        caller = _read(name, table, server)
        table.done()
        if caller is not None and not _collides(table, caller, found):
            found[name] = caller
    return found


def read_audience(table: Table) -> str:
    """The `aud` that JWTs must hold."""
    return _claim(table, "audience", table.text("audience", "token-broker")) or "token-broker"


def _read(name: str, table: Table, server: ServerSettings) -> CallerSettings | None:
    if not is_caller_name(name):
        table.wrong("", quoted(name), "a caller's name: lower-case letters, digits and . _ -, at most 64")
    accounts, permissions = _accounts(table), _permissions(table)
    ways = [way for way in ("public_key", "issuer", "uid") if _is_given(table, way)]
    own, issued, uid = _own(table), _issued(table), _uid(table, server)
    if len(ways) != 1:
        table.wrong("", " and ".join(ways) or "no proof of who calls", WAYS)
        return None
    proof: Proof | None = own or issued or uid
    return None if proof is None else CallerSettings(name, accounts, permissions, proof)


def _is_given(table: Table, way: str) -> bool:
    return any(table.has(key) for key in (ISSUED if way == "issuer" else (way,)))


def _accounts(table: Table) -> tuple[str, ...]:
    globs = table.texts("accounts", ())
    for glob in globs:
        if not is_glob(glob):
            table.wrong("accounts", quoted(glob), "globs over account names, as in 'kit-*'")
    return globs


def _permissions(table: Table) -> frozenset[Permission]:
    words = table.texts("permissions", (Permission.TOKEN,))
    for word in words:
        if word not in list(Permission):
            table.wrong("permissions", quoted(word), f"some of: {', '.join(Permission)}")
    return frozenset(permission for permission in Permission if permission in words)


def _own(table: Table) -> OwnJwt | None:
    value = table.raw("public_key")
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if not 1 <= len(values) <= 2:
        table.wrong(
            "public_key", f"a list of {len(values)}", f"{EXPECTED}, or two while one is being replaced"
        )
        return None
    keys = [_public_key(table, one) for one in values]
    return OwnJwt(tuple(key for key in keys if key is not None))


def _public_key(table: Table, value: object) -> PublicKey | None:
    pem = table.resolve("public_key", value, private=False)
    if pem is None:
        return None
    algorithm = algorithm_of(pem.reveal())
    if algorithm is None:
        table.wrong("public_key", "no such key", EXPECTED)
        return None
    return PublicKey(pem.reveal(), algorithm)


def _issued(table: Table) -> IssuedJwt | None:
    given = {key: _claim(table, key, table.text(key, None)) for key in ISSUED if key != "jwks_url"}
    url = checked(table, "jwks_url", table.text("jwks_url", None), page_problem)
    if not _is_given(table, "issuer"):
        return None
    for key in ("issuer", "jwks_url", "subject"):
        if not table.has(key):
            table.wrong(key, "nothing", "issuer, jwks_url and subject together")
    issuer, subject = given["issuer"], given["subject"]
    if issuer is None or subject is None or url is None:
        return None
    return IssuedJwt(issuer, url, subject, given["audience"])


def _claim(table: Table, key: str, value: str | None) -> str | None:
    """A text that a claim can hold."""
    if value is not None and not (0 < len(value) <= LONGEST_CLAIM and value.isprintable()):
        table.wrong(key, quoted(value), f"1 to {LONGEST_CLAIM} printable characters")
        return None
    return value


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


def _collides(table: Table, caller: CallerSettings, others: Mapping[str, CallerSettings]) -> bool:
    """Whether another caller could be meant by the same proof."""
    for other in others.values():
        match caller.proof, other.proof:
            case PeerUid(uid), PeerUid(same) if uid == same:
                table.wrong("uid", str(uid), f"a uid of its own; callers.{other.name} has this one")
                return True
            case IssuedJwt() as one, IssuedJwt() as two if one.issuer == two.issuer:
                if one.subject == two.subject:
                    table.wrong("subject", quoted(one.subject), f"another than that of callers.{other.name}")
                    return True
                if one.jwks_url != two.jwks_url:
                    table.wrong(
                        "jwks_url", quoted(one.jwks_url), f"that of callers.{other.name}, the same issuer"
                    )
                    return True
            case (OwnJwt(), IssuedJwt(issuer=issuer)) if issuer == caller.name:
                table.wrong("", quoted(issuer), f"another name than the issuer of callers.{other.name}")
                return True
            case (IssuedJwt(issuer=issuer), OwnJwt()) if issuer == other.name:
                table.wrong("issuer", quoted(issuer), f"another than the name of callers.{other.name}")
                return True
            case _:
                pass
    return False
