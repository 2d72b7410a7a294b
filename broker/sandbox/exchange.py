"""What a token endpoint does with a code or a refresh token; the two providers differ in words only."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import assert_never

from broker.sandbox.clients import Client, Clients
from broker.sandbox.faults import Mode, Provider, Switches
from broker.sandbox.issued import (
    AccessMaker,
    AccessToken,
    Consent,
    Grant,
    Issued,
    Pair,
    base64url,
    fingerprint,
)
from broker.sandbox.rotation import RefreshToken, Verdict, judge


class Refusal(StrEnum):
    INVALID_REQUEST = "invalid_request"
    INVALID_CLIENT = "invalid_client"
    INVALID_GRANT = "invalid_grant"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"
    NOT_INSTALLED = "not_installed"


@dataclass(frozen=True, slots=True)
class Granted:
    """Tokens for the answer. Times are epoch seconds by the sandbox's clock."""

    grant: Grant
    pair: Pair
    now: float

    @property
    def expires_in(self) -> int:
        return max(0, int(self.pair.access.expires_at - self.now))


@dataclass(frozen=True, slots=True)
class Refused:
    why: Refusal
    missing: str = ""
    """The parameter that is missing, for INVALID_REQUEST."""
    grant_id: int | None = None


Outcome = Granted | Refused


class Exchange:
    """One provider's token endpoint, without HTTP; the caller holds the transaction."""

    def __init__(
        self, *, provider: Provider, clients: Clients, issued: Issued, maker: AccessMaker, kit_like: bool
    ) -> None:
        self._provider = provider
        self._clients = clients
        self._issued = issued
        self._maker = maker
        self._kit_like = kit_like
        """A code's second use kills the grant, and a strict renewal kills the old access token at once."""

    def answer(
        self, params: Mapping[str, str], switches: Switches, now: float, org: str | None = None
    ) -> Outcome:
        """Handle one token request. `org`: the Kustomer org whose host was asked, if one was."""
        grant_type = params.get("grant_type")
        client = self._client(params, switches, refreshing=grant_type == "refresh_token")
        if client is None:
            return Refused(Refusal.INVALID_CLIENT)
        match grant_type:
            case "authorization_code":
                return self._redeem(client, params, switches, now, org)
            case "refresh_token":
                return self._refresh(client, params, switches, now, org)
            case None:
                return Refused(Refusal.INVALID_REQUEST, missing="grant_type")
            case _:
                return Refused(Refusal.UNSUPPORTED_GRANT_TYPE)

    def _client(self, params: Mapping[str, str], switches: Switches, *, refreshing: bool) -> Client | None:
        client = self._clients.find(self._provider, params.get("client_id", ""))
        if client is None or switches.deny_all_clients:
            return None
        needed = bool(client.secrets) and (not refreshing or switches.refresh_requires_secret)
        return client if secret_fits(client, params.get("client_secret"), needed=needed) else None

    def _redeem(
        self, client: Client, params: Mapping[str, str], switches: Switches, now: float, org: str | None
    ) -> Outcome:
        for name in ("code", "redirect_uri"):
            if not params.get(name):
                return Refused(Refusal.INVALID_REQUEST, missing=name)
        code = self._issued.code(params["code"])
        if (
            code is None
            or code.consent.client_id != client.client_id
            or code.consent.provider != self._provider
        ):
            return Refused(Refusal.INVALID_GRANT)
        if code.grant_id is not None:
            if self._kit_like:
                self._issued.revoke_grant(code.grant_id)
            return Refused(Refusal.INVALID_GRANT, grant_id=code.grant_id)
        consent = code.consent
        if _not_installed(consent.holder.org, switches):
            return Refused(Refusal.NOT_INSTALLED)
        if (
            now >= code.expires_at
            or consent.redirect_uri != params["redirect_uri"]
            or _elsewhere(consent, org)
        ):
            return Refused(Refusal.INVALID_GRANT)
        if consent.challenge is not None and not params.get("code_verifier"):
            return Refused(Refusal.INVALID_REQUEST, missing="code_verifier")
        if not _verifier_fits(consent.challenge, params.get("code_verifier")):
            return Refused(Refusal.INVALID_GRANT)
        return self._first_tokens(params["code"], consent, switches, now)

    def _first_tokens(self, code: str, consent: Consent, switches: Switches, now: float) -> Granted:
        standing = self._issued.standing_pair(consent, now) if switches.reuse_access_token else None
        if standing is not None:
            self._issued.spend(code, standing.access.grant_id)
            return Granted(self._issued.grant(standing.access.grant_id), standing, now)
        grant = self._issued.redeem(code, consent, now)
        if self._provider == "kustomer" and "offline_access" not in consent.scope.split():
            access = self._issued.issue_access(
                grant, refresh=None, parent=None, life=switches.life, now=now, maker=self._maker
            )
            return Granted(grant, Pair(access, None), now)
        pair = self._issued.issue(grant, parent=None, life=switches.life, now=now, maker=self._maker)
        return Granted(grant, pair, now)

    def _refresh(
        self, client: Client, params: Mapping[str, str], switches: Switches, now: float, org: str | None
    ) -> Outcome:
        presented = params.get("refresh_token")
        if not presented:
            return Refused(Refusal.INVALID_REQUEST, missing="refresh_token")
        token = self._issued.refresh_token(presented)
        if token is None:
            return Refused(Refusal.INVALID_GRANT)
        grant = self._issued.grant(token.grant_id)
        if grant.provider != self._provider or grant.client_id != client.client_id:
            return Refused(Refusal.INVALID_GRANT, grant_id=grant.id)
        if _not_installed(grant.holder.org, switches):
            return Refused(Refusal.NOT_INSTALLED, grant_id=grant.id)
        if org is not None and grant.holder.org != org:
            return Refused(Refusal.INVALID_GRANT, grant_id=grant.id)
        return self._renewed(grant, token, presented, switches, now)

    def _renewed(
        self, grant: Grant, token: RefreshToken, presented: str, switches: Switches, now: float
    ) -> Outcome:
        refused = Refused(Refusal.INVALID_GRANT, grant_id=grant.id)
        match verdict := judge(token, switches, now):
            case Verdict.GOOD:
                return Granted(grant, self._rotate(grant, token, presented, switches, now), now)
            case Verdict.AGAIN:
                pair = self._again(grant, token, switches, now)
                return refused if pair is None else Granted(grant, pair, now)
            case Verdict.REPLAY:
                if switches.rotation is Mode.FAMILY:
                    self._issued.revoke_grant(grant.id)
                return refused
            case Verdict.DEAD:
                return refused
            case _:
                assert_never(verdict)

    def _rotate(
        self, grant: Grant, token: RefreshToken, presented: str, switches: Switches, now: float
    ) -> Pair:
        self._issued.mark_used(token.sha256, now)
        if switches.rotation is Mode.NONE:
            access = self._issued.issue_access(
                grant, refresh=token.sha256, parent=None, life=switches.life, now=now, maker=self._maker
            )
            return Pair(access, None if switches.omit_refresh_token else presented)
        pair = self._issued.issue(grant, parent=token.sha256, life=switches.life, now=now, maker=self._maker)
        self._issued.supersede(token.sha256, now)
        if switches.rotation in (Mode.STRICT, Mode.FAMILY):
            self._issued.revoke_refresh(token.sha256)
            if self._kit_like:
                self._issued.revoke_access_of(token.sha256)
        return pair

    def _again(self, grant: Grant, token: RefreshToken, switches: Switches, now: float) -> Pair | None:
        self._issued.mark_used(token.sha256, now)
        if switches.rotation is Mode.GRACE_SAME:
            return self._issued.first_successor(token.sha256)
        if switches.rotation is Mode.GRACE_LATEST:
            self._issued.revoke_children(token.sha256)
        return self._issued.issue(grant, parent=token.sha256, life=switches.life, now=now, maker=self._maker)


