"""A token endpoint on a real socket: what becomes of a code or a refresh token, and how it is answered."""

import hmac
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from typing import assert_never
from urllib.parse import parse_qsl

from aiohttp import web

from broker.sandbox.faults import AnswerFault, Mode, Provider, Switches
from broker.sandbox.issued import (
    AccessMaker,
    Consent,
    Grant,
    Issued,
    Pair,
    RefreshToken,
    Verdict,
    base64url,
    fingerprint,
    judge,
)
from broker.sandbox.stage import Stage
from broker.sandbox.store import Client, Clients

JSON = "application/json; charset=utf-8"
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
Reader = Callable[[bytes], Mapping[str, str]]
"""Raises BodyError."""


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
            or (org is not None and consent.holder.org != org)
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


def _verifier_fits(challenge: str | None, verifier: str | None) -> bool:
    # RFC 7636, 4.6; a verifier without a challenge is refused as a downgrade (RFC 9700, 2.1.1).
    if challenge is None:
        return not verifier
    digest = base64url(sha256((verifier or "").encode()).digest())
    return hmac.compare_digest(digest.encode(), challenge.encode())


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


class BodyError(ValueError):
    """The body is not what this token endpoint takes."""


Speaker = Callable[[Outcome, Switches], Answer]


class TokenEndpoint:
    """The handler of `POST …/oauth/token`."""

    def __init__(
        self,
        *,
        provider: Provider,
        stage: Stage,
        exchange: Exchange,
        read: Reader,
        speak: Speaker,
        garbled: Answer,
    ) -> None:
        self._provider = provider
        self._stage = stage
        self._exchange = exchange
        self._read = read
        self._speak = speak
        self._garbled = garbled

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        fault = self._stage.faults.take(self._provider)
        try:
            params: Mapping[str, str] | None = self._read(await request.read())
        except BodyError:
            params = None
        kind = "refresh" if params and params.get("grant_type") == "refresh_token" else "code"
        token = presented_token(params) if params else None
        n = self._stage.record.begin(self._provider, kind, token, self._stage.clock.now())
        try:
            return await self._play(request, n, params, fault)
        finally:
            self._stage.record.end(n, self._stage.clock.now())

    async def _play(
        self, request: web.Request, n: int, params: Mapping[str, str] | None, fault: AnswerFault
    ) -> web.StreamResponse:
        if fault.latency:
            await self._stage.clock.sleep(fault.latency)
        answer = self._settle(n, params, fault, request.match_info.get("org"))
        if fault.latency_after:
            await self._stage.clock.sleep(fault.latency_after)
        self._stage.record.end(n, self._stage.clock.now())
        if fault.drop is not None:
            return hang_up(request, web.Response())
        if fault.replaces_answer:
            return _false_answer(fault).response(**NO_STORE)
        if fault.truncate is not None:
            return await _send_part(request, answer, fault.truncate)
        return await self._send(request, n, answer)

    def _settle(
        self, n: int, params: Mapping[str, str] | None, fault: AnswerFault, org: str | None
    ) -> Answer:
        """Handle the request, in one transaction with its record; the true answer, whatever is sent then."""
        if fault.spares_token:
            self._stage.record.handled(n, "fault")
            return self._garbled
        if params is None:
            self._stage.record.handled(n, "invalid_request")
            return self._garbled
        switches = self._stage.faults.switches(self._provider)
        with self._stage.store.transaction():
            outcome = self._exchange.answer(params, switches, self._stage.clock.now(), org)
            self._note(n, outcome)
        answer = self._speak(outcome, switches)
        return _overlaid(answer, fault.members) if fault.members and answer.status == 200 else answer

    def _note(self, n: int, outcome: Outcome) -> None:
        match outcome:
            case Refused(why, _, grant_id):
                self._stage.record.handled(n, why, grant_id=grant_id)
            case Granted(grant, pair):
                self._stage.record.handled(
                    n,
                    "issued",
                    grant_id=grant.id,
                    issued_refresh=fingerprint(pair.refresh) if pair.refresh else None,
                    issued_access=pair.access.sha256,
                )

    async def _send(self, request: web.Request, n: int, answer: Answer) -> web.StreamResponse:
        response = answer.response(**NO_STORE)
        with suppress(ConnectionResetError):
            await response.prepare(request)
            await response.write_eof()
        if request.transport is not None and not request.transport.is_closing():
            self._stage.record.answered(n)
        return response


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


def _overlaid(answer: Answer, members: Mapping[str, object]) -> Answer:
    laid = {**json.loads(answer.body), **members}
    gone = {name for name, value in members.items() if value is None}
    return replace(answer, body=json.dumps({name: laid[name] for name in laid if name not in gone}))


def _false_answer(fault: AnswerFault) -> Answer:
    if fault.raw is not None:
        return Answer(fault.status or 200, fault.raw, JSON, fault.headers)
    return Answer(fault.status or 200, fault.body or "", "text/html; charset=utf-8", fault.headers)


async def _send_part(request: web.Request, answer: Answer, size: int) -> web.StreamResponse:
    body = answer.body.encode()
    response = web.StreamResponse(
        status=answer.status, headers={**NO_STORE, "Content-Type": answer.content_type}
    )
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[:size])
    return hang_up(request, response)
