"""Grants: exchange a code or a refresh token for a pair of tokens, and end a grant."""

import base64
import json
import os
import re
import secrets
from dataclasses import dataclass

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker import oauth
from broker.config.settings import PluginClient, PluginSettings
from broker.context import Context
from broker.errors import NotFound, StorageUnavailable
from broker.model import (
    Caller,
    Event,
    EventKind,
    FoundPair,
    Incident,
    Permission,
    PluginCode,
    PluginGrant,
    PluginPair,
    Secret,
)
from broker.model.plugin import FORGIVEN_FOR
from broker.plugin.clients import Parameters, Refused, as_caller, bad_grant, required

log = structlog.get_logger()
NOTED_EVERY = 300.0
"""Seconds between two notes that a grant is in use, so that most introspections write nothing."""
USED_LEEWAY = 10.0
"""Seconds after the first use of the successor: one of two workers that renew in parallel is a little late."""
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)
PREFIX = "tbp_"
"""A prefix by which secret scanners recognize the tokens."""
NONCE_BYTES = 12
INFO = b"tb/plugin-pair/1"


@dataclass(frozen=True, slots=True)
class Replayed:
    """It was used before: it was stolen, or its answer was lost too long ago."""

    grant_id: str


@dataclass(frozen=True, slots=True)
class Again:
    """It was used a moment ago, and its answer may be lost, so the same pair is issued again."""

    encrypted: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """It is refused, and nothing else happens; `why` is for the log."""

    why: str


def judge_code(
    code: PluginCode | None,
    client: PluginClient,
    *,
    redirect_uri: str | None,
    verifier: Secret | None,
    now: float,
) -> PluginCode | Replayed | Invalid:
    """Return a valid code, or why it is not valid (RFC 6749 4.1.3, RFC 7636 4.6, RFC 9700 4.8.2)."""
    if code is None or code.client != client.name:
        return Invalid("unknown")
    if code.grant_id is not None:
        return Replayed(code.grant_id)
    if code.expires_at <= now:
        return Invalid("expired")
    # Any registered URI is accepted: in Kit's documents /apps/install asks and /apps redeems.
    if code.redirect_uri is not None if redirect_uri is None else redirect_uri not in client.redirect_uris:
        return Invalid("redirect_uri")
    # A challenge needs a verifier, and a verifier needs a challenge, so that neither is downgraded.
    if code.challenge is None or verifier is None:
        return code if code.challenge is None and verifier is None else Invalid("verifier")
    is_right = oauth.is_same(oauth.challenge_of(verifier), code.challenge)
    return code if is_right and VERIFIER.fullmatch(verifier.reveal()) else Invalid("verifier")


