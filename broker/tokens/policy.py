"""Decisions about one token, without I/O. Read this to know the rules."""

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
from broker.model import Account, Reason, TokenSet
from broker.times import span

CACHING = 3600
"""For how long a token without a stated end may be kept without asking again."""
SHORT = 5
"""Seconds for which a valid access token is served, at most, while its renewal is impossible."""
LAST_USED_WITHIN = 24 * 3600.0
SAME_END = 120.0
"""Ends of a grant that lie closer are one: a provider that counts down rounds, and answers take time."""
CLOCKS_DIFFER = 10.0
"""Seconds by which a token may seem to be issued in the future: two brokers' clocks are never quite the same."""
LONGEST_PAUSE = 2 * 3600.0
"""No pause between two attempts is longer; a moment that is further ahead was noted by a wrong clock (R12)."""


@dataclass(frozen=True, slots=True)
class Hold:
    """No renewal may start just now (R1)."""

    reason: Reason | None
    """None: the broker is stopping, or busy."""
    until: float | None
    """When the next attempt may be, epoch seconds; None: not by itself."""
    is_busy: bool = False
    """Too many wait for other renewals already."""
    detail: str | None = None
    """What the provider said, where that is shown."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Hand the token out, to be kept for `expires_in` seconds."""

    expires_in: int
    expires_at: float
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class ServeAndRenew:
    """Hand it out for this moment, and start its renewal."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Renew, and wait for that."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """There is nothing to hand out."""

    error: BrokerError


Decision = Serve | ServeAndRenew | Wait | Refuse


def window_opens(token: Account | TokenSet, ahead: float) -> float:
    """From when on the token is to be renewed: `ahead` of its expiry, at most a third of its life."""
    return token.expires_at - min(ahead, token.life / 3)


def is_misdated(token: Account | TokenSet, now: float) -> bool:
    """Whether the token was issued in the future, so that either its times or the clock are wrong (R12)."""
    return token.issued_at - now > CLOCKS_DIFFER


def believed(account: Account, now: float) -> Account:
    """The account with an end of its token that the clock allows: never later than `now` plus its life."""
    if account.issued_at <= now:
        return account
    return replace(account, issued_at=now, expires_at=now + account.life)


def is_pausing(not_before: float | None, now: float) -> bool:
    """Whether a noted pause still lasts."""
    return not_before is not None and 0 < not_before - now <= LONGEST_PAUSE


def is_living(account: Account, now: float) -> bool:
    """Whether there is a token that can be handed out and lives a whole second longer."""
    if account.sealed_access is None or account.unusable:
        return False
    # A token without a stated end ends when its grant is found to be dead.
    return account.expires_at - now >= 1 and not (account.dead and account.is_endless)


def is_young(account: Account, now: float) -> bool:
    """Younger than a minute and than a quarter of its life: a renewal would bring nothing."""
    return not is_misdated(account, now) and now - account.issued_at < min(60.0, account.life / 4)


def decide(
    account: Account, *, now: float, ahead: float, min_ttl: float, hold: Hold | None, paced: bool = True
) -> Decision:
    """Decide what a request for this account's token leads to. `paced`: the background renews what is due."""
    living = is_living(account, now)
    if living and is_misdated(account, now):
        # All tokens may be misdated at once, so a crowd of callers starts no renewals where the background does.
        account = believed(account, now)
        if hold or paced:
            return _as_it_is(account.life, 0.0, now, hold, warning=describe(hold) if hold else None)
        return ServeAndRenew()
    if living and account.is_endless:
        return Serve(CACHING, now + CACHING)
    left, opens = account.expires_at - now, window_opens(believed(account, now), ahead)
    if living and opens - now >= 1 and left >= min_ttl:
        # Outside its window, whatever holds renewals up.
        return Serve(floor(opens - now), opens)
    fresh = window_opens(account, ahead) - now
    if account.unusable and fresh >= 1:
        return Refuse(TokenUnusable())
    if not living:
        return Refuse(refusal(account, hold, now)) if hold else Wait()
    if left < min_ttl:
        if not hold and not is_young(account, now):
            return Wait()
        return _as_it_is(left, fresh, now, hold, warning=_short_of_ttl(left, hold))
    return _as_it_is(left, fresh, now, hold, warning=describe(hold)) if hold else ServeAndRenew()


def _as_it_is(left: float, fresh: float, now: float, hold: Hold | None, *, warning: str | None) -> Serve:
    if fresh >= 1:
        return Serve(floor(fresh), now + fresh, warning)
    until_next = SHORT if hold is None or hold.until is None else hold.until - now
    seconds = max(1, floor(min(left, until_next, SHORT)))
    return Serve(seconds, now + seconds, warning)


