"""The end of a grant is foretold 30, 7 and 1 day before, where it is known; once for each, over restarts."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.alerts.service import end_of, threshold
from broker.config.settings import RefreshSettings
from broker.model import Account, EventKind, Reason, Secret, TokenSet, Trouble
from broker.tokens.policy import grant_end
from tests.house import House, open_house

NOW, DAY = 1_800_000_000.0, 86400.0
REFRESH = RefreshSettings(900.0, 75.0, 10.0, background=True, idle_renewal=5 * DAY)
NO_IDLE = replace(REFRESH, idle_renewal=0.0)
ASKED = replace(REFRESH, background=False)
ACME = Account(
    name="acme",
    provider="p",
    epoch=1,
    generation=1,
    client_id="c",
    sealed_access="a",
    sealed_refresh="r",
    token_type="Bearer",
    scope="",
    issued_at=NOW,
    expires_at=NOW + DAY,
    refreshed_at=NOW,
    created_at=NOW,
)
FIXED = replace(ACME, grant_ends_at=NOW + 100 * DAY, grant_ages=True)
SLIDING = replace(ACME, grant_ends_at=NOW + 14 * DAY)
FAILING = Trouble(Reason.PROVIDER_UNAVAILABLE, since=NOW)


@pytest.mark.parametrize(
    ("account", "after_days", "refresh", "idle_days", "expected"),
    [
        (ACME, 1, REFRESH, None, None),
        (FIXED, 1, REFRESH, None, (NOW + 100 * DAY, Reason.GRANT_AGES)),
        (replace(ACME, sealed_refresh=None), 0, REFRESH, 14, (NOW + DAY, Reason.NO_REFRESH_TOKEN)),
        # It slides: renewals move it, so it comes only where none is to be expected.
        (SLIDING, 1, REFRESH, None, None),
        (SLIDING, 13, REFRESH, None, None),
        (SLIDING, 1, NO_IDLE, None, (NOW + 14 * DAY, Reason.GRANT_IDLES)),
        (SLIDING, 1, ASKED, None, (NOW + 14 * DAY, Reason.GRANT_IDLES)),
        (SLIDING, 1, replace(REFRESH, idle_renewal=20 * DAY), None, (NOW + 14 * DAY, Reason.GRANT_IDLES)),
        (replace(SLIDING, last_used_at=NOW + DAY), 1.5, NO_IDLE, None, None),
        (replace(SLIDING, last_used_at=NOW + DAY), 1.5, ASKED, None, None),
        (replace(SLIDING, last_used_at=NOW), 3, ASKED, None, (NOW + 14 * DAY, Reason.GRANT_IDLES)),
        (replace(SLIDING, frozen=Reason.OPERATOR), 1, REFRESH, None, (NOW + 14 * DAY, Reason.GRANT_IDLES)),
        (replace(SLIDING, trouble=FAILING), 0.5, REFRESH, None, None),
        (replace(SLIDING, trouble=FAILING), 1.5, REFRESH, None, (NOW + 14 * DAY, Reason.GRANT_IDLES)),
        # A provider of which it is known how long a grant lives unused.
        (ACME, 8, REFRESH, 14, None),
        (ACME, 8, NO_IDLE, 14, (NOW + 14 * DAY, Reason.GRANT_IDLES)),
    ],
)
def test_end_is_what_is_to_be_expected(
    account: Account,
    after_days: float,
    refresh: RefreshSettings,
    idle_days: int | None,
    expected: tuple[float, Reason] | None,
) -> None:
    """Of age on its day; of idleness where nothing renews it in time; else none."""
    life = None if idle_days is None else idle_days * DAY

    assert expected == end_of(account, now=NOW + after_days * DAY, refresh=refresh, idle_life=life)


@pytest.mark.parametrize(
    ("days_left", "expected"),
    [(31, None), (30, 30), (7.1, 30), (7, 7), (1.5, 7), (1, 1), (0.01, 1), (0, None), (-5, None)],
)
def test_nearest_threshold_counts(days_left: float, expected: int | None) -> None:
    """Who looks late says what is true now."""
    assert expected == threshold(NOW + days_left * DAY, NOW)


@pytest.mark.parametrize(
    ("known", "given", "rotated", "expected"),
    [
        ((None, False), None, True, (None, False)),
        ((None, False), 10.0, True, (NOW + 10 * DAY, False)),
        ((NOW + 10 * DAY, False), 12.0, True, (NOW + 12 * DAY, False)),
        ((NOW + 10 * DAY, False), 10.0, False, (NOW + 10 * DAY, True)),
        ((NOW + 10 * DAY + 60, True), 10.0, True, (NOW + 10 * DAY + 60, True)),
        ((NOW + 10 * DAY, True), 5.0, True, (NOW + 5 * DAY, True)),
        ((NOW + 10 * DAY, True), None, False, (NOW + 10 * DAY, True)),
        ((NOW + 10 * DAY, True), None, True, (None, False)),
    ],
)
def test_renewal_shows_whether_a_grant_ages(
    known: tuple[float | None, bool], given: float | None, rotated: bool, expected: tuple[float | None, bool]
) -> None:
    """An end that a renewal moves is one of idleness; one that stays is one of age."""
    account = replace(ACME, grant_ends_at=known[0], grant_ages=known[1])
    end = None if given is None else NOW + given * DAY
    new = Secret("r2") if rotated else None
    tokens = TokenSet(Secret("a2"), new, "Bearer", None, NOW, NOW + DAY, refresh_expires_at=end)

    assert expected == grant_end(account, tokens)


SCOPES = '[providers.kustomer]\nscopes = ["org.permission.customer"]'
"""Without offline_access, so that there is no refresh token."""


@pytest.fixture(name="scoped")
async def _scoped(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path / "house", extra=SCOPES) as house:
        yield house


async def foretold(house: House) -> list[tuple[str | None, str | None, float]]:
    """Account, reason, and days from then until the end, of every forecast."""
    events = await house.broker.context.stores.events.events(0, 1000)
    return [
        (event.account, event.reason, ((event.due_at or 0) - event.at) / DAY)
        for event in events
        if event.kind is EventKind.REAUTHORIZATION_DUE
    ]


async def test_age_that_the_provider_tells_is_foretold_once(house: House) -> None:
    """Through the real answers: a fixed end, counted down at each renewal, looked at daily over two restarts."""
    house.sandbox.faults.set("kit", members={"refresh_token_expires_in": 40 * DAY}, times=1)
    await house.connect()
    first = await house.account()
    for day in range(1, 41):
        house.clock.advance(DAY)
        if day == 5:
            left = {"refresh_token_expires_in": 35 * DAY}
            house.sandbox.faults.set("kit", members=left, times=1)
            await house.post("/token/acme/refresh")
        if day in (12, 34):
            await house.restart()
        await house.broker.alerts.forecaster.look()
        await house.broker.alerts.forecaster.look()

    assert first.grant_ends_at == first.issued_at + 40 * DAY
    assert [("acme", "grant_ages", 30.0), ("acme", "grant_ages", 7.0), ("acme", "grant_ages", 1.0)] == [
        (name, reason, round(days)) for name, reason, days in await foretold(house)
    ]


async def test_grant_without_a_refresh_token_is_foretold_at_once(scoped: House) -> None:
    """It ends with its access token; a person has a day, not a surprise."""
    await scoped.connect("kustomer", "globex")

    await scoped.broker.alerts.forecaster.look()

    assert [("globex", "no_refresh_token", 1.0)] == await foretold(scoped)


async def test_idle_kustomer_is_foretold_where_nothing_renews_it(tmp_path: Path) -> None:
    """Kit is not known to end grants that idle, so nothing is said of it."""
    async with open_house(tmp_path / "house", extra='[refresh]\nidle_renewal = "0s"') as house:
        await house.connect("kustomer", "globex")
        await house.connect("kit", "acme")
        for _ in range(15):
            house.clock.advance(DAY)
            await house.broker.alerts.forecaster.look()

        assert [("globex", "grant_idles", 7.0), ("globex", "grant_idles", 1.0)] == await foretold(house)


async def test_looks_once_an_hour(scoped: House) -> None:
    """Not at each round of the watch."""
    await scoped.broker.alerts.forecaster.flush()
    await scoped.connect("kustomer", "globex")

    await scoped.broker.alerts.forecaster.flush()
    early = await foretold(scoped)
    scoped.clock.advance(3600)
    await scoped.broker.alerts.forecaster.flush()

    assert ([], 1) == (early, len(await foretold(scoped)))


async def test_forecast_goes_with_a_purge_and_along_with_a_rename(scoped: House) -> None:
    """The new name is not told of again; the purged one leaves nothing."""
    await scoped.connect("kustomer", "globex")
    await scoped.broker.alerts.forecaster.look()
    await scoped.ask("PATCH", "/accounts/globex", json={"name": "initech"})

    await scoped.broker.alerts.forecaster.look()
    renamed = await foretold(scoped)
    await scoped.ask("DELETE", "/accounts/initech?purge=1")

    rows = await scoped.broker.context.stores.database.read("SELECT account FROM foretold_ends")
    assert [("initech", "no_refresh_token", 1.0)] == renamed
    assert [] == rows
