"""The rules by which a token is handed out, renewed or refused. No I/O; time is passed in."""

from dataclasses import dataclass, replace
from math import floor

from broker.errors import (
    BrokerError,
    Frozen,
    NeedsReauthorization,
    Overloaded,
    ProviderRejectedClient,
    ProviderUnavailable,
    RefreshUncertain,
    StorageUnavailable,
    TokenUnusable,
)
from broker.http.bodies import rfc3339
from broker.model import Account, Reason, TokenSet, window_opens
from broker.times import span

CACHING = 3600
"""Seconds for which a caller may cache a token whose expiry the provider does not state."""
SHORT = 5
"""Seconds for which a valid access token is served, at most, while its renewal is impossible."""
LAST_USED_WITHIN = 24 * 3600.0
SAME_END = 120.0
"""Seconds by which two statements of a grant's end may differ and still mean the same moment: providers round."""
CLOCKS_DIFFER = 10.0
"""Seconds by which a token may seem to be issued in the future, because brokers' clocks are never quite the same."""
LONGEST_PAUSE = 2 * 3600.0
"""The longest pause between two attempts in seconds. A time further ahead was written by a wrong clock (R12)."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The reason why no renewal may start now (R1)."""

    reason: Reason | None
    """None: the broker is stopping or busy."""
    until: float | None
    """The earliest time of the next attempt, epoch seconds; None: not without an operator or a new grant."""
    is_busy: bool = False
    """Too many requests wait for other renewals."""
    detail: str | None = None
    """The provider's error, if it is shown to callers."""


@dataclass(frozen=True, slots=True)
class Serve:
    """The decision to return the access token; the caller may cache it for `expires_in` seconds."""

    expires_in: int
    expires_at: float
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class ServeAndRenew:
    """The decision to return the token for one second, and to start its renewal."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The decision to renew the token and to wait for the renewal."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an error, because there is no token to hand out."""

    error: BrokerError


Decision = Serve | ServeAndRenew | Wait | Refuse


def is_misdated(token: Account | TokenSet, now: float) -> bool:
    """Return whether the token was issued in the future, so that its times or the clock are wrong (R12)."""
    return token.issued_at - now > CLOCKS_DIFFER


def believed(account: Account, now: float) -> Account:
    """Return the account with a token expiry that the clock allows: at most `now` plus the lifetime (R12)."""
    if account.issued_at <= now:
        return account
    return replace(account, issued_at=now, expires_at=now + account.life)


def is_pausing(not_before: float | None, now: float) -> bool:
    """Return whether a pause until `not_before` still lasts."""
    return not_before is not None and 0 < not_before - now <= LONGEST_PAUSE


def is_valid(account: Account, now: float) -> bool:
    """Return whether the account has an access token that can be sent and stays valid for a whole second."""
    if account.sealed_access is None or account.unusable:
        return False
    # A token without a stated expiry ends when its grant is found to be revoked.
    return account.expires_at - now >= 1 and not (account.dead and account.is_endless)


def is_young(account: Account, now: float) -> bool:
    """Return whether the token is younger than a minute and than a quarter of its lifetime, so renewing is no use."""
    return not is_misdated(account, now) and now - account.issued_at < min(60.0, account.life / 4)


def decide(
    account: Account, *, now: float, ahead: float, min_ttl: float, hold: Hold | None, paced: bool = True
) -> Decision:
    """Decide what a request for this account's token leads to.

    `hold`: why no renewal may start, or None. `paced`: the background renews due tokens.
    """
    valid = is_valid(account, now)
    if valid and is_misdated(account, now):
        # All tokens may be misdated together, so a crowd of callers starts no renewals if the background does.
        account = believed(account, now)
        if hold or paced:
            return _as_it_is(account.life, 0.0, now, hold, warning=describe(hold) if hold else None)
        return ServeAndRenew()
    if valid and account.is_endless:
        return Serve(CACHING, now + CACHING)
    left, opens = account.expires_at - now, window_opens(believed(account, now), ahead)
    if valid and opens - now >= 1 and left >= min_ttl:
        # Outside the window it does not matter what keeps renewals from starting.
        return Serve(floor(opens - now), opens)
    fresh = window_opens(account, ahead) - now
    if account.unusable and fresh >= 1:
        return Refuse(TokenUnusable())
    if not valid:
        return Refuse(refusal(account, hold, now)) if hold else Wait()
    if left < min_ttl:
        if not hold and not is_young(account, now):
            return Wait()
        why = describe(hold) if hold else "It is too young to be renewed."
        warning = f"The token stays valid for {floor(left)} s, which is less than min_ttl. {why}"
        return _as_it_is(left, fresh, now, hold, warning=warning)
    return _as_it_is(left, fresh, now, hold, warning=describe(hold)) if hold else ServeAndRenew()


