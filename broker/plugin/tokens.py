"""What a code or a refresh token is worth, and how tokens are made and sealed. Read this to know the rules."""

import base64
import hmac
import json
import os
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker import oauth
from broker.config.settings import PluginClient
from broker.model import FoundPair, PluginCode, PluginPair, Secret
from broker.model.plugin import FORGIVEN_FOR

USED_LEEWAY = 10.0
"""Seconds after the successor's first use: of two workers that renew at once one is a little late."""
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)
PREFIX = "tbp_"
"""Lets secret scanners know our tokens."""
NONCE_BYTES = 12
INFO = b"tb/plugin-pair/1"


@dataclass(frozen=True, slots=True)
class Good:
    """It is what it should be."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """It was used before: the grant has been stolen, or its answer was lost too long ago."""

    grant_id: str


@dataclass(frozen=True, slots=True)
class Again:
    """It was used a moment ago, and its answer seems to be lost: the same pair once more."""

    sealed: str


@dataclass(frozen=True, slots=True)
class Worthless:
    """Nothing is given for it, and nothing happens; `why` is for the log."""

    why: str


def judge_code(
    code: PluginCode | None,
    client: PluginClient,
    *,
    redirect_uri: str | None,
    verifier: Secret | None,
    now: float,
) -> Good | Replayed | Worthless:
    """RFC 6749 4.1.3, RFC 7636 4.6, RFC 9700 4.8.2."""
    if code is None or code.client != client.name:
        return Worthless("unknown")
    if code.grant_id is not None:
        return Replayed(code.grant_id)
    if code.expires_at <= now:
        return Worthless("expired")
    if not _is_redirect_uri_right(code, client, redirect_uri):
        return Worthless("redirect_uri")
    return Good() if _is_verifier_right(code.challenge, verifier) else Worthless("verifier")


def _is_redirect_uri_right(code: PluginCode, client: PluginClient, given: str | None) -> bool:
    # Any registered one will do: Kit's documents ask with /apps/install and redeem with /apps.
    return code.redirect_uri is None if given is None else given in client.redirect_uris


def _is_verifier_right(challenge: str | None, verifier: Secret | None) -> bool:
    """Asked with a challenge, redeemed with its verifier; without, without: no downgrade either way."""
    if challenge is None or verifier is None:
        return challenge is None and verifier is None
    well_formed = VERIFIER.fullmatch(verifier.reveal()) is not None
    return hmac.compare_digest(oauth.challenge_of(verifier), challenge) and well_formed


def judge_refresh_token(
    found: FoundPair | None, client: PluginClient, *, now: float
) -> Good | Again | Replayed | Worthless:
    """RFC 9700 4.14.2, but for a minute in which an answer may have been lost."""
    if found is None or found.grant.client != client.name:
        return Worthless("unknown")
    pair = found.pair
    if found.grant.revoked_at is not None or pair.refresh_expires_at <= now:
        return Worthless("dead")
    if pair.replaced_at is None:
        return Good()
    if pair.sealed_next is not None and now < _forgiven_until(pair.replaced_at, found.next_used_at):
        return Again(pair.sealed_next)
    return Replayed(pair.grant_id)


def _forgiven_until(replaced_at: float, next_used_at: float | None) -> float:
    until = replaced_at + FORGIVEN_FOR
    return until if next_used_at is None else min(until, next_used_at + USED_LEEWAY)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A pair in clear; it exists on the way out only."""

    access: Secret
    refresh: Secret

    def as_pair(
        self, grant_id: str, scope: str, *, now: float, access_ttl: float, refresh_ttl: float
    ) -> PluginPair:
        """How it lies in the store."""
        return PluginPair(
            refresh_hash=oauth.hashed(self.refresh),
            access_hash=oauth.hashed(self.access),
            grant_id=grant_id,
            scope=scope,
            created_at=now,
            access_expires_at=now + access_ttl,
            refresh_expires_at=now + refresh_ttl,
        )


def new_tokens() -> Tokens:
    return Tokens(_new_token(), _new_token())


def seal_for_replay(old: Secret, tokens: Tokens) -> str:
    """The pair, under a key that comes from the refresh token it replaces: the store alone opens nothing."""
    nonce = os.urandom(NONCE_BYTES)
    plain = json.dumps([tokens.access.reveal(), tokens.refresh.reveal()]).encode()
    sealed = nonce + _cipher(old).encrypt(nonce, plain, oauth.hashed(old).encode())
    return base64.urlsafe_b64encode(sealed).decode()


def open_for_replay(old: Secret, record: str) -> Tokens | None:
    """None where the record is damaged."""
    raw = base64.urlsafe_b64decode(record)
    try:
        plain = _cipher(old).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], oauth.hashed(old).encode())
    except (InvalidTag, ValueError):
        return None
    access, refresh = json.loads(plain)
    return Tokens(Secret(access), Secret(refresh))


def _new_token() -> Secret:
    return Secret(PREFIX + oauth.new_secret().reveal())


def _cipher(old: Secret) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=INFO).derive(old.reveal().encode()))
