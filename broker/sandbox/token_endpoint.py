"""The token endpoint of a provider on a real socket: what a code or a refresh token is exchanged for."""

import hmac
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import ClassVar, assert_never
from urllib.parse import parse_qsl

from aiohttp import web

from broker.sandbox.faults import AnswerFault, Mode, Provider, Switches
from broker.sandbox.issued import Grant, Holder, Pair, RefreshToken, Verdict, base64url, fingerprint, judge
from broker.sandbox.stage import Stage, bearer
from broker.sandbox.store import Client

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


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


class Party(ABC):
    """A provider that the sandbox plays. The subclasses hold what differs between Kit and Kustomer."""

    name: ClassVar[Provider]
    title: ClassVar[str]
    default_scope: ClassVar[str]
    complaints: ClassVar[tuple[str, str, str, str]]
    """The error texts for an access token that is missing, invalid, revoked or expired."""
    kit_like: ClassVar[bool]
    """Token requests may be JSON, a code's second use revokes the grant, and a renewal in mode S or F revokes the old
    access token too."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @property
    def switches(self) -> Switches:
        """The provider's current switches."""
        return self.stage.faults.switches(self.name)

    @abstractmethod
    def read_holder(self, form: Mapping[str, str], org: str | None) -> Holder:
        """Return the account chosen on the consent page; `org` is from the path. Raises ValueError with a sentence."""

    @abstractmethod
    def access_token(self, grant: Grant, created_at: float, expires_at: float) -> str:
        """Make the text of a new access token."""

    @abstractmethod
    def tokens(self, grant: Grant, pair: Pair, expires_in: int) -> dict[str, object]:
        """Return the JSON of an answer with tokens."""

    @abstractmethod
    def refused(self, why: Refusal, missing: str = "") -> web.Response:
        """Answer with a refusal in the provider's words."""

    def not_installed(self, org: str | None) -> web.Response | None:
        """Return the answer that replaces the consent page where this org has not installed the app."""
        return self.refused(Refusal.NOT_INSTALLED) if org in self.switches.app_not_installed else None

    def read_params(self, body: bytes) -> Mapping[str, str] | None:
        """Return the parameters of a form or, at Kit, of JSON, whatever the header says. None: it is malformed."""
        start = body.lstrip()[:1]
        if start in (b"{", b"[") and not self.kit_like:
            return None
        try:
            if start == b"{":
                return {name: value for name, value in json.loads(body).items() if isinstance(value, str)}
            pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
        except ValueError:
            return None
        # A parameter must not be repeated (RFC 6749, 3.2).
        return dict(pairs) if len(dict(pairs)) == len(pairs) else None

    def whose(self, request: web.Request) -> Grant | str:
        """Return the grant of the request's access token, or an error text. The access token is recorded as used."""
        issued, presented = self.stage.issued, bearer(request)
        missing, invalid, revoked, expired = self.complaints
        token = issued.access_token(presented) if presented else None
        if token is None:
            return invalid if presented else missing
        grant, complaint = issued.grant(token.grant_id), ""
        if grant.provider != self.name:
            complaint = invalid
        elif token.revoked:
            complaint = revoked
        elif self.stage.clock.now() >= token.expires_at:
            complaint = expired
        with self.stage.store.transaction():
            self.stage.record.used(self.name, token.sha256, 401 if complaint else 200)
            if not complaint and token.parent is not None and self.switches.rotation is Mode.ON_USE:
                # Mode D: a token's predecessors are revoked at its first use at a resource (Doorkeeper).
                issued.revoke_refresh(token.parent, and_access=True)
        return complaint or grant

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Handle `POST …/oauth/token`, with the fault that is set for it."""
        stage, clock = self.stage, self.stage.clock
        fault = stage.faults.take(self.name)
        params = self.read_params(await request.read())
        is_refresh = params is not None and params.get("grant_type") == "refresh_token"
        token = params and params.get("refresh_token" if is_refresh else "code")
        kind = "refresh" if is_refresh else "code"
        n = stage.record.begin(self.name, kind, fingerprint(token) if token else None)
        try:
            if fault.latency:
                await clock.sleep(fault.latency)
            response = self._settle(n, params, fault, request.match_info.get("org"))
            if fault.latency_after:
                await clock.sleep(fault.latency_after)
            stage.record.end(n)
            if fault.drop is not None:
                return hang_up(request, web.Response())
            if fault.replaces_answer:
                kind = "text/html" if fault.raw is None else "application/json"
                headers = {**NO_STORE, "Content-Type": f"{kind}; charset=utf-8", **fault.headers}
                text = (fault.body or "") if fault.raw is None else fault.raw
                return web.Response(status=fault.status or 200, body=text.encode(), headers=headers)
            response.headers.update(NO_STORE)
            if fault.truncate is not None:
                body = (response.text or "").encode()
                part = web.StreamResponse(status=response.status, headers=response.headers)
                part.content_length = len(body)
                await part.prepare(request)
                await part.write(body[: fault.truncate])
                return hang_up(request, part)
            with suppress(ConnectionResetError):
                await response.prepare(request)
                await response.write_eof()
            if request.transport is not None and not request.transport.is_closing():
                stage.record.answered(n)
            return response
        finally:
            stage.record.end(n)

    def _settle(
        self, n: int, params: Mapping[str, str] | None, fault: AnswerFault, org: str | None
    ) -> web.Response:
        """Handle the request and record it in one transaction. Return the true answer, whatever is sent then."""
        record, now = self.stage.record, self.stage.clock.now()
        if fault.spares_token or params is None:
            record.handled(n, "fault" if fault.spares_token else "invalid_request")
            return self.refused(Refusal.MALFORMED)
        with self.stage.store.transaction():
            match Exchange(self, params, self.switches, now, org).outcome():
                case Refused(why, missing, grant_id):
                    record.handled(n, why, grant_id=grant_id)
                    return self.refused(why, missing)
                case grant, pair:
                    refresh = fingerprint(pair.refresh) if pair.refresh else None
                    record.handled(n, "issued", grant.id, refresh, pair.access.sha256)
                    expires_in = max(0, int(pair.access.expires_at - now))
                    members = {**self.tokens(grant, pair, expires_in), **fault.members}
                    gone = {name for name, value in fault.members.items() if value is None}
                    return web.json_response({name: members[name] for name in members if name not in gone})


@dataclass(frozen=True, slots=True)
class Exchange:
    """One token request, without HTTP. The caller holds the transaction."""

    party: Party
    params: Mapping[str, str]
    switches: Switches
    now: float
    org: str | None
    """The Kustomer org in the path of the request, if there was one."""

    def outcome(self) -> tuple[Grant, Pair] | Refused:
        """Authenticate the client, then redeem its code or renew its grant."""
        grant_type = self.params.get("grant_type")
        client = self.party.stage.clients.find(self.party.name, self.params.get("client_id", ""))
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
        issued, code, verifier = (
            self.party.stage.issued,
            self.params["code"],
            self.params.get("code_verifier"),
        )
        found = issued.code(code)
        if found is None:
            return Refused(Refusal.INVALID_GRANT)
        consent, expires_at, grant_id = found
        if (consent.provider, consent.client_id) != (self.party.name, client.client_id):
            return Refused(Refusal.INVALID_GRANT)
        if grant_id is not None:
            if self.party.kit_like:
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
        if self.party.name == "kustomer" and "offline_access" not in consent.scope.split():
            return grant, self._issue_access(grant, None, None)
        return grant, self._issue(grant, None)

    def _refresh(self, client: Client) -> tuple[Grant, Pair] | Refused:
        issued, presented = self.party.stage.issued, self.params.get("refresh_token")
        if not presented:
            return Refused(Refusal.INVALID_REQUEST, missing="refresh_token")
        token = issued.refresh_token(presented)
        if token is None:
            return Refused(Refusal.INVALID_GRANT)
        grant = issued.grant(token.grant_id)
        refused = Refused(Refusal.INVALID_GRANT, grant_id=grant.id)
        if (grant.provider, grant.client_id) != (self.party.name, client.client_id):
            return refused
        if grant.holder.org in self.switches.app_not_installed:
            return Refused(Refusal.NOT_INSTALLED, grant_id=grant.id)
        if self.org not in (None, grant.holder.org):
            return refused
        match verdict := judge(token, self.switches, self.now):
            case Verdict.GOOD:
                return grant, self._rotate(grant, token, presented)
            case Verdict.AGAIN:
                pair = self._again(grant, token)
                return refused if pair is None else (grant, pair)
            case Verdict.REPLAY:
                if self.switches.rotation is Mode.FAMILY:
                    issued.revoke_grant(grant.id)
                return refused
            case Verdict.DEAD:
                return refused
            case _:
                assert_never(verdict)

    def _rotate(self, grant: Grant, token: RefreshToken, presented: str) -> Pair:
        issued, mode = self.party.stage.issued, self.switches.rotation
        issued.mark_used(token.sha256, self.now)
        if mode is Mode.NONE:
            shown = None if self.switches.omit_refresh_token else presented
            return self._issue_access(grant, token.sha256, shown)
        pair = self._issue(grant, token.sha256)
        issued.supersede(token.sha256, self.now)
        if mode in (Mode.STRICT, Mode.FAMILY):
            issued.revoke_refresh(token.sha256, and_access=self.party.kit_like)
        return pair

    def _again(self, grant: Grant, token: RefreshToken) -> Pair | None:
        issued = self.party.stage.issued
        issued.mark_used(token.sha256, self.now)
        if self.switches.rotation is Mode.GRACE_SAME:
            return issued.first_successor(token.sha256)
        if self.switches.rotation is Mode.GRACE_LATEST:
            issued.revoke_successors(token.sha256)
        return self._issue(grant, token.sha256)

    def _issue(self, grant: Grant, parent: str | None) -> Pair:
        life = self.switches.life
        value = self.party.access_token(grant, self.now, self.now + life)
        return self.party.stage.issued.issue(grant, value, parent=parent, life=life, now=self.now)

    def _issue_access(self, grant: Grant, refresh: str | None, shown: str | None) -> Pair:
        """Issue no new refresh token; `refresh` is the fingerprint of the one that the access token belongs to."""
        life, issued = self.switches.life, self.party.stage.issued
        value = self.party.access_token(grant, self.now, self.now + life)
        return Pair(issued.issue_access(grant, value, refresh=refresh, life=life, now=self.now), shown)


def secret_fits(client: Client, secret: str | None, *, needed: bool) -> bool:
    """Return whether the secret is right. One that is sent must be right even where none is needed."""
    if not secret:
        return not needed
    return any(hmac.compare_digest(secret.encode(), known.encode()) for known in client.secrets)


def hang_up(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection after what has been written; the response is for aiohttp's bookkeeping only."""
    if request.transport is not None:
        request.transport.close()
    return response
