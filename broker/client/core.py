"""The decisions of both clients, without I/O: whether to ask, what to send, how long to pause, how to read answers."""

import json
import logging
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any
from urllib.parse import quote

from .connection import KeySource
from .errors import (
    BY_CODE,
    AuditUnavailable,
    BrokerAway,
    BrokerError,
    Internal,
    KeyUnreadable,
    Overloaded,
    RateLimited,
    StorageUnavailable,
    Unauthenticated,
)
from .tokens import Memory, Token

log = logging.getLogger(__package__)

TIMEOUT = 15.0
"""Seconds for one answer; the broker itself waits ten seconds for a renewal."""
TIMEOUT_WITH_TOKEN = 3.0
"""Seconds for one answer while a valid token is cached."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
ABOUT_ITSELF = (BrokerAway, KeyUnreadable, Overloaded, StorageUnavailable, AuditUnavailable, Internal)
"""Errors on the way to the broker or inside it, which say nothing about the account."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, to be sent on a new connection; no redirect is followed, so that the key is not sent elsewhere."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes
    timeout: float
    """Seconds for the whole exchange."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to an Ask."""

    status: int
    retry_after: str | None
    body: bytes = field(repr=False)


Talk = Generator[Ask | float, Reply | BrokerAway | None, Token]
"""A generator of requests and pauses (in seconds) that returns a token; a Reply or BrokerAway answers an Ask."""


class Core:
    """The questions to the broker as talks, which a client drives with its I/O."""

    def __init__(
        self, *, keys: KeySource, patience: float, while_away: float, now: Callable[[], float]
    ) -> None:
        if patience < 0 or while_away < 0:
            raise ValueError("patience and while_away are seconds, not negative")
        self._keys, self._patience, self._now = keys, patience, now
        self._memory = Memory(while_away=while_away)
        self._failures, self._ask_again_at = 0, 0.0
        """The failures in a row, and the time until which a cached token is used without asking."""
        self._told = set[str]()
        """The accounts for which the log has a warning."""
        self._unrenewable: dict[str, tuple[int, float, RateLimited]] = {}
        """The generation of an account that the broker refuses to renew, until when, and its error."""

    def cached(self, account: str, min_ttl: float) -> Token | None:
        """Return a cached token: a fresh one, or a valid one during a pause of an outage."""
        now = self._now()
        fresh = self._memory.fresh(account, now, min_ttl)
        if fresh is not None or now >= self._ask_again_at:
            return fresh
        return self._memory.valid(account, now)

    def newer(self, token: Token) -> Token | None:
        """Return a cached token newer than a rejected one, or None; raises RateLimited until a retry is allowed."""
        generation, until, error = self._unrenewable.get(token.account, (None, 0.0, None))
        if error is not None and generation == token.generation and self._now() < until:
            raise error
        fresh = self._memory.fresh(token.account, self._now())
        return fresh if fresh is not None and fresh.generation > token.generation else None

    def get(self, account: str, min_ttl: float) -> Talk:
        """Ask for a token; while the broker is away, return a cached one that is still valid."""
        valid = self._memory.valid(account, self._now())
        query = f"?min_ttl={int(min_ttl)}" if min_ttl else ""
        try:
            return (yield from self._ask(account, valid, "GET", query))
        except ABOUT_ITSELF as exc:
            valid = self._memory.valid(account, self._now())
            if valid is None:
                raise
            if account not in self._told:
                self._told.add(account)
                told = "the broker is away; going on with the last token of %s, generation %d: %s"
                log.warning(told, account, valid.generation, exc)
            return valid
        except BrokerError:
            self._memory.forget(account)
            raise

    def rejected(self, account: str, generation: int) -> Talk:
        """Report a token that the provider's API rejected, and return the next one."""
        body = json.dumps({"rejected_generation": generation}).encode()
        try:
            return (yield from self._ask(account, None, "POST", "/refresh", body))
        except RateLimited as exc:
            # The provider rejects fresh tokens too, so another report for each request would not help.
            self._unrenewable[account] = (generation, self._now() + (exc.retry_after or 1.0), exc)
            raise
        except BrokerError:
            self._memory.forget(account, generation)
            raise

    def _ask(self, account: str, valid: Token | None, method: str, end: str, body: bytes = b"") -> Talk:
        """Ask until there is a token, a final error, or no patience left; raises BrokerError.

        Each request can be repeated without harm, because a report names the generation it is about.
        """
        path = f"/token/{quote(account, safe='')}{end}"
        timeout = TIMEOUT if valid is None else TIMEOUT_WITH_TOKEN
        try:
            deadline, attempt, key = self._now() + self._patience, 0, self._keys.read()
            while True:
                headers = {"Accept": "application/json", "User-Agent": "token-broker-client"}
                if key is not None:
                    headers["Authorization"] = f"Bearer {key}"
                if body:
                    headers["Content-Type"] = "application/json"
                asked_at = self._now()
                result = _read((yield Ask(method, path, headers, body, timeout)))
                if isinstance(result, Token):
                    break
                shown, key = key, self._keys.read()
                if isinstance(result, Unauthenticated) and key != shown:
                    # The file was replaced while the request with the old key was under way.
                    continue
                wait = pause_after(result, attempt)
                is_final = valid is not None and isinstance(result, ABOUT_ITSELF)
                if wait is None or is_final or self._now() + wait > deadline:
                    raise result
                yield wait
                attempt, key = attempt + 1, self._keys.read()
        except ABOUT_ITSELF as exc:
            self._ask_again_at = self._now() + (pause_after(exc, self._failures) or 1.0)
            self._failures = min(self._failures + 1, 16)
            raise
        self._failures, self._ask_again_at = 0, 0.0
        if self._told:
            names = ", ".join(sorted(self._told))
            self._told = set()
            log.warning("the broker is back after going on without it for: %s", names)
        self._memory.keep(account, result, asked_at)
        return result


def pause_after(error: BrokerError, attempt: int) -> float | None:
    """Return the seconds until the next attempt, or None if the error is final.

    They are what the broker asks for, else they double with each attempt; both with jitter.
    """
    if error.status != 503 and not isinstance(error, BrokerAway):
        return None
    backoff: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
    jitter = random.uniform(0.5, 1.0)  # noqa: S311 - it spreads callers and protects nothing
    if error.retry_after is None:
        return backoff * jitter
    # Never earlier than asked, and not all callers in the same instant.
    return error.retry_after + min(1.0, backoff) * jitter / 2


def _read(heard: Reply | BrokerAway | None) -> Token | BrokerError:
    if not isinstance(heard, Reply):
        return heard or BrokerAway("an Ask was not answered")
    try:
        payload: Any = json.loads(heard.body)
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        payload = {}
    if heard.status == 200:
        try:
            return Token.read(payload)
        except ValueError as exc:
            return BrokerAway(f"something that is not a broker answers: {exc}", status=200)
    try:
        # The broker writes seconds; a date, which a proxy may write, is ignored.
        retry_after: float | None = float(heard.retry_after or "")
    except ValueError:
        retry_after = None
    if retry_after is not None and not (isfinite(retry_after) and retry_after >= 0):
        retry_after = None
    kind = BY_CODE.get(str(payload.get("code")))
    if kind is None:
        told = f"something that is not a broker answers {heard.status}"
        return BrokerAway(told, status=heard.status, retry_after=retry_after)
    detail = str(payload.get("detail") or payload.get("title") or heard.status)
    return kind(detail, status=heard.status, retry_after=retry_after, members=payload)
