"""Grants: a code or a refresh token becomes a pair, and a grant comes to its end."""

import secrets
from dataclasses import dataclass
from typing import assert_never

import structlog

from broker import oauth
from broker.callers.authorization import Authorizer
from broker.clock import Clock
from broker.config.settings import PluginClient, PluginSettings
from broker.encryption.keyring import Keyring
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
from broker.observe.metrics import Metrics
from broker.plugin.clients import Refused, bad_grant
from broker.plugin.tokens import (
    Again,
    Good,
    Replayed,
    Tokens,
    Worthless,
    judge_code,
    judge_refresh_token,
    new_tokens,
    open_for_replay,
    seal_for_replay,
)
from broker.store.plugin import PluginStore

log = structlog.get_logger()
NOTED_EVERY = 300.0
"""Seconds between two notes that a grant is in use: asking about a token is no write as a rule."""


@dataclass(frozen=True, slots=True)
class Issued:
    """What a token endpoint answers with (RFC 6749 5.1)."""

    tokens: Tokens
    pair: PluginPair
    expires_in: int
    """Whole seconds that are left, rounded down."""


@dataclass(frozen=True, slots=True)
class Active:
    """An access token that lives (RFC 7662 2.2)."""

    pair: PluginPair
    grant: PluginGrant


class GrantService:
    """What `/plugin/token`, `/plugin/refresh`, `/plugin/revoke`, `/plugin/introspect` and `broker plugin` do."""

    def __init__(
        self,
        *,
        store: PluginStore,
        settings: PluginSettings,
        authorizer: Authorizer,
        keyring: Keyring,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store, self._settings, self._authorizer = store, settings, authorizer
        self._keyring, self._clock, self._metrics = keyring, clock, metrics

    async def redeem(
        self,
        client: PluginClient,
        code: Secret,
        *,
        redirect_uri: str | None,
        verifier: Secret | None,
        request_id: str,
    ) -> Issued:
        """A code becomes a grant, once; a second time it ends that grant. Raises Refused."""
        found = await self._store.code(oauth.hashed(code))
        verdict = judge_code(
            found, client, redirect_uri=redirect_uri, verifier=verifier, now=self._clock.now()
        )
        match verdict:
            case Good():
                pass
            case Replayed(grant_id):
                await self._replayed(client, grant_id, Incident.CODE_REPLAYED, request_id)
                raise bad_grant("code")
            case Worthless(why):
                log.warning("plugin.code_refused", client=client.name, why=why)
                raise bad_grant("code")
            case _:
                assert_never(verdict)
        if found is None:
            raise bad_grant("code")
        if redirect_uri not in (None, found.redirect_uri):
            log.info("plugin.other_redirect_uri", client=client.name)
        return await self._begin(client, found, request_id)

    async def renew(
        self, client: PluginClient, token: Secret, *, scope: str | None, request_id: str
    ) -> Issued:
        """A refresh token becomes the next pair; for a moment it gives the same one again. Raises Refused."""
        for _ in range(2):
            found = await self._store.by_refresh_token(oauth.hashed(token))
            verdict = judge_refresh_token(found, client, now=self._clock.now())
            match verdict:
                case Again(sealed):
                    return await self._again(client, token, sealed, request_id)
                case Replayed(grant_id):
                    await self._replayed(client, grant_id, Incident.TOKEN_REPLAYED, request_id)
                    raise bad_grant("refresh token")
                case Worthless(why):
                    log.warning("plugin.refresh_refused", client=client.name, why=why)
                    raise bad_grant("refresh token")
                case Good():
                    # Where another request was faster, the second look finds what that one made.
                    if found and (issued := await self._rotate(client, token, found, scope, request_id)):
                        return issued
                case _:
                    assert_never(verdict)
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

    async def introspect(self, caller: Caller, token: Secret, *, request_id: str) -> Active | None:
        """Whose access token it is, while it lives; a refresh token opens nothing, so it is not active."""
        await self._authorizer.require(
            caller, Permission.PLUGIN, None, request_id=request_id, action="plugin.introspect", reads=True
        )
        found = await self._store.by_access_token(oauth.hashed(token))
        now = self._clock.now()
        if found is None or found.grant.revoked_at is not None or found.pair.access_expires_at <= now:
            return None
        await self._note_use(found, now)
        return Active(found.pair, found.grant)

    async def grants(
        self, caller: Caller, *, subject: str | None, after: str, limit: int, request_id: str
    ) -> list[PluginGrant]:
        """Living grants."""
        await self._authorizer.require(
            caller, Permission.PLUGIN, None, request_id=request_id, action="plugin.grants", reads=True
        )
        return await self._store.grants(subject=subject, now=self._clock.now(), after=after, limit=limit)

    async def end(self, caller: Caller, grant_id: str, *, request_id: str) -> None:
        """End a grant by hand; raises NotFound."""
        await self._authorizer.require(caller, Permission.PLUGIN, None, request_id=request_id)
        grant = await self._store.grant(grant_id)
        if grant is None or grant.revoked_at is not None:
            raise NotFound(
                f"There is no grant {grant_id[:32]!r}, or it has ended; `broker plugin grants` lists them."
            )
        await self._end(caller, grant, Incident.REVOKED_BY_OPERATOR, request_id)

    async def _begin(self, client: PluginClient, code: PluginCode, request_id: str) -> Issued:
        now, tokens, grant_id = self._clock.now(), new_tokens(), secrets.token_hex(8)
        pair = self._pair(tokens, grant_id, code.scope, now)
        grant = PluginGrant(
            id=grant_id,
            client=client.name,
            subject=code.subject,
            scope=code.scope,
            created_at=now,
            last_used_at=now,
            expires_at=pair.refresh_expires_at,
            code_hash=code.hash,
        )
        # Before it is stored: what was not written down must not spend the code either.
        await self._note(client, "plugin.issue", grant, tokens, request_id)
        if not await self._store.redeem(grant, pair, [_event(EventKind.PLUGIN_CONNECTED, grant, now)]):
            other = await self._store.code(code.hash)
            if other is not None and other.grant_id is not None:
                await self._replayed(client, other.grant_id, Incident.CODE_REPLAYED, request_id)
            raise bad_grant("code")
        return _fresh(tokens, pair)

    async def _rotate(
        self, client: PluginClient, old: Secret, found: FoundPair, scope: str | None, request_id: str
    ) -> Issued | None:
        """None where somebody else has replaced the pair meanwhile."""
        narrowed = _narrowed(scope, found.grant.scope)
        tokens = new_tokens()
        pair = self._pair(tokens, found.grant.id, narrowed, self._clock.now())
        await self._note(client, "plugin.renew", found.grant, tokens, request_id)
        stored = await self._store.rotate(found.pair.refresh_hash, pair, seal_for_replay(old, tokens))
        return _fresh(tokens, pair) if stored else None

    async def _again(self, client: PluginClient, old: Secret, sealed: str, request_id: str) -> Issued:
        tokens = open_for_replay(old, sealed)
        found = None if tokens is None else await self._store.by_refresh_token(oauth.hashed(tokens.refresh))
        if tokens is None or found is None:
            raise bad_grant("refresh token")
        await self._note(client, "plugin.renew_again", found.grant, tokens, request_id)
        return Issued(tokens, found.pair, int(found.pair.access_expires_at - self._clock.now()))

    async def _replayed(self, client: PluginClient, grant_id: str, why: Incident, request_id: str) -> None:
        self._metrics.auth_failures.labels("plugin_replay").inc()
        log.warning("plugin.replayed", client=client.name, grant=grant_id, why=why)
        grant = await self._store.grant(grant_id)
        if grant is not None:
            await self._end(as_caller(client), grant, why, request_id)

    async def _end(self, caller: Caller, grant: PluginGrant, why: Incident, request_id: str) -> None:
        now = self._clock.now()
        # The end first: a grant that is to end must not live on because a line cannot be written.
        if await self._store.revoke(grant.id, now, [_event(EventKind.PLUGIN_DISCONNECTED, grant, now, why)]):
            log.info("plugin.ended", client=grant.client, grant=grant.id, why=why)
            await self._authorizer.note(
                caller, "plugin.end", grant.account, f"grant {grant.id}: {why}", request_id=request_id
            )

    async def _note_use(self, found: FoundPair, now: float) -> None:
        if found.pair.used_at is not None and now - found.grant.last_used_at < NOTED_EVERY:
            return
        try:
            await self._store.note_use(found.pair, now)
        except StorageUnavailable:
            # The token lives, whether or not that can be noted.
            log.warning("plugin.use_not_noted", grant=found.grant.id)

    async def _note(
        self, client: PluginClient, action: str, grant: PluginGrant, tokens: Tokens, request_id: str
    ) -> None:
        """Write down that these tokens are about to leave; raises AuditUnavailable, and then they must not."""
        mark = self._keyring.fingerprint("audit token", tokens.access.reveal())
        detail = f"grant {grant.id}, subject {grant.subject}, token {mark}"
        await self._authorizer.announce(
            as_caller(client), action, grant.account, detail, request_id=request_id
        )

    def _pair(self, tokens: Tokens, grant_id: str, scope: str, now: float) -> PluginPair:
        settings = self._settings
        return tokens.as_pair(
            grant_id, scope, now=now, access_ttl=settings.access_ttl, refresh_ttl=settings.refresh_ttl
        )


def as_caller(client: PluginClient) -> Caller:
    """A client in the audit; it has no rights of a caller."""
    return Caller(f"plugin:{client.name}", (), frozenset(), credential=f"client {client.client_id}")


def _fresh(tokens: Tokens, pair: PluginPair) -> Issued:
    """Its whole life: the difference of two epochs may be a hair less than the number that was configured."""
    return Issued(tokens, pair, round(pair.access_expires_at - pair.created_at))


def _event(kind: EventKind, grant: PluginGrant, at: float, why: str | None = None) -> Event:
    return Event(at, kind, grant.account, grant.client, why, subject=grant.subject)


def _narrowed(asked: str | None, granted: str) -> str:
    """A renewal may ask for less, never for more (RFC 6749 6); raises Refused."""
    if asked is None:
        return granted
    wanted = oauth.scope_set(asked.replace(",", " "))
    if not wanted <= oauth.scope_set(granted):
        raise Refused("invalid_scope", "A renewal gets no more than was granted.")
    return oauth.scope_text(one for one in granted.split() if one in wanted)
