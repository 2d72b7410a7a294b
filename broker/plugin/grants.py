"""Grants: what a code or a refresh token is worth, the pair it becomes, and how a grant ends."""

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
from broker.plugin.clients import Refused, as_caller, bad_grant

log = structlog.get_logger()
NOTED_EVERY = 300.0
"""Seconds between two notes that a grant is in use: asking about a token is no write as a rule."""
USED_LEEWAY = 10.0
"""Seconds after the successor's first use: of two workers that renew at once one is a little late."""
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)
PREFIX = "tbp_"
"""Lets secret scanners know our tokens."""
NONCE_BYTES = 12
INFO = b"tb/plugin-pair/1"


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
) -> PluginCode | Replayed | Worthless:
    """Return a code that is worth a grant, or why it is worth none, by RFC 6749 4.1.3, RFC 7636 4.6, RFC 9700 4.8.2."""
    if code is None or code.client != client.name:
        return Worthless("unknown")
    if code.grant_id is not None:
        return Replayed(code.grant_id)
    if code.expires_at <= now:
        return Worthless("expired")
    # Any registered one will do: Kit's documents ask with /apps/install and redeem with /apps.
    if code.redirect_uri is not None if redirect_uri is None else redirect_uri not in client.redirect_uris:
        return Worthless("redirect_uri")
    # Asked with a challenge, redeemed with its verifier; without, without: no downgrade either way.
    if code.challenge is None or verifier is None:
        return code if code.challenge is None and verifier is None else Worthless("verifier")
    is_right = oauth.is_same(oauth.challenge_of(verifier), code.challenge)
    return code if is_right and VERIFIER.fullmatch(verifier.reveal()) else Worthless("verifier")


def judge_refresh_token(
    found: FoundPair | None, client: PluginClient, *, now: float
) -> FoundPair | Again | Replayed | Worthless:
    """Return the pair of a refresh token that is good, or what to do, by RFC 9700 4.14.2.

    For a minute an answer may have been lost, so the same pair is given again.
    """
    if found is None or found.grant.client != client.name:
        return Worthless("unknown")
    pair = found.pair
    if found.grant.revoked_at is not None or pair.refresh_expires_at <= now:
        return Worthless("dead")
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
    """A pair in clear; it exists on the way out only."""

    access: Secret
    refresh: Secret


def new_tokens() -> Tokens:
    return Tokens(*(Secret(PREFIX + oauth.new_secret().reveal()) for _ in range(2)))


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


def _cipher(old: Secret) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=INFO).derive(old.reveal().encode()))


@dataclass(frozen=True, slots=True)
class Issued:
    """What a token endpoint answers with (RFC 6749 5.1)."""

    tokens: Tokens
    pair: PluginPair
    expires_in: int
    """Whole seconds that are left, rounded down."""