def unchecked(serve: Serve, now: float) -> Serve:
    """Serve for a moment only, because another broker may have renewed it, and the store cannot be read."""
    if serve.expires_in <= SHORT:
        return serve
    return Serve(SHORT, now + SHORT, serve.warning or f"Not renewed: {Reason.STORAGE.happened}")


def _short_of_ttl(left: float, hold: Hold | None) -> str:
    why = describe(hold) if hold else "It is too young to be renewed."
    return f"The token lives {floor(left)} s longer, less than was asked for. {why}"


def describe(hold: Hold) -> str:
    """Why nothing is renewed, in a sentence."""
    if hold.reason is None:
        return "The broker is busy with other renewals." if hold.is_busy else "The broker is restarting."
    return f"Not renewed: {hold.reason.told(hold.detail)}"


def refusal(account: Account, hold: Hold, now: float) -> BrokerError:
    """The error for a caller when no living token is left and none can be had."""
    if account.dead:
        return needs_reauthorization(account)
    if account.frozen:
        return frozen(account, now)
    wait = None if hold.until is None else max(1.0, hold.until - now)
    match hold.reason:
        # The renewal has just found the row so; `account` is as it was before another broker changed it.
        case Reason.OPERATOR | Reason.EXPORTED | Reason.DUPLICATE_IDENTITY:
            return Frozen()
        case Reason.LOST_ROTATION | Reason.REVOKED_OR_EXPIRED | Reason.RECORD_DAMAGED if hold.until is None:
            return needs_reauthorization(replace(account, dead=hold.reason, dead_since=now))
        case None if hold.is_busy:
            return Overloaded("too many renewals are waited for; ask again in a moment", retry_after=1)
        case None:
            return Overloaded("the broker is restarting; ask again in a moment", retry_after=1)
        case Reason.STORAGE | Reason.COPIED_STORE | Reason.RECORD_DAMAGED:
            return StorageUnavailable(hold.reason.happened, retry_after=wait or 5)
        case Reason.CLIENT_REFUSED | Reason.CLIENT_NOT_CONFIGURED | Reason.APP_NOT_INSTALLED:
            return ProviderRejectedClient(hold.reason.happened, reason=hold.reason, retry_after=wait or 60)
        case Reason.UNCERTAIN | Reason.UNREADABLE | Reason.UNKNOWN_ERROR | Reason.REFUSED_ONCE:
            return RefreshUncertain(hold.reason.told(hold.detail), retry_after=wait or 5)
        case _:
            return ProviderUnavailable(hold.reason.happened, reason=hold.reason, retry_after=wait or 5)


def frozen(account: Account, now: float) -> Frozen:
    """The 409 of a frozen account that cannot be renewed."""
    left = f"stays valid for {span(account.expires_at - now)}" if is_living(account, now) else "has expired"
    todo = (account.frozen or Reason.OPERATOR).advice(account.name, account.provider)
    return Frozen(
        f"Account {account.name!r} is frozen, so it is not renewed. Its access token {left}. {todo or ''}".rstrip()
    )


def needs_reauthorization(account: Account) -> NeedsReauthorization:
    """The 409 of a dead grant."""
    reason = account.dead or Reason.REVOKED_OR_EXPIRED
    detail = f"{reason.happened} {reason.advice(account.name, account.provider)}"
    return NeedsReauthorization(detail, reason=reason, since=rfc3339(account.dead_since), reconnect_url=None)


def is_wanted(account: Account, *, now: float, ahead: float, idle_renewal: float) -> bool:
    """Whether the background should renew the account: inside its window, and in use or idle for long."""
    if is_misdated(account, now):
        return True
    if now < window_opens(account, ahead):
        return False
    used = account.last_used_at
    if used is not None and (used >= account.refreshed_at or now - used <= LAST_USED_WITHIN):
        return True
    return idle_renewal > 0 and now >= account.refreshed_at + idle_renewal


def next_look(account: Account, *, now: float, ahead: float, idle_renewal: float) -> float | None:
    """When the background should look at the account again, if it does nothing now."""
    opens = window_opens(account, ahead)
    if now < opens:
        return opens
    return max(opens, account.refreshed_at + idle_renewal) if idle_renewal > 0 else None


def grant_end(account: Account, tokens: TokenSet) -> tuple[float | None, bool]:
    """Until when the grant lives after a renewal, where the provider says so, and whether that day is fixed."""
    old, new = account.grant_ends_at, tokens.refresh_expires_at
    if new is None:
        # A refresh token that goes on keeps its day; of a new one nothing is known.
        return (old, account.grant_ages) if tokens.refresh_token is None else (None, False)
    if old is not None and new <= old + SAME_END:
        return (old if abs(new - old) <= SAME_END else new), True
    return new, False
