"""A token endpoint on a real socket: what becomes of a code or a refresh token, and how it is answered."""

import hmac
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import ClassVar, assert_never
from urllib.parse import parse_qsl

from aiohttp import web

from broker.sandbox.faults import AnswerFault, Mode, Provider, Switches
from broker.sandbox.issued import (
    Consent,
    Grant,
    Holder,
    Pair,
    RefreshToken,
    Verdict,
    base64url,
    fingerprint,
    judge,
)
from broker.sandbox.stage import Stage, bearer
from broker.sandbox.store import Client

JSON = "application/json; charset=utf-8"
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


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
    expires_in: int


@dataclass(frozen=True, slots=True)
class Refused:
    why: Refusal
    missing: str = ""
    """The parameter that is missing, for INVALID_REQUEST."""
    grant_id: int | None = None


class BodyError(ValueError):
    """The body is not what this token endpoint takes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer before it is sent."""

    status: int
    body: str
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, **more: str) -> web.Response:
        """As aiohttp sends it; `more` are further headers."""
        headers = {**more, "Content-Type": self.content_type, **self.headers}
        return web.Response(status=self.status, body=self.body.encode(), headers=headers)


def json_answer(status: int, document: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(document), JSON, headers or {})


class Party(ABC):
    """A provider that the sandbox plays: in what Kit and Kustomer differ at consent and at the token endpoint."""

    name: ClassVar[Provider]
    title: ClassVar[str]
    default_scope: ClassVar[str]
    complaints: ClassVar[tuple[str, str, str, str]]
    """Of an access token that is missing, invalid, revoked or expired."""
    kit_like: ClassVar[bool]
    """A code's second use kills the grant, and a strict renewal kills the old access token at once."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @property
    def switches(self) -> Switches:
        return self.stage.faults.switches(self.name)

    @abstractmethod
    def read_holder(self, form: Mapping[str, str], org: str | None) -> Holder:
        """Whose data the filled-in form offers, given the org of the path too; raises ValueError with a sentence."""

    @abstractmethod
    def objection(self, org: str | None) -> web.Response | None:
        """An answer instead of consent, where this org has not installed the app."""

    @abstractmethod
    def read_params(self, body: bytes) -> Mapping[str, str]:
        """The parameters of a token request; raises BodyError."""

    @abstractmethod
    def access_token(self, grant: Grant, created_at: float, expires_at: float) -> str:
        """A new access token's text."""

    @abstractmethod
    def tokens(self, granted: Granted) -> dict[str, object]:
        """The body of an answer with tokens."""

    @abstractmethod
    def refused(self, why: Refusal, missing: str) -> Answer:
        """The refusal in the provider's words."""

    @abstractmethod
    def garbled(self) -> Answer:
        """The answer to a body that is no request."""

    def whose(self, request: web.Request) -> Grant | str:
        """Whose data the request may see, or the complaint; the access token counts as used from now on."""
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
                # In mode D the predecessors of a token die at its first use at a resource (Doorkeeper).
                issued.revoke_refresh(token.parent)
                issued.revoke_access_of(token.parent)
        return complaint or grant

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Handle `POST …/oauth/token`."""
        stage, clock = self.stage, self.stage.clock
        fault = stage.faults.take(self.name)
        try:
            params: Mapping[str, str] | None = self.read_params(await request.read())
        except BodyError:
            params = None
        is_refresh = params is not None and params.get("grant_type") == "refresh_token"
        token = params and params.get("refresh_token" if is_refresh else "code")
        sha = fingerprint(token) if token else None
        n = stage.record.begin(self.name, "refresh" if is_refresh else "code", sha)
        try:
            if fault.latency:
                await clock.sleep(fault.latency)
            answer = self._settle(n, params, fault, request.match_info.get("org"))
            if fault.latency_after:
                await clock.sleep(fault.latency_after)
            stage.record.end(n)
            if fault.drop is not None:
                return hang_up(request, web.Response())
            if fault.raw is not None:
                return Answer(fault.status or 200, fault.raw, JSON, fault.headers).response(**NO_STORE)
            if fault.status is not None:
                false = Answer(fault.status, fault.body or "", "text/html; charset=utf-8", fault.headers)
                return false.response(**NO_STORE)
            if fault.truncate is not None:
                return await _send_part(request, answer, fault.truncate)
            response = answer.response(**NO_STORE)
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
    ) -> Answer:
        """Handle the request, in one transaction with its record; the true answer, whatever is sent then."""
        record = self.stage.record
        if fault.spares_token or params is None:
            record.handled(n, "fault" if fault.spares_token else "invalid_request")
            return self.garbled()
        with self.stage.store.transaction():
            match Exchange(self, params, self.switches, self.stage.clock.now(), org).outcome():
                case Refused(why, missing, grant_id):
                    record.handled(n, why, grant_id=grant_id)
                    return self.refused(why, missing)
                case Granted(grant, pair) as granted:
                    refresh = fingerprint(pair.refresh) if pair.refresh else None
                    record.handled(
                        n,
                        "issued",
                        grant_id=grant.id,
                        issued_refresh=refresh,
                        issued_access=pair.access.sha256,
                    )
                    laid = {**self.tokens(granted), **fault.members}
                    gone = {name for name, value in fault.members.items() if value is None}
                    return json_answer(200, {name: laid[name] for name in laid if name not in gone})


@dataclass(frozen=True, slots=True)
class Exchange:
    """One token request, without HTTP; the caller holds the transaction."""

    party: Party
    params: Mapping[str, str]
    switches: Switches
    now: float
    org: str | None
    """The Kustomer org whose host was asked, if one was."""

    def outcome(self) -> Granted | Refused:
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

    def _redeem(self, client: Client) -> Granted | Refused:
        for name in ("code", "redirect_uri"):
            if not self.params.get(name):
                return Refused(Refusal.INVALID_REQUEST, missing=name)
        issued, verifier = self.party.stage.issued, self.params.get("code_verifier")
        found = issued.code(self.params["code"])
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
        return self._first_tokens(consent)

    def _first_tokens(self, consent: Consent) -> Granted:
        issued, code = self.party.stage.issued, self.params["code"]
        standing = issued.standing_pair(consent, self.now) if self.switches.reuse_access_token else None
        if standing is not None:
            issued.spend(code, standing.access.grant_id)
            return self._granted(issued.grant(standing.access.grant_id), standing)
        grant = issued.redeem(code, consent, self.now)
        if self.party.name == "kustomer" and "offline_access" not in consent.scope.split():
            return self._granted(grant, self._access_alone(grant, None, None))
        return self._granted(grant, self._issue(grant, None))

    def _refresh(self, client: Client) -> Granted | Refused:
        presented = self.params.get("refresh_token")
        if not presented:
            return Refused(Refusal.INVALID_REQUEST, missing="refresh_token")
        token = self.party.stage.issued.refresh_token(presented)
        if token is None:
            return Refused(Refusal.INVALID_GRANT)
        grant = self.party.stage.issued.grant(token.grant_id)
        refused = Refused(Refusal.INVALID_GRANT, grant_id=grant.id)
        if (grant.provider, grant.client_id) != (self.party.name, client.client_id):
            return refused
        if grant.holder.org in self.switches.app_not_installed:
            return Refused(Refusal.NOT_INSTALLED, grant_id=grant.id)
        if self.org not in (None, grant.holder.org):
            return refused
        match verdict := judge(token, self.switches, self.now):
            case Verdict.GOOD:
                return self._granted(grant, self._rotate(grant, token, presented))
            case Verdict.AGAIN:
                pair = self._again(grant, token)
                return refused if pair is None else self._granted(grant, pair)
            case Verdict.REPLAY:
                if self.switches.rotation is Mode.FAMILY:
                    self.party.stage.issued.revoke_grant(grant.id)
                return refused
            case Verdict.DEAD:
                return refused
            case _:
                assert_never(verdict)

    def _rotate(self, grant: Grant, token: RefreshToken, presented: str) -> Pair:
        issued = self.party.stage.issued
        issued.mark_used(token.sha256, self.now)
        if self.switches.rotation is Mode.NONE:
            shown = None if self.switches.omit_refresh_token else presented
            return self._access_alone(grant, token.sha256, shown)
        pair = self._issue(grant, token.sha256)
        issued.supersede(token.sha256, self.now)
        if self.switches.rotation in (Mode.STRICT, Mode.FAMILY):
            issued.revoke_refresh(token.sha256)
            if self.party.kit_like:
                issued.revoke_access_of(token.sha256)
        return pair

    def _again(self, grant: Grant, token: RefreshToken) -> Pair | None:
        issued = self.party.stage.issued
        issued.mark_used(token.sha256, self.now)
        if self.switches.rotation is Mode.GRACE_SAME:
            return issued.first_successor(token.sha256)
        if self.switches.rotation is Mode.GRACE_LATEST:
            issued.revoke_children(token.sha256)
        return self._issue(grant, token.sha256)

    def _issue(self, grant: Grant, parent: str | None) -> Pair:
        life = self.switches.life
        value = self.party.access_token(grant, self.now, self.now + life)
        return self.party.stage.issued.issue(grant, value, parent=parent, life=life, now=self.now)

    def _access_alone(self, grant: Grant, refresh: str | None, shown: str | None) -> Pair:
        """An access token with no new refresh token; `refresh`: the fingerprint of the one it belongs to."""
        life = self.switches.life
        value = self.party.access_token(grant, self.now, self.now + life)
        issued = self.party.stage.issued
        return Pair(issued.issue_access(grant, value, refresh=refresh, life=life, now=self.now), shown)

    def _granted(self, grant: Grant, pair: Pair) -> Granted:
        return Granted(grant, pair, max(0, int(pair.access.expires_at - self.now)))


def secret_fits(client: Client, secret: str | None, *, needed: bool) -> bool:
    """A secret that is sent must be right, also where none is needed."""
    if not secret:
        return not needed
    return any(hmac.compare_digest(secret.encode(), known.encode()) for known in client.secrets)


def hang_up(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection after what has been written; the response is for aiohttp's bookkeeping only."""
    if request.transport is not None:
        request.transport.close()
    return response


def form_pairs(body: bytes) -> Mapping[str, str]:
    """A form's fields. Raises BodyError; a parameter must not come twice (RFC 6749, 3.2)."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise BodyError("not a form") from error
    if len({name for name, _ in pairs}) != len(pairs):
        raise BodyError("a parameter comes twice")
    return dict(pairs)


async def _send_part(request: web.Request, answer: Answer, size: int) -> web.StreamResponse:
    body = answer.body.encode()
    response = web.StreamResponse(
        status=answer.status, headers={**NO_STORE, "Content-Type": answer.content_type}
    )
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[:size])
    return hang_up(request, response)