def judge_refresh_token(
    found: FoundPair | None, client: PluginClient, *, now: float
) -> FoundPair | Again | Replayed | Invalid:
    """Return the pair of a valid refresh token, or why it is not valid (RFC 9700 4.14.2).

    For FORGIVEN_FOR seconds the answer may have been lost, so the same pair is issued again.
    """
    if found is None or found.grant.client != client.name:
        return Invalid("unknown")
    pair = found.pair
    if found.grant.revoked_at is not None or pair.refresh_expires_at <= now:
        return Invalid("dead")
    if pair.replaced_at is None:
        return found
    forgiven_until = pair.replaced_at + FORGIVEN_FOR
    if found.next_used_at is not None:
        forgiven_until = min(forgiven_until, found.next_used_at + USED_LEEWAY)
    if pair.sealed_next is not None and now < forgiven_until:
        return Again(pair.sealed_next)
    return Replayed(pair.grant_id)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A pair of tokens in clear text, which exists only until it is sent."""

    access: Secret
    refresh: Secret


def new_tokens() -> Tokens:
    """Make a random pair."""
    return Tokens(*(Secret(PREFIX + oauth.new_secret().reveal()) for _ in range(2)))


def encrypt_for_replay(old: Secret, tokens: Tokens) -> str:
    """Encrypt a pair under a key derived from the refresh token it replaces; the store alone cannot decrypt it."""
    nonce = os.urandom(NONCE_BYTES)
    plain = json.dumps([tokens.access.reveal(), tokens.refresh.reveal()]).encode()
    encrypted = nonce + _cipher(old).encrypt(nonce, plain, oauth.hashed(old).encode())
    return base64.urlsafe_b64encode(encrypted).decode()


def decrypt_for_replay(old: Secret, record: str) -> Tokens | None:
    """Decrypt a pair; None if the record is damaged or was encrypted for another token."""
    raw = base64.urlsafe_b64decode(record)
    try:
        plain = _cipher(old).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], oauth.hashed(old).encode())
    except (InvalidTag, ValueError):
        return None
    access, refresh = json.loads(plain)
    return Tokens(Secret(access), Secret(refresh))


def _cipher(old: Secret) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=INFO).derive(old.reveal().encode()))


@dataclass(frozen=True, slots=True)
class Issued:
    """The tokens of a token answer (RFC 6749 5.1)."""

    tokens: Tokens
    pair: PluginPair
    expires_in: int
    """Seconds for which the access token is valid, rounded down."""


class GrantService:
    """The service behind the token, revocation and introspection endpoints, and behind `broker plugin`."""

    def __init__(self, context: Context, settings: PluginSettings) -> None:
        self._context, self._settings = context, settings
        self._store, self._clock = context.stores.plugin, context.steady

    async def redeem(self, client: PluginClient, parameters: Parameters, *, request_id: str) -> Issued:
        """Exchange a code for the tokens of a new grant. A second time it ends that grant. Raises Refused."""
        redirect_uri, verifier = parameters.get("redirect_uri"), parameters.get("code_verifier")
        found = judge_code(
            await self._store.code(oauth.hashed(required(parameters, "code"))),
            client,
            redirect_uri=redirect_uri,
            verifier=None if verifier is None else Secret(verifier),
            now=self._clock.now(),
        )
        if isinstance(found, Replayed):
            await self._replayed(client, found.grant_id, Incident.CODE_REPLAYED, request_id)
            raise bad_grant("code")
        if isinstance(found, Invalid):
            log.warning("plugin.code_refused", client=client.name, why=found.why)
            raise bad_grant("code")
        if redirect_uri not in (None, found.redirect_uri):
            log.info("plugin.other_redirect_uri", client=client.name)
        now, tokens, grant_id = self._clock.now(), new_tokens(), secrets.token_hex(8)
        pair = self._pair(tokens, grant_id, found.scope, now)
        grant = PluginGrant(
            id=grant_id,
            client=client.name,
            subject=found.subject,
            scope=found.scope,
            created_at=now,
            last_used_at=now,
            expires_at=pair.refresh_expires_at,
            code_hash=found.hash,
        )
        # Audited before it is stored: without an audit record the code must not be spent.
        await self._announce(client, "plugin.issue", grant, tokens, request_id)
        connected = Event(now, EventKind.PLUGIN_CONNECTED, None, client.name, subject=grant.subject)
        if not await self._store.redeem(grant, pair, [connected]):
            other = await self._store.code(found.hash)
            if other is not None and other.grant_id is not None:
                await self._replayed(client, other.grant_id, Incident.CODE_REPLAYED, request_id)
            raise bad_grant("code")
        return _issued(tokens, pair)

    async def renew(self, client: PluginClient, parameters: Parameters, *, request_id: str) -> Issued:
        """Exchange a refresh token for the next pair. For a short time it returns the same pair. Raises Refused."""
        token, scope = required(parameters, "refresh_token"), parameters.get("scope")
        for _ in range(2):
            now, pair = self._clock.now(), await self._store.by_refresh_token(oauth.hashed(token))
            match judge_refresh_token(pair, client, now=now):
                case Again(encrypted):
                    tokens = decrypt_for_replay(token, encrypted)
                    if tokens and (found := await self._store.by_refresh_token(oauth.hashed(tokens.refresh))):
                        await self._announce(client, "plugin.renew_again", found.grant, tokens, request_id)
                        return Issued(tokens, found.pair, int(found.pair.access_expires_at - now))
                    break
                case Replayed(grant_id):
                    await self._replayed(client, grant_id, Incident.TOKEN_REPLAYED, request_id)
                    break
                case Invalid(why):
                    log.warning("plugin.refresh_refused", client=client.name, why=why)
                    break
                case FoundPair(old, grant):
                    granted = grant.scope
                    wanted = oauth.scope_set(granted if scope is None else scope.replace(",", " "))
                    if not wanted <= oauth.scope_set(granted):
                        # A renewal may ask for less, never for more (RFC 6749 6).
                        raise Refused("invalid_scope", "A renewal gets no more than was granted.")
                    narrowed = " ".join(one for one in granted.split() if one in wanted)
                    tokens = new_tokens()
                    new = self._pair(tokens, grant.id, granted if scope is None else narrowed, now)
                    await self._announce(client, "plugin.renew", grant, tokens, request_id)
                    encrypted_pair = encrypt_for_replay(token, tokens)
                    # If another request was faster, the second round finds the pair it made.
                    if await self._store.rotate(old.refresh_hash, new, encrypted_pair):
                        return _issued(tokens, new)
        raise bad_grant("refresh token")

    async def revoke(self, client: PluginClient, token: Secret, *, request_id: str) -> None:
        """End the grant of an access or refresh token. Nothing happens if it is unknown or another client's."""
        token_hash = oauth.hashed(token)
        found = await self._store.by_access_token(token_hash) or await self._store.by_refresh_token(
            token_hash
        )
        if found is None or found.grant.client != client.name:
            log.info("plugin.revoked_nothing", client=client.name)
            return
        await self._end(as_caller(client), found.grant, Incident.UNINSTALLED, request_id)

    async def introspect(self, caller: Caller, token: Secret, *, request_id: str) -> FoundPair | None:
        """Return the grant of a valid access token, or None. A refresh token is not active, as it gives no access."""
        await self._context.authorizer.require(
            caller, Permission.PLUGIN, None, request_id=request_id, action="plugin.introspect", reads=True
        )
        found = await self._store.by_access_token(oauth.hashed(token))
        now = self._clock.now()
        if found is None or found.grant.revoked_at is not None or found.pair.access_expires_at <= now:
            return None
        if found.pair.used_at is None or now - found.grant.last_used_at >= NOTED_EVERY:
            try:
                await self._store.note_use(found.pair, now)
            except StorageUnavailable:
                # The token is valid even if its use cannot be noted.
                log.warning("plugin.use_not_noted", grant=found.grant.id)
        return found

    async def grants(
        self, caller: Caller, *, subject: str | None, after: str, limit: int, request_id: str
    ) -> list[PluginGrant]:
        """Return a page of the grants that have not ended or expired, maybe of one subject, by ascending id."""
        await self._context.authorizer.require(
            caller, Permission.PLUGIN, None, request_id=request_id, action="plugin.grants", reads=True
        )
        return await self._store.grants(subject=subject, now=self._clock.now(), after=after, limit=limit)

    async def end(self, caller: Caller, grant_id: str, *, request_id: str) -> None:
        """End a grant for an operator. Raises NotFound."""
        await self._context.authorizer.require(caller, Permission.PLUGIN, None, request_id=request_id)
        grant = await self._store.grant(grant_id)
        if grant is None or grant.revoked_at is not None:
            raise NotFound(
                f"There is no grant {grant_id[:32]!r}, or it has ended; `broker plugin grants` lists them."
            )
        await self._end(caller, grant, Incident.REVOKED_BY_OPERATOR, request_id)

    async def _replayed(self, client: PluginClient, grant_id: str, why: Incident, request_id: str) -> None:
        self._context.metrics.auth_failures.labels("plugin_replay").inc()
        log.warning("plugin.replayed", client=client.name, grant=grant_id, why=why)
        grant = await self._store.grant(grant_id)
        if grant is not None:
            await self._end(as_caller(client), grant, why, request_id)

    async def _end(self, caller: Caller, grant: PluginGrant, why: Incident, request_id: str) -> None:
        now = self._clock.now()
        kind = EventKind.PLUGIN_DISCONNECTED
        event = Event(now, kind, grant.account, grant.client, why, subject=grant.subject)
        # The grant ends first: it must not stay valid because an audit record cannot be written.
        if await self._store.revoke(grant.id, now, [event]):
            log.info("plugin.ended", client=grant.client, grant=grant.id, why=why)
            await self._context.authorizer.note(
                caller, "plugin.end", grant.account, f"grant {grant.id}: {why}", request_id=request_id
            )

    async def _announce(
        self, client: PluginClient, action: str, grant: PluginGrant, tokens: Tokens, request_id: str
    ) -> None:
        """Audit that these tokens are about to be sent. Raises AuditUnavailable; then they must not be sent."""
        mark = self._context.encryption.fingerprint(tokens.access)
        detail = f"grant {grant.id}, subject {grant.subject}, token {mark}"
        await self._context.authorizer.announce(
            as_caller(client), action, grant.account, detail, request_id=request_id
        )

    def _pair(self, tokens: Tokens, grant_id: str, scope: str, now: float) -> PluginPair:
        return PluginPair(
            refresh_hash=oauth.hashed(tokens.refresh),
            access_hash=oauth.hashed(tokens.access),
            grant_id=grant_id,
            scope=scope,
            created_at=now,
            access_expires_at=now + self._settings.access_ttl,
            refresh_expires_at=now + self._settings.refresh_ttl,
        )


def _issued(tokens: Tokens, pair: PluginPair) -> Issued:
    """Return a new pair. The lifetime is rounded: the difference of two epochs may be slightly less than configured."""
    return Issued(tokens, pair, round(pair.access_expires_at - pair.created_at))
