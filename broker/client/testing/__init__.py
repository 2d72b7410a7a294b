"""`FakeBroker`, for the tests of programs that call the broker: a broker on a real socket, with faults on request."""

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, RLock, Thread
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)
DAY = 86400.0
REJECTIONS_WITHIN = 600.0
REJECTIONS_MOST = 2
YOUNG = 60.0
PROBLEMS: Mapping[str, tuple[int, str]] = {
    "internal": (500, "Internal error"),
    "invalid_request": (400, "The request is malformed"),
    "unauthenticated": (401, "No valid credential"),
    "forbidden": (403, "Outside the caller's accounts or permissions"),
    "not_found": (404, "No such route"),
    "unknown_account": (404, "There is no such account"),
    "method_not_allowed": (405, "Method not allowed"),
    "conflict": (409, "The request conflicts with what is stored"),
    "needs_reauthorization": (
        409,
        "The grant was revoked or has expired; the account needs re-authorization",
    ),
    "frozen": (409, "The account is frozen, so it is not renewed"),
    "too_large": (413, "The request is too large"),
    "rate_limited": (429, "Too many requests"),
    "provider_rejected_client": (
        502,
        "The provider rejects the broker's client id or secret; an operator has to correct it",
    ),
    "token_unusable": (502, "The provider sent a token that no header can carry"),
    "provider_unavailable": (503, "The provider cannot be reached just now"),
    "refresh_uncertain": (503, "The outcome of a renewal is unknown; the broker finds out"),
    "storage_unavailable": (503, "The store cannot be written just now"),
    "audit_unavailable": (503, "The audit cannot be written just now"),
    "overloaded": (503, "Too busy or stopping"),
}
"""The status and title of every error code."""
MEMBERS: Mapping[str, Mapping[str, object]] = {
    "needs_reauthorization": {
        "reason": "revoked_or_expired",
        "since": "2026-01-01T00:00:00Z",
        "reconnect_url": "http://127.0.0.1:8080/dashboard/accounts/acme",
    },
    "rate_limited": {"reason": "rejected_by_provider"},
}
"""Further members that some errors have."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request to the fake broker."""

    method: str
    target: str
    headers: Message
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the fake broker."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(eq=False)
class Problem(Exception):
    """An error answer. It is neither frozen nor equal by value, because it is raised."""

    code: str
    detail: str | None = None
    retry_after: float | None = None
    members: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.code not in PROBLEMS:
            raise ValueError(f"{self.code!r} is not a code of the broker; one of: {', '.join(PROBLEMS)}")

    def answer(self, request_id: str) -> Answer:
        """Return the problem document (RFC 9457) as an answer."""
        status, title = PROBLEMS[self.code]
        headers = {"Content-Type": "application/problem+json"}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        seconds = 1.0 if self.retry_after is None and status in (429, 503) else self.retry_after
        if seconds is not None:
            headers["Retry-After"] = str(max(1, round(seconds)))
        body = {
            "type": f"urn:token-broker:error:{self.code}",
            "title": title,
            "status": status,
            "detail": self.detail or title,
            "code": self.code,
            "request_id": request_id,
            **MEMBERS.get(self.code, {}),
            **self.members,
        }
        return Answer(status, headers, json.dumps(body).encode())