class GrantService:
    """What `/plugin/token`, `/plugin/refresh`, `/plugin/revoke`, `/plugin/introspect` and `broker plugin` do."""

    def __init__(self, context: Context, settings: PluginSettings) -> None:
        self._context, self._settings = context, settings
        self._store, self._clock = context.stores.plugin, context.steady

    async def redeem(
        self,
        client: PluginClient,
        code: Secret,
        *,
        redirect_uri: str | None,
        verifier: Secret | None,
        request_id: str,
    ) -> Issued:
        """Turn a code into a grant, once; a second time it ends that grant. Raises Refused."""
        found = judge_code(
            await self._store.code(oauth.hashed(code)),
            client,
            redirect_uri=redirect_uri,
            verifier=verifier,
            now=self._clock.now(),
        )
        if isinstance(found, Replayed):
            await self._replayed(client, found.grant_id, Incident.CODE_REPLAYED, request_id)
            raise bad_grant("code")
        if isinstance(found, Worthless):
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
        # Before it is stored: what was not audited must not spend the code either.
        await self._announce(client, "plugin.issue", grant, tokens, request_id)
        if not await self._store.redeem(grant, pair, [_event(EventKind.PLUGIN_CONNECTED, grant, now)]):
            other = await self._store.code(found.hash)
            if other is not None and other.grant_id is not None:
                await self._replayed(client, other.grant_id, Incident.CODE_REPLAYED, request_id)
            raise bad_grant("code")
        return _fresh(tokens, pair)

    async def renew(
        self, client: PluginClient, token: Secret, *, scope: str | None, request_id: str
    ) -> Issued:
        """Turn a refresh token into the next pair; for a moment it gives the same one again. Raises Refused."""
        for _ in range(2):
            now, pair = self._clock.now(), await self._store.by_refresh_token(oauth.hashed(token))
            match judge_refresh_token(pair, client, now=now):
                case Again(sealed):
                    tokens = open_for_replay(token, sealed)
                    if tokens and (found := await self._store.by_refresh_token(oauth.hashed(tokens.refresh))):
                        await self._announce(client, "plugin.renew_again", found.grant, tokens, request_id)
                        return Issued(tokens, found.pair, int(found.pair.access_expires_at - now))
                    break
                case Replayed(grant_id):
                    await self._replayed(client, grant_id, Incident.TOKEN_REPLAYED, request_id)
                    break
                case Worthless(why):
                    log.warning("plugin.refresh_refused", client=client.name, why=why)
                    break
                case FoundPair(old, granted):
                    tokens = new_tokens()
                    new = self._pair(tokens, granted.id, _narrowed(scope, granted.scope), now)
                    await self._announce(client, "plugin.renew", granted, tokens, request_id)
                    sealed_pair = seal_for_replay(token, tokens)
                    # Where another request was faster, the second look finds what that one made.
                    if await self._store.rotate(old.refresh_hash, new, sealed_pair):
                        return _fresh(tokens, new)
        raise bad_grant("refresh token")

    async def revoke(self, client: PluginClient, token: Secret, *, request_id: str) -> None:
        """End the grant of an access or refresh token; what is unknown, or another's, stays as it is."""
        token_hash = oauth.hashed(token)
        found = await self._store.by_access_token(token_hash) or await self._store.by_refresh_token(
            token_hash
        )
        if found is None or found.grant.client != client.name:
            log.info("plugin.revoked_nothing", client=client.name)
            return
        await self._end(as_caller(client), found.grant, Incident.UNINSTALLED, request_id)

    async def introspect(self, caller: Caller, token: Secret, *, request_id: str) -> FoundPair | None:
        """Return a valid access token's grant; a refresh token opens nothing, so it is not active."""
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
                # The token is valid, whether or not that can be noted.
                log.warning("plugin.use_not_noted", grant=found.grant.id)
        return found

    async def grants(
        self, caller: Caller, *, subject: str | None, after: str, limit: int, request_id: str
    ) -> list[PluginGrant]:
        """Return a page of the grants that have not ended."""
        await self._context.authorizer.require(
            caller, Permission.PLUGIN, None, request_id=request_id, action="plugin.grants", reads=True
        )
        return await self._store.grants(subject=subject, now=self._clock.now(), after=after, limit=limit)

    async def end(self, caller: Caller, grant_id: str, *, request_id: str) -> None:
        """End a grant by hand. Raises NotFound."""
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
        # The end first: a grant that is to end must not live on because a line cannot be written.
        if await self._store.revoke(grant.id, now, [_event(EventKind.PLUGIN_DISCONNECTED, grant, now, why)]):
            log.info("plugin.ended", client=grant.client, grant=grant.id, why=why)
            await self._context.authorizer.note(
                caller, "plugin.end", grant.account, f"grant {grant.id}: {why}", request_id=request_id
            )

    async def _announce(
        self, client: PluginClient, action: str, grant: PluginGrant, tokens: Tokens, request_id: str
    ) -> None:
        """Audit that these tokens are about to leave. Raises AuditUnavailable, and then they must not."""
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


def _fresh(tokens: Tokens, pair: PluginPair) -> Issued:
    """Say its whole life: the difference of two epochs may be a hair less than the number that was configured."""
    return Issued(tokens, pair, round(pair.access_expires_at - pair.created_at))


def _event(kind: EventKind, grant: PluginGrant, at: float, why: str | None = None) -> Event:
    return Event(at, kind, grant.account, grant.client, why, subject=grant.subject)


def _narrowed(asked: str | None, granted: str) -> str:
    """Return the scope of a renewal, which may be less, never more (RFC 6749 6). Raises Refused."""
    if asked is None:
        return granted
    wanted = oauth.scope_set(asked.replace(",", " "))
    if not wanted <= oauth.scope_set(granted):
        raise Refused("invalid_scope", "A renewal gets no more than was granted.")
    return oauth.scope_text(one for one in granted.split() if one in wanted)