def presented_token(params: Mapping[str, str]) -> str | None:
    """The fingerprint of the code or refresh token that a request carries, for the record."""
    token = params.get("refresh_token" if params.get("grant_type") == "refresh_token" else "code")
    return fingerprint(token) if token else None


def secret_fits(client: Client, secret: str | None, *, needed: bool) -> bool:
    """A secret that is sent must be right, also where none is needed."""
    if not secret:
        return not needed
    return any(hmac.compare_digest(secret.encode(), known.encode()) for known in client.secrets)


def _not_installed(org: str | None, switches: Switches) -> bool:
    return org is not None and org in switches.app_not_installed


def _elsewhere(consent: Consent, org: str | None) -> bool:
    return org is not None and consent.holder.org != org


def _verifier_fits(challenge: str | None, verifier: str | None) -> bool:
    # RFC 7636, 4.6; a verifier without a challenge is refused as a downgrade (RFC 9700, 2.1.1).
    if challenge is None:
        return not verifier
    digest = base64url(sha256((verifier or "").encode()).digest())
    return hmac.compare_digest(digest.encode(), challenge.encode())


def use(issued: Issued, token: AccessToken, switches: Switches) -> None:
    """An access token was used at a resource: in mode D its predecessors die now (Doorkeeper)."""
    if switches.rotation is Mode.ON_USE and token.parent is not None:
        issued.revoke_refresh(token.parent)
        issued.revoke_access_of(token.parent)