@dataclass(slots=True)
class FakeAccount:
    """An account with the rules of the real broker; the generation is part of each token."""

    name: str
    provider: str
    life: float
    """The lifetime of a token in seconds."""
    ahead: float
    """The seconds before its expiry in which it is renewed."""
    issued_at: float
    """Epoch seconds."""
    generation: int = 1
    rejected: bool = False
    """The provider rejects the present token."""
    refusal: Problem | None = None
    """The answer to every request, if it is set."""
    rejections: list[float] = field(default_factory=list)

    @property
    def access_token(self) -> str:
        """The present token."""
        return f"fake-{self.provider}-{self.name}-{self.generation}"

    @property
    def ends_at(self) -> float:
        """The time when the token expires, in epoch seconds."""
        return self.issued_at + self.life

    @property
    def window_opens(self) -> float:
        """The time from which the token is renewed, in epoch seconds."""
        return self.ends_at - min(self.ahead, self.life / 3)

    def is_valid(self, now: float) -> bool:
        """Return whether the provider accepts the token."""
        return not self.rejected and now < self.ends_at

    def is_young(self, now: float) -> bool:
        """Return whether the token is too new to be renewed for a caller."""
        return now - self.issued_at < min(YOUNG, self.life / 4)

    def renew(self, now: float) -> None:
        """Make the token of the next generation."""
        self.generation += 1
        self.issued_at, self.rejected = now, False

    def hand_out(self, now: float, min_ttl: float = 0.0) -> dict[str, object]:
        """Return the answer of `GET /token/{account}`; raises Problem."""
        if min_ttl > self.life / 2:
            told = f"min_ttl may be half of the token's life at most, {self.life // 2:g} here"
            raise Problem("invalid_request", told)
        if self.refusal is not None:
            raise self.refusal
        is_short = self.ends_at - now < min_ttl and not self.is_young(now)
        if not self.is_valid(now) or is_short:
            self.renew(now)
        fresh_for = max(1, int(self.window_opens - now))
        answer = {
            "account": self.name,
            "provider": self.provider,
            "access_token": self.access_token,
            "token_type": "Bearer",
            "scope": "public",
            "expires_in": fresh_for,
            "expires_at": _rfc3339(now + fresh_for),
            "provider_expires_at": _rfc3339(self.ends_at),
            "generation": self.generation,
        }
        if now >= self.window_opens:
            # Its renewal is under way: the next request gets the new token.
            self.renew(now)
        return answer

    def report(self, generation: int, now: float) -> dict[str, object]:
        """Return the answer to a report that the provider rejected that generation; raises Problem."""
        if self.refusal is not None:
            raise self.refusal
        if generation == self.generation:
            if self.is_valid(now) and now < self.window_opens:
                self.rejections = [at for at in self.rejections if now - at <= REJECTIONS_WITHIN]
                is_refused = len(self.rejections) >= REJECTIONS_MOST
                if is_refused or self.is_young(now):
                    seconds = REJECTIONS_WITHIN if is_refused else YOUNG
                    raise Problem("rate_limited", "the provider rejects a token that is fresh", seconds)
                self.rejections.append(now)
            self.renew(now)
        return self.hand_out(now)


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeBroker:
    """A server that answers `GET /token/{account}` and `POST /token/{account}/refresh` as the broker does.

    It runs in a thread and has a token for every valid account name. Tokens are a minute old when they are issued, so
    that a report of a rejected one renews it immediately.
    """

    def __init__(
        self,
        *,
        key: str = "tbk_fake",
        life: float = 2 * DAY,
        ahead: float = 900.0,
        now: Callable[[], float] = time.time,  # noqa: TID251 - a fake of the other side, with its own clock
    ) -> None:
        """`life` is the lifetime of a token in seconds, `ahead` the seconds before its expiry when it is renewed."""
        self.key = key
        """The key that callers must present."""
        self.asked: list[str] = []
        """All requests so far, as in `GET /token/acme`."""
        self.reported: list[tuple[str, int]] = []
        """The account and generation of each rejected token that was reported."""
        self._life, self._ahead, self._now = life, ahead, now
        self._accounts: dict[str, FakeAccount] = {}
        self._lock, self._stopped, self._delay = RLock(), Event(), 0.0
        self._server = Server(self._answer)

    @property
    def url(self) -> str:
        """The address for `Broker(url, key=…)`."""
        return self._server.url

    def start(self) -> None:
        """Start listening on a free port of loopback."""
        self._stopped.clear()
        self._server.start()

    def stop(self) -> None:
        """Stop listening; `start` continues at the same address."""
        self._stopped.set()
        self._server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def expire(self, account: str) -> None:
        """Let the provider reject the present token; the next request, or a report, gets a new one."""
        with self._lock:
            self._account(account).rejected = True

    def refuse(
        self,
        account: str,
        code: str,
        *,
        detail: str | None = None,
        retry_after: float | None = None,
        **members: object,
    ) -> None:
        """Answer every request for the account with this error until `relent`; raises ValueError if it is unknown."""
        problem = Problem(code, detail, retry_after, members)
        with self._lock:
            self._account(account).refusal = problem

    def relent(self, account: str) -> None:
        """Issue tokens of the account again."""
        with self._lock:
            self._account(account).refusal = None

    def slow(self, seconds: float) -> None:
        """Delay every answer by so many seconds."""
        self._delay = seconds

    @contextmanager
    def away(self) -> Iterator[None]:
        """Refuse connections in a `with` block, and listen at the same address again after it."""
        self._server.stop()
        try:
            yield
        finally:
            self._server.start()

    def accepts(self, authorization: str | None) -> bool:
        """Return whether a provider's API would accept this header, for a fake API in your test."""
        with self._lock:
            now = self._now()
            valid = [one for one in self._accounts.values() if one.is_valid(now)]
            return authorization in {f"Bearer {one.access_token}" for one in valid}

    def access_token(self, account: str) -> str:
        """Return the present token of the account."""
        with self._lock:
            return self._account(account).access_token

    def generation(self, account: str) -> int:
        """Return the generation of that token."""
        with self._lock:
            return self._account(account).generation

    def _account(self, name: str) -> FakeAccount:
        if name not in self._accounts:
            issued_at = self._now() - min(YOUNG, self._life / 4)
            self._accounts[name] = FakeAccount(name, "kit", self._life, self._ahead, issued_at)
        return self._accounts[name]

    def _answer(self, call: Call) -> Answer:
        """Answer a request, in the thread of its connection."""
        self.asked.append(f"{call.method} {call.target}")
        if self._delay:
            self._stopped.wait(self._delay)
        request_id = call.headers.get("X-Request-Id") or secrets.token_hex(8)
        try:
            with self._lock:
                answer = self._route(call)
        except Problem as problem:
            answer = problem.answer(request_id)
        if answer.status == 405:
            answer.headers["Allow"] = "POST" if call.target.endswith("/refresh") else "GET"
        answer.headers.update({"Cache-Control": "no-store", "X-Request-Id": request_id})
        return answer

    def _route(self, call: Call) -> Answer:
        parts, now = urlsplit(call.target), self._now()
        match parts.path.split("/"):
            case ["", "healthz"] | ["", "readyz"]:
                return Answer(200, {"Content-Type": "application/json"}, b'{"status":"ok"}')
            case _ if call.headers.get("Authorization") != f"Bearer {self.key}":
                raise Problem("unauthenticated")
            case ["", "token", name] if call.method == "GET":
                account, min_ttl = self._named(name), dict(parse_qsl(parts.query)).get("min_ttl", "0")
                if not min_ttl.isdecimal():
                    raise Problem("invalid_request", "min_ttl is a whole number")
                return _token_answer(call, account.hand_out(now, float(min_ttl)))
            case ["", "token", name, "refresh"] if call.method == "POST":
                account, generation = self._named(name), _generation(call.body)
                if generation is None:
                    account.renew(now)
                    return _token_answer(call, account.hand_out(now))
                self.reported.append((account.name, generation))
                return _token_answer(call, account.report(generation, now))
            case ["", "token", _, *end] if end in ([], ["refresh"]):
                raise Problem("method_not_allowed", f"allowed here: {'POST' if end else 'GET'}")
            case _:
                raise Problem("not_found")

    def _named(self, quoted: str) -> FakeAccount:
        name = unquote(quoted)
        if NAME.fullmatch(name) is None:
            told = "an account's name is lower-case letters, digits and . _ -, at most 128"
            raise Problem("invalid_request", told)
        return self._account(name)


