"""One talk with the broker, without I/O: what to send, how long to pause, what came of it."""

import json
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any
from urllib.parse import quote

from broker.client.errors import BY_CODE, BrokerAway, BrokerError, Unauthenticated
from broker.client.keys import KeySource
from broker.client.token import Token

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
MOST_BYTES = 1024 * 1024
TOO_LARGE = "the broker's answer is larger than 1 MiB"


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this, on a connection of its own, following no redirect: a key must not end up elsewhere."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes
    timeout: float
    """Seconds, for all of it."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let that much time pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered."""

    status: int
    retry_after: str | None
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing was answered."""

    why: str


Step = Ask | Pause
Heard = Reply | Lost | None
"""Of an Ask the first two, of a Pause the last."""
Talk = Generator[Step, Heard, Token]


@dataclass(frozen=True, slots=True)
class Answered:
    """A token, and when it was asked for."""

    token: Token
    asked_at: float


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the broker."""

    method: str
    path: str
    body: bytes = b""


def token_question(account: str, min_ttl: float) -> Question:
    query = f"?min_ttl={int(min_ttl)}" if min_ttl else ""
    return Question("GET", f"/token/{quote(account, safe='')}{query}")


def rejected_question(account: str, generation: int) -> Question:
    """“The provider answered 401 to that generation”."""
    body = json.dumps({"rejected_generation": generation}).encode()
    return Question("POST", f"/token/{quote(account, safe='')}/refresh", body)


def talk(
    question: Question,
    *,
    keys: KeySource,
    patience: float,
    timeout: float,
    is_final: Callable[[BrokerError], bool],
    now: Callable[[], float],
) -> Generator[Step, Heard, Answered]:
    """Ask until there is a token, a final refusal, or no patience left (seconds); raises BrokerError.

    Each question can be repeated without harm: a report names the generation that it is about.
    """
    deadline, shown = now() + patience, keys.read()
    attempt = 0
    while True:
        asked_at = now()
        heard = yield _ask(question, shown, timeout)
        result = _read(heard)
        if isinstance(result, Token):
            return Answered(result, asked_at)
        key = keys.read()
        if isinstance(result, Unauthenticated) and key != shown:
            # The file was replaced while the old key was on its way.
            shown = key
            continue
        wait = pause_after(result, attempt)
        if wait is None or is_final(result) or now() + wait > deadline:
            raise result
        yield Pause(wait)
        attempt, shown = attempt + 1, keys.read()


def pause_after(error: BrokerError, attempt: int) -> float | None:
    """Seconds until the next attempt: what the broker asks for, else doubling, with jitter; None: it is final."""
    if error.status != 503 and not isinstance(error, BrokerAway):
        return None
    backoff: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
    jitter = random.uniform(0.5, 1.0)  # noqa: S311 - it spreads callers, it hides nothing
    if error.retry_after is None:
        return backoff * jitter
    # Never earlier than asked, but not everybody in the same instant.
    return error.retry_after + min(1.0, backoff) * jitter / 2


def _ask(question: Question, key: str | None, timeout: float) -> Ask:
    headers = {"Accept": "application/json", "User-Agent": "token-broker-client"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    if question.body:
        headers["Content-Type"] = "application/json"
    return Ask(question.method, question.path, headers, question.body, timeout)


def _read(heard: Heard) -> Token | BrokerError:
    match heard:
        case Reply():
            return _read_reply(heard)
        case Lost(why):
            return BrokerAway(why)
        case None:
            raise RuntimeError("an Ask is answered with a Reply or Lost")


def _read_reply(reply: Reply) -> Token | BrokerError:
    payload, retry_after = _object(reply.body), _seconds(reply.retry_after)
    if reply.status == 200:
        try:
            return Token.read(payload)
        except ValueError as exc:
            return BrokerAway(f"something that is no broker answers: {exc}", status=200)
    kind = BY_CODE.get(str(payload.get("code")))
    if kind is None:
        return BrokerAway(
            f"something that is no broker answers {reply.status}",
            status=reply.status,
            retry_after=retry_after,
        )
    detail = str(payload.get("detail") or payload.get("title") or reply.status)
    return kind(detail, status=reply.status, retry_after=retry_after, members=payload)


def _object(body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}


def _seconds(text: str | None) -> float | None:
    """A Retry-After; the broker writes seconds, and a date that a proxy may write is left alone."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if isfinite(seconds) and seconds >= 0 else None
