"""The codes, grants and tokens that the sandbox has issued, and the rules by which they are valid."""

import json
import secrets
from base64 import urlsafe_b64encode
from dataclasses import asdict, dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any

from broker.sandbox.faults import Mode, Provider, Switches
from broker.sandbox.store import SandboxStore

CODE_LIFE = 600.0
PREFIXES = {"kit": "sbx-kit", "kustomer": "sbx-kus"}
REFRESH_ROWS = """
SELECT t.sha256, t.grant_id, t.last_used_at, t.superseded_at, t.revoked OR g.revoked AS revoked
  FROM refresh_tokens t JOIN grants g ON g.id = t.grant_id"""
ACCESS_ROW = """
SELECT t.value, t.sha256, t.grant_id, t.refresh, t.parent, t.created_at, t.expires_at,
       t.revoked OR g.revoked AS revoked
  FROM access_tokens t JOIN grants g ON g.id = t.grant_id"""


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """One refresh token as stored. Times are epoch seconds by the sandbox's clock."""

    sha256: str
    grant_id: int
    last_used_at: float
    superseded_at: float | None
    revoked: bool
    """The token itself or its whole grant is revoked."""


class Verdict(StrEnum):
    """The way in which a renewal with a refresh token is handled."""

    GOOD = "good"
    AGAIN = "again"
    """The token was used before, and its grace time has not passed."""
    REPLAY = "replay"
    """The token was used before, so the whole grant is revoked (mode F)."""
    DEAD = "dead"
    """The token is revoked, expired, or was used before."""


def judge(token: RefreshToken, switches: Switches, now: float) -> Verdict:
    """Decide how a renewal with this token is handled in the mode that is set now."""
    if token.superseded_at is not None and switches.rotation is Mode.FAMILY:
        return Verdict.REPLAY
    idle = switches.idle_expiry is not None and now >= token.last_used_at + switches.idle_expiry
    if token.revoked or idle:
        return Verdict.DEAD
    if token.superseded_at is None:
        return Verdict.GOOD
    match switches.rotation:
        case Mode.NONE | Mode.ON_USE:
            return Verdict.GOOD
        case Mode.GRACE_SAME | Mode.GRACE_SIBLING | Mode.GRACE_LATEST:
            return Verdict.AGAIN if now < token.superseded_at + switches.grace else Verdict.DEAD
        case Mode.STRICT | Mode.FAMILY:
            return Verdict.DEAD


def is_live(token: RefreshToken, switches: Switches, now: float) -> bool:
    """Return whether a renewal with this token would be answered with tokens."""
    return judge(token, switches, now) in (Verdict.GOOD, Verdict.AGAIN)


def fingerprint(token: str) -> str:
    """Return the SHA-256 in hex, which names a token in the record."""
    return sha256(token.encode()).hexdigest()


def new_token(provider: Provider, kind: str) -> str:
    """Make an unguessable token. Its prefix, as in `sbx-kit-rt-…`, can be searched for in logs."""
    return f"{PREFIXES[provider]}-{kind}-{secrets.token_urlsafe(32)}"


@dataclass(frozen=True, slots=True)
class Holder:
    """The account whose data a grant gives access to."""

    external_id: str
    label: str
    email: str
    org: str | None = None
    """Kustomer's org slug."""


@dataclass(frozen=True, slots=True)
class Consent:
    """The access that a user allowed to a client; a code is exchanged for it."""

    provider: Provider
    client_id: str
    redirect_uri: str
    challenge: str | None
    scope: str
    tenant: str | None
    holder: Holder

    def columns(self) -> dict[str, Any]:
        """Return the columns of its row, the holder's members among them."""
        flat: dict[str, Any] = asdict(self)
        flat |= flat.pop("holder")
        return flat


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant: a client's access to one account."""

    id: int
    provider: Provider
    client_id: str
    scope: str
    holder: Holder