def _generation(body: bytes) -> int | None:
    try:
        asked = json.loads(body or b"{}")
    except ValueError:
        raise Problem("invalid_request", "the body is not a JSON object with unique members") from None
    if not isinstance(asked, dict) or set(asked) - {"rejected_generation"}:
        raise Problem("invalid_request", "unknown member; known are: rejected_generation")
    generation = asked.get("rejected_generation")
    if isinstance(generation, float) and generation.is_integer():
        return int(generation)
    if generation is not None and (isinstance(generation, bool) or not isinstance(generation, int)):
        raise Problem("invalid_request", "rejected_generation has the wrong type")
    return generation


def _token_answer(call: Call, payload: Mapping[str, object]) -> Answer:
    headers = {"ETag": f'"{payload["generation"]}"'}
    is_settled = call.method == "GET" and payload["expires_in"] != 1
    if is_settled and call.headers.get("If-None-Match") == headers["ETag"]:
        return Answer(304, headers, b"")
    if "text/plain" in call.headers.get("Accept", ""):
        return Answer(200, {"Content-Type": "text/plain", **headers}, f"{payload['access_token']}\n".encode())
    return Answer(200, {"Content-Type": "application/json", **headers}, json.dumps(payload).encode())


class Server:
    """A server that answers with a function, and keeps its port when it is stopped and started again."""

    def __init__(self, answer: Callable[[Call], Answer]) -> None:
        self._answer, self._port = answer, 0
        self._running: tuple[ThreadingHTTPServer, Thread] | None = None

    @property
    def url(self) -> str:
        """The address; raises RuntimeError before the first start."""
        if not self._port:
            raise RuntimeError("the FakeBroker is not started: use `with FakeBroker() as fake:` or start()")
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, at first on a free port."""
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                found = answer(Call(self.command, self.path, self.headers, body))
                self.send_response(found.status)
                length = {"Content-Length": str(len(found.body)), "Connection": "close"}
                for name, value in (found.headers | length).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(found.body)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of http.server
                """Log nothing, because the output belongs to the test."""

        listening = _Listening(("127.0.0.1", self._port), Handler)
        self._port = listening.server_address[1]
        thread = Thread(target=listening.serve_forever, args=(0.01,), name="fake-broker", daemon=True)
        thread.start()
        self._running = (listening, thread)

    def stop(self) -> None:
        """Stop listening, and wait for the thread."""
        if self._running is not None:
            listening, thread = self._running
            self._running = None
            listening.shutdown()
            listening.server_close()
            thread.join()


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that hung up."""
