"""The callers that the configuration names, by what proves each; a reload swaps all of them at once."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, assert_never

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from broker.config.settings import CallerSettings, IssuedJwt, OwnJwt, PeerUid, PublicKey
from broker.model import Caller, CallerKind, CallerRecord

OWN_LIFE = 300.0
ISSUED_LIFE = 24 * 3600.0
Key = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key and the one algorithm it is used with."""

    algorithm: Literal["EdDSA", "ES256", "RS256"]
    key: Key
    id: str | None
    """The issuer's `kid`; of a caller's own key a few letters of its hash, for the audit."""


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """Keys that the configuration holds."""

    keys: tuple[VerifyingKey, ...]


@dataclass(frozen=True, slots=True)
class IssuersKeys:
    """Keys that an issuer publishes."""

    url: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What a JWT of one `iss` and `sub` has to fulfil, and whose it is then."""

    caller: Caller
    audience: str
    longest: float
    """Seconds from `iat` to `exp`, at most."""
    keys: OwnKeys | IssuersKeys


@dataclass(frozen=True, slots=True)
class Edition:
    """The callers of one reading of the file."""

    callers: Mapping[str, CallerSettings]
    by_uid: Mapping[int, Caller] = field(default_factory=dict)
    by_claims: Mapping[tuple[str, str], Expected] = field(default_factory=dict)
    jwks_urls: frozenset[str] = frozenset()


class ConfiguredCallers:
    """`[callers.*]` as it stands, and when each was last used."""

    def __init__(self, settings: Mapping[str, CallerSettings], *, audience: str) -> None:
        self._audience = audience
        self.edition = _edition(settings, audience)
        """What was verified against an earlier edition has to be verified again."""
        self._used: dict[str, float] = {}

    def use(self, settings: Mapping[str, CallerSettings]) -> None:
        """Go on with other callers: the configuration was reloaded."""
        self.edition = _edition(settings, self._audience)

    def has(self, name: str) -> bool:
        return name in self.edition.callers

    def note_use(self, name: str, at: float) -> None:
        self._used[name] = at

    def take_uses(self) -> dict[str, float]:
        """When callers were used since the last time this was asked."""
        uses, self._used = self._used, {}
        return uses

    def keep_uses(self, uses: Mapping[str, float]) -> None:
        """Take back what could not be stored; a later use counts more."""
        self._used = {**uses, **self._used}

    def records(self, uses: Mapping[str, float]) -> list[CallerRecord]:
        """The callers as they are shown; `uses` says when each was last used."""
        return [
            CallerRecord(
                one.name,
                one.accounts,
                one.permissions,
                created_at=None,
                kind=_kind(one),
                last_used_at=uses.get(one.name),
            )
            for one in self.edition.callers.values()
        ]


def _edition(settings: Mapping[str, CallerSettings], audience: str) -> Edition:
    by_uid: dict[int, Caller] = {}
    by_claims: dict[tuple[str, str], Expected] = {}
    urls: set[str] = set()
    for one in settings.values():
        match one.proof:
            case OwnJwt(keys):
                own = OwnKeys(tuple(_loaded(key) for key in keys))
                by_claims[one.name, one.name] = Expected(_caller(one, "jwt"), audience, OWN_LIFE, own)
            case IssuedJwt(issuer, url, subject, aud):
                caller = _caller(one, f"jwt of {issuer}")
                by_claims[issuer, subject] = Expected(caller, aud or audience, ISSUED_LIFE, IssuersKeys(url))
                urls.add(url)
            case PeerUid(uid):
                by_uid[uid] = _caller(one, f"uid {uid}")
            case unexpected:
                assert_never(unexpected)
    return Edition(dict(settings), by_uid, by_claims, frozenset(urls))


def _caller(one: CallerSettings, credential: str) -> Caller:
    return Caller(one.name, one.accounts, one.permissions, credential)


def _loaded(public: PublicKey) -> VerifyingKey:
    key = load_pem_public_key(public.pem.encode())
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey):
        raise TypeError("the configuration lets no other key through")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return VerifyingKey(public.algorithm, key, hashlib.sha256(der).hexdigest()[:12])


def _kind(one: CallerSettings) -> CallerKind:
    match one.proof:
        case OwnJwt():
            return CallerKind.PUBLIC_KEY
        case IssuedJwt():
            return CallerKind.ISSUER
        case PeerUid():
            return CallerKind.UID
        case unexpected:
            assert_never(unexpected)