@dataclass(frozen=True, slots=True)
class AccessToken:
    """One access token as stored. Times are epoch seconds by the sandbox's clock."""

    value: str
    sha256: str
    grant_id: int
    refresh: str | None
    """Fingerprint of the refresh token that was issued together with it."""
    parent: str | None
    """Fingerprint of the refresh token that was exchanged for it."""
    created_at: float
    expires_at: float
    revoked: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """The tokens of one token answer."""

    access: AccessToken
    refresh: str | None


class Issued:
    """The stored codes, grants and tokens. Callers hold a transaction where several changes belong together."""

    def __init__(self, store: SandboxStore) -> None:
        self._store = store

    def new_code(self, consent: Consent, now: float) -> str:
        """Store a consent and return the code for it."""
        code = new_token(consent.provider, "code")
        self._store.insert("codes", sha256=fingerprint(code), **consent.columns(), expires_at=now + CODE_LIFE)
        return code

    def code(self, code: str) -> tuple[Consent, float, int | None] | None:
        """Return the consent of a code, when the code expires, and the grant it was redeemed for, if it was."""
        row = self._store.row("SELECT * FROM codes WHERE sha256 = ?", fingerprint(code))
        if row is None:
            return None
        own = ("provider", "client_id", "redirect_uri", "challenge", "scope", "tenant")
        return (
            Consent(**{name: row[name] for name in own}, holder=_holder(row)),
            row["expires_at"],
            row["grant_id"],
        )

    def redeem(self, code: str, consent: Consent, now: float) -> Grant:
        """Make the grant that a code stands for, and mark the code as spent."""
        of_the_code = ("redirect_uri", "challenge")
        columns = {name: value for name, value in consent.columns().items() if name not in of_the_code}
        grant_id = self._store.insert("grants", **columns, created_at=now)
        self.spend(code, grant_id)
        return self.grant(grant_id)

    def spend(self, code: str, grant_id: int) -> None:
        """Mark a code as spent for this grant."""
        self._store.write("UPDATE codes SET grant_id = ? WHERE sha256 = ?", grant_id, fingerprint(code))

    def grant(self, grant_id: int) -> Grant:
        """Return the grant with this id."""
        row = self._store.row("SELECT * FROM grants WHERE id = ?", grant_id)
        return Grant(row["id"], row["provider"], row["client_id"], row["scope"], _holder(row))

    def valid_pair(self, consent: Consent, now: float) -> Pair | None:
        """Return the valid tokens that this client already has for the same account and tenant (Doorkeeper)."""
        return self._pair(
            "g.provider = ? AND g.client_id = ? AND g.external_id = ? AND g.tenant IS ?"
            " AND t.expires_at > ? AND NOT t.revoked AND NOT g.revoked ORDER BY t.n DESC",
            *(consent.provider, consent.client_id, consent.holder.external_id, consent.tenant, now),
        )

    def first_successor(self, parent: str) -> Pair | None:
        """Return the tokens of the first renewal with `parent`, unless they are revoked."""
        return self._pair("t.parent = ? AND NOT t.revoked AND NOT g.revoked ORDER BY t.n", parent)

    def _pair(self, where: str, *values: object) -> Pair | None:
        row = self._store.row(f"{ACCESS_ROW} WHERE {where} LIMIT 1", *values)
        if row is None:
            return None
        refresh = self._store.row("SELECT value FROM refresh_tokens WHERE sha256 = ?", row["refresh"])
        return Pair(AccessToken(**row), None if refresh is None else str(refresh["value"]))

    def issue(self, grant: Grant, *, parent: str | None, life: float, now: float) -> Pair:
        """Store a new access token and a new refresh token."""
        refresh = new_token(grant.provider, "rt")
        sha = fingerprint(refresh)
        self._store.insert(
            "refresh_tokens", sha256=sha, value=refresh, grant_id=grant.id, parent=parent, last_used_at=now
        )
        return Pair(self.issue_access(grant, refresh=sha, parent=parent, life=life, now=now), refresh)

    def issue_access(
        self, grant: Grant, *, refresh: str | None, parent: str | None = None, life: float, now: float
    ) -> AccessToken:
        """Store a new access token; `refresh` and `parent` are the fingerprints of its refresh tokens, if any."""
        value = _access_token(grant, now, now + life)
        token = AccessToken(value, fingerprint(value), grant.id, refresh, parent, now, now + life, False)
        self._store.insert("access_tokens", **asdict(token))
        return token

    def refresh_token(self, token: str) -> RefreshToken | None:
        """Return the row of a refresh token, or None if it was never issued."""
        row = self._store.row(REFRESH_ROWS + " WHERE t.sha256 = ?", fingerprint(token))
        return None if row is None else RefreshToken(**row)

    def access_token(self, token: str) -> AccessToken | None:
        """Return the row of an access token, or None if it was never issued."""
        row = self._store.row(ACCESS_ROW + " WHERE t.sha256 = ?", fingerprint(token))
        return None if row is None else AccessToken(**row)

    def mark_used(self, sha: str, now: float, superseded_at: float | None = None) -> None:
        """Note when a refresh token was last used, and when it first had a successor."""
        sql = "UPDATE refresh_tokens SET last_used_at = ?, superseded_at = COALESCE(superseded_at, ?)"
        self._store.write(f"{sql} WHERE sha256 = ?", now, superseded_at, sha)

    def revoke_refresh(self, sha: str, *, and_access: bool) -> None:
        """Revoke a refresh token and, if asked, the access tokens that were issued together with it."""
        self._store.write("UPDATE refresh_tokens SET revoked = 1 WHERE sha256 = ?", sha)
        if and_access:
            self._store.write("UPDATE access_tokens SET revoked = 1 WHERE refresh = ?", sha)

    def revoke_successors(self, parent: str) -> None:
        """Revoke every pair that was issued for this refresh token so far."""
        self._store.write("UPDATE refresh_tokens SET revoked = 1 WHERE parent = ?", parent)
        self._store.write("UPDATE access_tokens SET revoked = 1 WHERE parent = ?", parent)

    def revoke_grant(self, grant_id: int) -> None:
        """Revoke a grant and so all its tokens."""
        self._store.write("UPDATE grants SET revoked = 1 WHERE id = ?", grant_id)

    def revoke_all_of(self, provider: Provider, holder: str) -> int:
        """Revoke the grants of an account (its id, or a Kustomer org's slug) as an uninstall does; count them."""
        rows = self._store.rows(
            "UPDATE grants SET revoked = 1"
            " WHERE provider = ? AND ? IN (external_id, org) AND NOT revoked RETURNING id",
            provider,
            holder,
        )
        return len(rows)


def _holder(row: Any) -> Holder:
    return Holder(row["external_id"], row["label"], row["email"], row["org"])


def _access_token(grant: Grant, created_at: float, expires_at: float) -> str:
    """Make the text of an access token; Kustomer's looks like a JWT with the org in it and a random signature."""
    if grant.provider == "kit":
        return new_token("kit", "at")
    claims = {
        "id": secrets.token_hex(12),
        "user": kustomer_id("user", grant.holder.org or ""),
        "org": grant.holder.external_id,
        "orgName": grant.holder.org or "",
        "pod": "prod1",
        "iat": int(created_at),
        "exp": int(expires_at),
    }
    parts = (base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return ".".join([*parts, new_token("kustomer", "at")])


def kustomer_id(kind: str, org: str) -> str:
    """Return the id of an org or of its user: 24 hexadecimal digits, the same for each slug, never the slug itself."""
    return sha256(f"{kind} {org}".encode()).hexdigest()[:24]


def base64url(data: bytes) -> str:
    """Encode in base64url without padding (RFC 7515)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()
