"""Handle a token request without HTTP: a code or a refresh token is exchanged for tokens."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from broker.sandbox.faults import Mode, Provider, Switches
from broker.sandbox.issued import Grant, Issued, Pair, RefreshToken, Verdict, base64url, judge
from broker.sandbox.store import Client, Clients


class Refusal(StrEnum):
    """The reasons for which a token request is refused."""

    INVALID_REQUEST = "invalid_request"
    """A parameter is missing."""
    MALFORMED = "malformed"
    """The body cannot be read."""
    INVALID_CLIENT = "invalid_client"
    INVALID_GRANT = "invalid_grant"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"
    NOT_INSTALLED = "not_installed"
    """The Kustomer org has not installed the app."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A token request that was handled and refused."""

    why: Refusal
    missing: str = ""
    """The name of the missing parameter, for INVALID_REQUEST."""
    grant_id: int | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One token request. The caller holds the transaction."""

    provider: Provider
    params: Mapping[str, str]
    switches: Switches
    clients: Clients
    issued: Issued
    now: float
    org: str | None
    """The Kustomer org in the path of the request, if there was one."""

    def outcome(self) -> tuple[Grant, Pair] | Refused:
        """Authenticate the client, then redeem its code or renew its grant."""
        grant_type = self.params.get("grant_type")
        client = self.clients.find(self.provider, self.params.get("client_id", ""))
        if client is None or self.switches.deny_all_clients:
            return Refused(Refusal.INVALID_CLIENT)
        spares_secret = grant_type == "refresh_token" and not self.switches.refresh_requires_secret
        needed = bool(client.secrets) and not spares_secret
        if not secret_fits(client, self.params.get("client_secret"), needed=needed):
            return Refused(Refusal.INVALID_CLIENT)
        match grant_type:
            case "authorization_code":
                return self._redeem(client)
            case "refresh_token":
                return self._refresh(client)
            case None:
                return Refused(Refusal.INVALID_REQUEST, missing="grant_type")
            case _:
                return Refused(Refusal.UNSUPPORTED_GRANT_TYPE)

    def _redeem(self, client: Client) -> tuple[Grant, Pair] | Refused:
        for name in ("code", "redirect_uri"):
            if not self.params.get(name):
                return Refused(Refusal.INVALID_REQUEST, missing=name)
        issued, code, verifier = self.issued, self.params["code"], self.params.get("code_verifier")
        found = issued.code(code)
        if found is None:
            return Refused(Refusal.INVALID_GRANT)
        consent, expires_at, grant_id = found
        if (consent.provider, consent.client_id) != (self.provider, client.client_id):
            return Refused(Refusal.INVALID_GRANT)
        if grant_id is not None:
            if self.provider == "kit":
                issued.revoke_grant(grant_id)
            return Refused(Refusal.INVALID_GRANT, grant_id=grant_id)
        if consent.holder.org in self.switches.app_not_installed:
            return Refused(Refusal.NOT_INSTALLED)
        if (
            self.now >= expires_at
            or consent.redirect_uri != self.params["redirect_uri"]
            or self.org not in (None, consent.holder.org)
        ):
            return Refused(Refusal.INVALID_GRANT)
        if consent.challenge is not None and not verifier:
            return Refused(Refusal.INVALID_REQUEST, missing="code_verifier")
        # RFC 7636, 4.6; a verifier without a challenge is refused as a downgrade (RFC 9700, 2.1.1).
        digest = base64url(sha256(verifier.encode()).digest()) if verifier else ""
        if not hmac.compare_digest(digest.encode(), (consent.challenge or "").encode()):
            return Refused(Refusal.INVALID_GRANT)
        reused = issued.valid_pair(consent, self.now) if self.switches.reuse_access_token else None
        if reused is not None:
            issued.spend(code, reused.access.grant_id)
            return issued.grant(reused.access.grant_id), reused
        grant = issued.redeem(code, consent, self.now)
        life, now = self.switches.life, self.now
        if self.provider == "kustomer" and "offline_access" not in consent.scope.split():
            return grant, Pair(issued.issue_access(grant, refresh=None, life=life, now=now), None)
        return grant, issued.issue(grant, parent=None, life=life, now=now)

    def _refresh(self, client: Client) -> tuple[Grant, Pair] | Refused:
        issued, presented = self.issued, self.params.get("refresh_token")
        if not presented:
            return Refused(Refusal.INVALID_REQUEST, missing="refresh_token")
        token = issued.refresh_token(presented)
        if token is None:
            return Refused(Refusal.INVALID_GRANT)
        grant = issued.grant(token.grant_id)
        refused = Refused(Refusal.INVALID_GRANT, grant_id=grant.id)
        if (grant.provider, grant.client_id) != (self.provider, client.client_id):
            return refused
        if grant.holder.org in self.switches.app_not_installed:
            return Refused(Refusal.NOT_INSTALLED, grant_id=grant.id)
        if self.org not in (None, grant.holder.org):
            return refused
        pair: Pair | None = None
        match judge(token, self.switches, self.now):
            case Verdict.GOOD:
                pair = self._rotate(grant, token, presented)
            case Verdict.AGAIN:
                pair = self._again(grant, token)
            case Verdict.REPLAY:
                issued.revoke_grant(grant.id)
            case Verdict.DEAD:
                pass
        return refused if pair is None else (grant, pair)

    def _rotate(self, grant: Grant, token: RefreshToken, presented: str) -> Pair:
        issued, mode, life, now = self.issued, self.switches.rotation, self.switches.life, self.now
        if mode is Mode.NONE:
            issued.mark_used(token.sha256, now)
            access = issued.issue_access(grant, refresh=token.sha256, life=life, now=now)
            return Pair(access, None if self.switches.omit_refresh_token else presented)
        issued.mark_used(token.sha256, now, superseded_at=now)
        pair = issued.issue(grant, parent=token.sha256, life=life, now=now)
        if mode in (Mode.STRICT, Mode.FAMILY):
            # Kit revokes the old access token immediately, Kustomer does not.
            issued.revoke_refresh(token.sha256, and_access=self.provider == "kit")
        return pair

    def _again(self, grant: Grant, token: RefreshToken) -> Pair | None:
        issued = self.issued
        issued.mark_used(token.sha256, self.now)
        if self.switches.rotation is Mode.GRACE_SAME:
            return issued.first_successor(token.sha256)
        if self.switches.rotation is Mode.GRACE_LATEST:
            issued.revoke_successors(token.sha256)
        return issued.issue(grant, parent=token.sha256, life=self.switches.life, now=self.now)


def secret_fits(client: Client, secret: str | None, *, needed: bool) -> bool:
    """Return whether the secret is right. One that is sent must be right even where none is needed."""
    if not secret:
        return not needed
    return any(hmac.compare_digest(secret.encode(), known.encode()) for known in client.secrets)
