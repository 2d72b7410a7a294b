"""The rules of handing out one token, as a table."""

from dataclasses import replace

import pytest

from broker.errors import BrokerError
from broker.model import Account, Reason, window_opens
from broker.tokens.policy import (
    Hold,
    Refuse,
    Serve,
    ServeAndRenew,
    Wait,
    decide,
    is_wanted,
    next_look,
)

NOW = 1_000_000.0
AHEAD = 900.0
DAY = 86400.0


def account(*, age: float = 0.0, life: float = 172800.0) -> Account:
    """An account whose token was issued `age` seconds ago for `life` seconds."""
    return Account(
        name="acme",
        provider="kit",
        epoch=1,
        generation=7,
        client_id="c",
        sealed_access="sealed",
        sealed_refresh="sealed",
        token_type="Bearer",
        scope="public",
        issued_at=NOW - age,
        expires_at=NOW - age + life,
        refreshed_at=NOW - age,
        created_at=NOW - age,
    )


FRESH = account(age=100)
IN_WINDOW = account(age=172800 - 300)
EXPIRED = account(age=172801)
LAST_SECOND = account(age=172800 - 0.5)
SHORT_LIVED = account(age=0, life=90)
DOWN = Hold(Reason.PROVIDER_UNAVAILABLE, NOW + 30)
SOON = Hold(Reason.PROVIDER_UNAVAILABLE, NOW + 2)
STOPPING = Hold(None, NOW + 1)


@pytest.mark.parametrize(
    ("of", "min_ttl", "hold", "kind", "seconds"),
    [
        pytest.param(FRESH, 0, None, Serve, 172800 - 100 - 900, id="fresh: until its window opens"),
        pytest.param(FRESH, 0, DOWN, Serve, 172800 - 100 - 900, id="fresh: whatever the provider does"),
        pytest.param(SHORT_LIVED, 0, None, Serve, 60, id="the window is at most a third of the life"),
        pytest.param(IN_WINDOW, 0, None, ServeAndRenew, None, id="in its window: at once, and renewed"),
        pytest.param(IN_WINDOW, 0, DOWN, Serve, 5, id="in its window, held: five seconds at most"),
        pytest.param(IN_WINDOW, 0, SOON, Serve, 2, id="in its window, held: until the next attempt"),
        pytest.param(
            account(age=172797), 0, DOWN, Serve, 3, id="in its window, held: no longer than it lives"
        ),
        pytest.param(IN_WINDOW, 600, None, Wait, None, id="min_ttl is not there: renewed first"),
        pytest.param(IN_WINDOW, 200, None, ServeAndRenew, None, id="min_ttl is there"),
        pytest.param(IN_WINDOW, 600, DOWN, Serve, 5, id="min_ttl cannot be had: as it is"),
        pytest.param(
            account(age=172800 - 2000), 3000, None, Wait, None, id="min_ttl before the window: renewed first"
        ),
        pytest.param(
            account(age=30, life=120), 100, DOWN, Serve, 50, id="min_ttl cannot be had before the window"
        ),
        pytest.param(
            account(age=5, life=120), 118, None, Serve, 75, id="too young to be renewed for min_ttl"
        ),
        pytest.param(EXPIRED, 0, None, Wait, None, id="expired: renewed first"),
        pytest.param(LAST_SECOND, 0, None, Wait, None, id="less than a second is no life"),
        pytest.param(EXPIRED, 0, DOWN, Refuse, None, id="expired and held: refused"),
        pytest.param(EXPIRED, 0, STOPPING, Refuse, None, id="expired and stopping: refused"),
        pytest.param(
            replace(FRESH, dead=Reason.REVOKED_OR_EXPIRED), 0, DOWN, Serve, 171800, id="dead but living"
        ),
        pytest.param(replace(FRESH, unusable=True), 0, None, Refuse, None, id="no header can carry it"),
        pytest.param(
            replace(EXPIRED, unusable=True), 0, None, Wait, None, id="unusable and due: renewed first"
        ),
        pytest.param(
            replace(FRESH, sealed_access=None), 0, None, Wait, None, id="no access token: renewed first"
        ),
    ],
)
def test_decision(of: Account, min_ttl: float, hold: Hold | None, kind: type, seconds: int | None) -> None:
    """Each situation leads to one decision."""
    decision = decide(of, now=NOW, ahead=AHEAD, min_ttl=min_ttl, hold=hold)

    assert kind is type(decision)
    if seconds is not None:
        assert isinstance(decision, Serve)
        assert seconds == decision.expires_in


