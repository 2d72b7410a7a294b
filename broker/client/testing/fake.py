"""`FakeBroker`: a broker for tests, on a real socket, that is told what goes wrong."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, RLock
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

from broker.client.testing.accounts import NAME, YOUNG, FakeAccount, hand_out, report
from broker.client.testing.problems import Problem
from broker.client.testing.server import Answer, Call, Server

DAY = 86400.0


class FakeBroker:
    """Answers `GET /token/{account}` and `POST /token/{account}/refresh` as the broker does, in a thread of its own.

    Every valid account name gives a token. Tokens are a minute old when they are issued, so that a report of a
    rejected one renews it at once.
    """

    def __init__(
        self,
        *,
        key: str = "tbk_fake",
        life: float = 2 * DAY,
        ahead: float = 900.0,
        now: Callable[[], float] = time.time,  # noqa: TID251 - a fake of the other side, with its own clock
    ) -> None:
        """`life`: seconds a token is issued for; `ahead`: how long before its end it is renewed."""
        self.key = key
        """What callers must show."""
        self.asked: list[str] = []
        """Every request so far, as `GET /token/acme`."""
        self.reported: list[tuple[str, int]] = []
        """Account and generation of every rejected token that was reported."""
        self._life, self._ahead, self._now = life, ahead, now
        self._accounts: dict[str, FakeAccount] = {}
        self._lock, self._stopped, self._delay = RLock(), Event(), 0.0
        self._server = Server(self._answer)

    @property
    def url(self) -> str:
        """What goes into `Broker(url, key=…)`."""
        return self._server.url

    def start(self) -> None:
        """Listen on a free port of loopback."""
        self._stopped.clear()
        self._server.start()

    def stop(self) -> None:
        self._stopped.set()
        self._server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def expire(self, account: str) -> None:
        """The provider takes the present token no more; the next ask, or a report, brings a new one."""
        with self._lock:
            self._account(account).dead = True

    def refuse(
        self,
        account: str,
        code: str,
        *,
        detail: str | None = None,
        retry_after: float | None = None,
        **members: object,
    ) -> None:
        """Answer every ask for the account with this error until `relent`; ValueError: there is no such code."""
        problem = Problem(code, detail, retry_after, members)
        with self._lock:
            self._account(account).refusal = problem

    def relent(self, account: str) -> None:
        """Give tokens of the account again."""
        with self._lock:
            self._account(account).refusal = None

    def slow(self, seconds: float) -> None:
        """Take so long for every answer; 0: be quick again."""
        self._delay = seconds

    @contextmanager
    def away(self) -> Iterator[None]:
        """`with fake_broker.away():` connections are refused; then it is back at the same address."""
        self._server.stop()
        try:
            yield
        finally:
            self._server.start()

    def accepts(self, authorization: str | None) -> bool:
        """Whether a provider's API would take this header: for the API that your test plays."""
        with self._lock:
            now = self._now()
            living = [one for one in self._accounts.values() if one.is_living(now)]
            return authorization in {f"Bearer {one.access_token}" for one in living}

    def access_token(self, account: str) -> str:
        """The present token."""
        with self._lock:
            return self._account(account).access_token

    def generation(self, account: str) -> int:
        """The present generation."""
        with self._lock:
            return self._account(account).generation

    def _account(self, name: str) -> FakeAccount:
        if name not in self._accounts:
            issued_at = self._now() - min(YOUNG, self._life / 4)
            self._accounts[name] = FakeAccount(name, "kit", self._life, self._ahead, issued_at)
        return self._accounts[name]

    def _answer(self, call: Call) -> Answer:
        """Called in a thread of each connection."""
        self.asked.append(f"{call.method} {call.target}")
        if self._delay:
            self._stopped.wait(self._delay)
        request_id = call.headers.get("X-Request-Id") or secrets.token_hex(8)
        try:
            with self._lock:
                answer = self._route(call)
        except Problem as problem:
            answer = Answer(problem.status, problem.headers, problem.body(request_id))
        if answer.status == 405:
            answer.headers["Allow"] = "POST" if call.target.endswith("/refresh") else "GET"
        answer.headers.update({"Cache-Control": "no-store", "X-Request-Id": request_id})
        return answer

    def _route(self, call: Call) -> Answer:
        parts = urlsplit(call.target)
        match parts.path.split("/"):
            case ["", "healthz"] | ["", "readyz"]:
                return Answer(200, {"Content-Type": "application/json"}, b'{"status":"ok"}')
            case ["", "token", name]:
                self._authenticate(call)
                _demand(call, "GET")
                return self._get(call, self._named(name), dict(parse_qsl(parts.query)))
            case ["", "token", name, "refresh"]:
                self._authenticate(call)
                _demand(call, "POST")
                return _token_answer(call, self._refresh(call, self._named(name)))
            case _:
                self._authenticate(call)
                raise Problem("not_found")

    def _authenticate(self, call: Call) -> None:
        if call.headers.get("Authorization") != f"Bearer {self.key}":
            raise Problem("unauthenticated")

    def _named(self, quoted: str) -> FakeAccount:
        name = unquote(quoted)
        if NAME.fullmatch(name) is None:
            raise Problem(
                "invalid_request", "an account's name is lower-case letters, digits and . _ -, at most 128"
            )
        return self._account(name)

    def _get(self, call: Call, account: FakeAccount, query: dict[str, str]) -> Answer:
        min_ttl = query.get("min_ttl", "0")
        if not min_ttl.isdecimal():
            raise Problem("invalid_request", "min_ttl is a whole number")
        payload = hand_out(account, self._now(), float(min_ttl))
        settled = payload["expires_in"] > 1
        if settled and call.headers.get("If-None-Match") == _etag(payload):
            return Answer(304, {"ETag": _etag(payload)}, b"")
        return _token_answer(call, payload)

    def _refresh(self, call: Call, account: FakeAccount) -> dict[str, object]:
        generation = _generation(call.body)
        now = self._now()
        if generation is None:
            account.renew(now)
            return hand_out(account, now)
        self.reported.append((account.name, generation))
        return report(account, generation, now)


def _demand(call: Call, method: str) -> None:
    if call.method != method:
        raise Problem("method_not_allowed", f"allowed here: {method}")


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


def _token_answer(call: Call, payload: dict[str, object]) -> Answer:
    etag = {"ETag": _etag(payload)}
    if "text/plain" in call.headers.get("Accept", ""):
        return Answer(200, {"Content-Type": "text/plain", **etag}, f"{payload['access_token']}\n".encode())
    return Answer(200, {"Content-Type": "application/json", **etag}, json.dumps(payload).encode())


def _etag(payload: dict[str, object]) -> str:
    return f'"{payload["generation"]}"'
