"""What the fake broker holds of each account, and its rules: those of the real one, without a provider."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from broker.client.testing.problems import Problem

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)
REJECTIONS_WITHIN = 600.0
REJECTIONS_MOST = 2
YOUNG = 60.0


@dataclass(slots=True)
class FakeAccount:
    """One connection; its tokens are told apart by their generation."""

    name: str
    provider: str
    life: float
    """Seconds for which a token is issued."""
    ahead: float
    """Seconds before its end in which it is renewed."""
    issued_at: float
    """Epoch seconds."""
    generation: int = 1
    dead: bool = False
    """The provider takes the present token no more."""
    refusal: Problem | None = None
    """What every ask is answered with."""
    rejections: list[float] = field(default_factory=list)

    @property
    def access_token(self) -> str:
        return f"fake-{self.provider}-{self.name}-{self.generation}"

    @property
    def ends_at(self) -> float:
        return self.issued_at + self.life

    @property
    def window_opens(self) -> float:
        return self.ends_at - min(self.ahead, self.life / 3)

    def is_living(self, now: float) -> bool:
        return not self.dead and now < self.ends_at

    def renew(self, now: float) -> None:
        """The next generation."""
        self.generation += 1
        self.issued_at, self.dead = now, False


def hand_out(account: FakeAccount, now: float, min_ttl: float = 0.0) -> dict[str, Any]:
    """The answer of `GET /token/{account}`; raises Problem."""
    if min_ttl > account.life / 2:
        raise Problem(
            "invalid_request", f"min_ttl may be half of the token's life at most, {account.life // 2:g} here"
        )
    if account.refusal is not None:
        raise account.refusal
    is_short = account.ends_at - now < min_ttl and not is_young(account, now)
    if not account.is_living(now) or is_short:
        account.renew(now)
    answer = _as_json(account, now)
    if now >= account.window_opens:
        # As its renewal runs: the next one who asks gets the new token.
        account.renew(now)
    return answer


def report(account: FakeAccount, generation: int, now: float) -> dict[str, Any]:
    """The answer to “the provider answered 401 to that generation”; raises Problem."""
    if account.refusal is not None:
        raise account.refusal
    if generation == account.generation:
        if account.is_living(now) and now < account.window_opens:
            _allow(account, now)
        account.renew(now)
    return hand_out(account, now)


def _allow(account: FakeAccount, now: float) -> None:
    account.rejections = [at for at in account.rejections if now - at <= REJECTIONS_WITHIN]
    if len(account.rejections) >= REJECTIONS_MOST:
        raise Problem("rate_limited", "the provider rejects a token that is fresh", REJECTIONS_WITHIN)
    if is_young(account, now):
        raise Problem("rate_limited", "the provider rejects a token that is fresh", YOUNG)
    account.rejections.append(now)


def is_young(account: FakeAccount, now: float) -> bool:
    """Too fresh to be renewed for a caller."""
    return now - account.issued_at < min(YOUNG, account.life / 4)


def _as_json(account: FakeAccount, now: float) -> dict[str, Any]:
    fresh_for = max(1, int(account.window_opens - now))
    return {
        "account": account.name,
        "provider": account.provider,
        "access_token": account.access_token,
        "token_type": "Bearer",
        "scope": "public",
        "expires_in": fresh_for,
        "expires_at": _rfc3339(now + fresh_for),
        "provider_expires_at": _rfc3339(account.ends_at),
        "generation": account.generation,
    }


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
