"""A token endpoint on a real socket: reads the request, lets the faults play, and answers or does not."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl

from aiohttp import web

from broker.sandbox.exchange import Exchange, Granted, Outcome, Refused, presented_token
from broker.sandbox.faults import AnswerFault, Provider, Switches
from broker.sandbox.issued import fingerprint
from broker.sandbox.stage import Stage

JSON = "application/json; charset=utf-8"
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer before it is sent."""

    status: int
    body: str
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def json_answer(status: int, document: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(document), JSON, headers or {})


class BodyError(ValueError):
    """The body is not what this token endpoint takes."""


Reader = Callable[[bytes], Mapping[str, str]]
"""Raises BodyError."""
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
            return _response(_false_answer(fault))
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
        response = _response(answer)
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


def _response(answer: Answer) -> web.Response:
    headers = {**NO_STORE, "Content-Type": answer.content_type, **answer.headers}
    return web.Response(status=answer.status, body=answer.body.encode(), headers=headers)


async def _send_part(request: web.Request, answer: Answer, size: int) -> web.StreamResponse:
    body = answer.body.encode()
    response = web.StreamResponse(
        status=answer.status, headers={**NO_STORE, "Content-Type": answer.content_type}
    )
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[:size])
    return hang_up(request, response)