@pytest.mark.parametrize(
    ("of", "hold", "code", "status"),
    [
        (replace(EXPIRED, dead=Reason.LOST_ROTATION), DOWN, "needs_reauthorization", 409),
        (replace(EXPIRED, frozen=Reason.OPERATOR), DOWN, "frozen", 409),
        (EXPIRED, STOPPING, "overloaded", 503),
        (EXPIRED, DOWN, "provider_unavailable", 503),
        (EXPIRED, Hold(Reason.PROVIDER_PAUSED, NOW + 9), "provider_unavailable", 503),
        (EXPIRED, Hold(Reason.PROVIDER_DECLINED, NOW + 9), "provider_unavailable", 503),
        (EXPIRED, Hold(Reason.CLIENT_REFUSED, NOW + 9), "provider_rejected_client", 502),
        (EXPIRED, Hold(Reason.CLIENT_NOT_CONFIGURED, NOW + 9), "provider_rejected_client", 502),
        (EXPIRED, Hold(Reason.APP_NOT_INSTALLED, NOW + 9), "provider_rejected_client", 502),
        (EXPIRED, Hold(Reason.UNCERTAIN, NOW + 9), "refresh_uncertain", 503),
        (EXPIRED, Hold(Reason.REFUSED_ONCE, NOW + 2), "refresh_uncertain", 503),
        (EXPIRED, Hold(Reason.STORAGE, NOW + 2), "storage_unavailable", 503),
        (EXPIRED, Hold(Reason.COPIED_STORE, None), "storage_unavailable", 503),
        (replace(FRESH, unusable=True), None, "token_unusable", 502),
    ],
)
def test_refusal(of: Account, hold: Hold | None, code: str, status: int) -> None:
    """Without a living token the caller hears what is wrong; a 503 says when to come back."""
    decision = decide(of, now=NOW, ahead=AHEAD, min_ttl=0, hold=hold)

    assert isinstance(decision, Refuse)
    error: BrokerError = decision.error
    assert (code, status) == (error.code, error.status)
    assert (status == 503) <= (error.retry_after is not None)


def test_handed_out_time_is_before_the_window() -> None:
    """`expires_in` and the window meet: who caches by it never holds a token while it is renewed."""
    decision = decide(FRESH, now=NOW, ahead=AHEAD, min_ttl=0, hold=None)

    assert isinstance(decision, Serve)
    assert NOW + decision.expires_in <= window_opens(FRESH, AHEAD)
    assert window_opens(FRESH, AHEAD) == decision.expires_at


@pytest.mark.parametrize(
    ("of", "wanted"),
    [
        pytest.param(replace(IN_WINDOW, last_used_at=NOW - 10), True, id="used since its renewal"),
        pytest.param(
            replace(IN_WINDOW, last_used_at=IN_WINDOW.refreshed_at - 1), False, id="used only before it"
        ),
        pytest.param(replace(EXPIRED, last_used_at=NOW - 3600), True, id="used within a day"),
        pytest.param(replace(FRESH, last_used_at=NOW), False, id="its window is not open"),
        pytest.param(account(age=4 * DAY), False, id="idle, for less than five days"),
        pytest.param(account(age=5 * DAY), True, id="idle for five days"),
        pytest.param(account(age=6 * DAY, life=30 * DAY), False, id="idle, but its window is not open"),
    ],
)
def test_background_wants(of: Account, wanted: bool) -> None:
    """The background renews what is in use, and what would die of idleness."""
    assert wanted is is_wanted(of, now=NOW, ahead=AHEAD, idle_renewal=5 * DAY)


def test_idle_renewal_can_be_off() -> None:
    """With "0s" nothing unused is ever renewed, and nobody looks again."""
    idle = account(age=300 * DAY)

    assert not is_wanted(idle, now=NOW, ahead=AHEAD, idle_renewal=0)
    assert next_look(idle, now=NOW, ahead=AHEAD, idle_renewal=0) is None


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.EXPORTED, "frozen"),
        (Reason.OPERATOR, "frozen"),
        (Reason.DUPLICATE_IDENTITY, "frozen"),
        (Reason.REVOKED_OR_EXPIRED, "needs_reauthorization"),
        (Reason.LOST_ROTATION, "needs_reauthorization"),
        (Reason.RECORD_DAMAGED, "needs_reauthorization"),
    ],
)
def test_what_another_broker_has_just_changed_is_said_as_that(reason: Reason, code: str) -> None:
    """The row in memory is old, and the renewal found why there is none."""
    old = account(age=2 * DAY, life=DAY)

    found = decide(old, now=NOW, ahead=AHEAD, min_ttl=0, hold=Hold(reason, None))

    assert isinstance(found, Refuse)
    assert (409, code) == (found.error.status, found.error.code)