def _as_it_is(left: float, fresh: float, now: float, hold: Hold | None, *, warning: str | None) -> Serve:
    if fresh >= 1:
        return Serve(floor(fresh), now + fresh, warning)
    until_next = SHORT if hold is None or hold.until is None else hold.until - now
    seconds = max(1, floor(min(left, until_next, SHORT)))
    return Serve(seconds, now + seconds, warning)


def unchecked(serve: Serve, now: float) -> Serve:
    """Shorten the time for which the token may be cached: another broker may have renewed it, and the store is away."""
    if serve.expires_in <= SHORT:
        return serve
    return Serve(SHORT, now + SHORT, serve.warning or f"Not renewed: {Reason.STORAGE.happened}")


def describe(hold: Hold) -> str:
    """Return a sentence that says why nothing is renewed."""
    if hold.reason is None:
        return "The broker is busy with other renewals." if hold.is_busy else "The broker is restarting."
    return f"Not renewed: {hold.reason.describe(hold.detail)}"


def refusal(account: Account, hold: Hold, now: float) -> BrokerError:
    """Return the error for a caller when there is no valid token and no renewal may start."""
    if account.dead:
        return _needs_reauthorization(account)
    if account.frozen:
        left = (
            f"stays valid for {span(account.expires_at - now)}" if is_valid(account, now) else "has expired"
        )
        todo = account.frozen.advice(account.name, account.provider) or ""
        what = f"Account {account.name!r} is frozen, so it is not renewed."
        return Frozen(f"{what} Its access token {left}. {todo}".rstrip())
    wait = None if hold.until is None else max(1.0, hold.until - now)
    match hold.reason:
        # The renewal has just read this from the row; `account` was read before another broker changed it.
        case Reason.OPERATOR | Reason.EXPORTED | Reason.DUPLICATE_IDENTITY:
            return Frozen()
        case Reason.LOST_ROTATION | Reason.REVOKED_OR_EXPIRED | Reason.RECORD_DAMAGED if hold.until is None:
            return _needs_reauthorization(replace(account, dead=hold.reason, dead_since=now))
        case None if hold.is_busy:
            return Overloaded("too many requests wait for renewals; ask again in a moment", retry_after=1)
        case None:
            return Overloaded("the broker is restarting; ask again in a moment", retry_after=1)
        case Reason.STORAGE | Reason.COPIED_STORE | Reason.RECORD_DAMAGED:
            return StorageUnavailable(hold.reason.happened, retry_after=wait or 5)
        case Reason.CLIENT_REFUSED | Reason.CLIENT_NOT_CONFIGURED | Reason.APP_NOT_INSTALLED:
            return ProviderRejectedClient(hold.reason.happened, reason=hold.reason, retry_after=wait or 60)
        case Reason.UNCERTAIN | Reason.UNREADABLE | Reason.UNKNOWN_ERROR | Reason.REFUSED_ONCE:
            return RefreshUncertain(hold.reason.describe(hold.detail), retry_after=wait or 5)
        case _:
            return ProviderUnavailable(hold.reason.happened, reason=hold.reason, retry_after=wait or 5)


def _needs_reauthorization(account: Account) -> NeedsReauthorization:
    reason = account.dead or Reason.REVOKED_OR_EXPIRED
    detail = f"{reason.happened} {reason.advice(account.name, account.provider)}"
    return NeedsReauthorization(detail, reason=reason, since=rfc3339(account.dead_since), reconnect_url=None)


def is_wanted(account: Account, *, now: float, ahead: float, idle_renewal: float) -> bool:
    """Return whether the background should renew the account: in its window, and in use or idle for too long."""
    if is_misdated(account, now):
        return True
    if now < window_opens(account, ahead):
        return False
    used = account.last_used_at
    if used is not None and (used >= account.refreshed_at or now - used <= LAST_USED_WITHIN):
        return True
    return idle_renewal > 0 and now >= account.refreshed_at + idle_renewal


def next_look(account: Account, *, now: float, ahead: float, idle_renewal: float) -> float | None:
    """Return when the background should look at an account again that it does not renew now; None: never."""
    opens = window_opens(account, ahead)
    if now < opens:
        return opens
    return max(opens, account.refreshed_at + idle_renewal) if idle_renewal > 0 else None


def grant_end(account: Account, tokens: TokenSet) -> tuple[float | None, bool]:
    """Return when the grant ends after this renewal, or None if unknown, and whether renewals do not move that end."""
    old, new = account.grant_ends_at, tokens.refresh_expires_at
    if new is None:
        # The old refresh token keeps its end; the end of a new one is unknown.
        return (old, account.grant_ages) if tokens.refresh_token is None else (None, False)
    if old is not None and new <= old + SAME_END:
        return (old if abs(new - old) <= SAME_END else new), True
    return new, False
