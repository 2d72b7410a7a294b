"""The renewal protocol, rule by rule: what is noted, when the next attempt is, what ends a grant."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import BrokerError, RefreshUncertain
from broker.model import Account, EventKind, Reason, Spare, Status
from broker.providers.oauth2 import OAuth2Provider
from broker.tokens.flight import NotRenewed, Renewed
from tests.house import OPERATOR, House, open_house
from tests.until import moment

LIFE = 172800


async def renew(house: House, name: str = "acme") -> Account:
    """One flight, whatever the token's age; the row afterwards."""
    await house.broker.tokens.flights.join((await house.account(name)).ref)
    return await house.account(name)


async def until_next(house: House, name: str = "acme") -> float:
    """Let the time pass until the next attempt may be; how long that was."""
    account = await house.account(name)
    assert account.trouble.not_before is not None
    wait = account.trouble.not_before - house.broker.context.steady.now()
    house.clock.advance(wait + 0.01)
    return wait


async def revoke(house: House, name: str = "acme", provider: str = "kit") -> None:
    external_id = (await house.account(name)).external_id
    body = {"provider": provider, "external_id": external_id}
    async with house.session.post(f"{house.sandbox.base_url}/_sandbox/revoke", json=body) as answer:
        assert answer.status == 200


@pytest.fixture(name="acme")
async def _acme(house: House) -> Account:
    account = await house.connect()
    house.clock.advance(LIFE)
    return account


async def test_r7_ambiguous_answers_keep_the_intent_and_the_schedule(house: House, acme: Account) -> None:
    """A dropped connection: 3 s, then 15, 30, 60, then five minutes, always with the same token."""
    house.sandbox.faults.set("kit", drop="before")
    waits = []

    for _ in range(6):
        await renew(house)
        waits.append(round(await until_next(house)))
    account = await house.account()

    requests = [request for request in (await house.judge())["requests"] if request["kind"] == "refresh"]
    assert [3, 15, 30, 60, 300, 300] == waits
    assert Status.UNCERTAIN is account.status
    assert account.intent is not None
    assert 1 == len({request["token_sha256"] for request in requests})


async def test_r7_settles_when_the_provider_had_not_rotated(house: House, acme: Account) -> None:
    """Mode D: the answer was lost after rotation, and the old token still works."""
    house.sandbox.faults.set("kit", drop="after", times=1)

    uncertain = await renew(house)
    await until_next(house)
    settled = await renew(house)

    assert Status.UNCERTAIN is uncertain.status
    assert (Status.ACTIVE, acme.generation + 1, None) == (settled.status, settled.generation, settled.intent)


async def test_r6_hands_the_committed_row_to_those_who_wait(house: House, acme: Account) -> None:
    """As the store has it, so that nobody reads it once more."""
    ended = await house.broker.tokens.flights.join(acme.ref)

    assert Renewed(await house.account()) == ended


async def test_r7_quarantine_holds_against_everybody(house: House, acme: Account) -> None:
    """No caller, and no demand, sends the same token again before the first can no longer be processed."""
    house.sandbox.faults.set("kit", drop="before", times=1)
    await renew(house)

    ended = await house.broker.tokens.flights.join((await house.account()).ref)
    forced = asyncio.create_task(house.post("/token/acme/refresh", {"rejected_generation": 1}))
    await house.clock.settle()

    assert isinstance(ended, NotRenewed)
    assert 1 == await house.refreshes()
    house.clock.advance(3.1)
    assert 200 == (await forced).status


async def test_r7_quarantine_holds_against_an_operator(house: House, acme: Account) -> None:
    """`broker accounts refresh` does not put a second request beside one that may still be processed."""
    house.sandbox.faults.set("kit", drop="before", times=1)
    await renew(house)

    override = asyncio.create_task(house.broker.tokens.service.override(OPERATOR, "acme", request_id="test"))
    await house.clock.settle()
    meanwhile = await house.refreshes()
    house.clock.advance(3.1)

    assert acme.generation + 1 == (await override).account.generation
    assert (1, 2) == (meanwhile, await house.refreshes())


async def test_r7_operator_shortens_a_long_wait_to_a_quarantine(house: House, acme: Account) -> None:
    """After five lost answers the next attempt is minutes away; demanded, it comes after ten seconds."""
    house.sandbox.faults.set("kit", drop="before", times=5)
    for _ in range(4):
        await renew(house)
        await until_next(house)
    await renew(house)

    with pytest.raises(RefreshUncertain):
        await house.broker.tokens.service.override(OPERATOR, "acme", request_id="test")

    assert 10 == round(await until_next(house))
    assert acme.generation + 1 == (await renew(house)).generation


async def test_r8_lost_rotation_needs_three_refusals_over_a_minute(tmp_path: Path) -> None:
    """Strict: the rotated answer was lost. Dead with reason `lost_rotation`, after 60 s, and not before."""
    async with open_house(tmp_path / "house") as house:
        await house.connect("kustomer")
        house.clock.advance(LIFE)
        house.sandbox.faults.set("kustomer", drop="after", times=1)
        started = house.clock.monotonic()

        states = [(await renew(house)).status]
        for _ in range(3):
            await until_next(house)
            states.append((await renew(house)).status)
        account = await house.account()

        assert [Status.UNCERTAIN] * 3 == states[:3]
        assert (Reason.LOST_ROTATION, Status.NEEDS_REAUTHORIZATION) == (account.dead, account.status)
        assert house.clock.monotonic() - started >= 60


async def test_r8_single_refusal_harms_nobody(house: House, acme: Account) -> None:
    """A provider that refuses once by mistake has cost two seconds."""
    house.sandbox.faults.set("kit", status=400, body='{"error":"invalid_grant"}', times=1)

    once = await renew(house)
    await until_next(house)
    after = await renew(house)

    assert (None, Reason.REFUSED_ONCE) == (once.dead, once.reason)
    assert Status.ACTIVE is after.status


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, '{"error":"invalid_grant"}'),
        (200, "error=bad_refresh_token&error_description=gone"),
        (400, '{"error":{"code":"refresh_token_reused"}}'),
        (500, '{"error":"invalid_grant"}'),
    ],
)
async def test_r8_refusal_in_own_words_needs_three_over_a_minute(
    house: House, acme: Account, status: int, body: str
) -> None:
    """Two within seconds are not enough outside a 4xx `invalid_grant`, nor where one of them was."""
    house.sandbox.faults.set("kit", status=status, body=body)
    started = house.clock.monotonic()
    seen = []

    for _ in range(3):
        seen.append((await renew(house)).status)
        if len(seen) == 1:
            house.sandbox.faults.set("kit", status=400, body='{"error":"invalid_grant"}')
        if len(seen) == 2:
            house.sandbox.faults.set("kit", status=status, body=body)
        if len(seen) < 3:
            await until_next(house)
    account = await house.account()

    assert [Status.REFRESH_FAILING] * 2 == seen[:2]
    assert (Reason.REVOKED_OR_EXPIRED, None) == (account.dead, account.intent)
    assert house.clock.monotonic() - started >= 60
    [event] = [one for one in await house.broker.context.stores.events.last_events(9) if one.detail]
    assert (EventKind.NEEDS_REAUTHORIZATION, True) == (
        event.kind,
        f"answered {status}" in (event.detail or ""),
    )


async def test_r8_two_refusals_in_own_words_harm_nobody(house: House, acme: Account) -> None:
    """The third attempt succeeds, however late it comes."""
    house.sandbox.faults.set("kit", status=200, body='{"error":"bad_refresh_token"}', times=2)

    await renew(house)
    house.clock.advance(90)
    doubted = await renew(house)
    house.clock.advance(90)
    after = await renew(house)

    assert (2, None) == (doubted.trouble.refusals, doubted.dead)
    assert (Status.ACTIVE, False) == (after.status, after.trouble.unusual)


async def leave_only_a_spare(house: House) -> None:
    """The successor came in half an answer, and the account's own token has been refused twice since."""
    await house.connect("kustomer")
    house.clock.advance(LIFE)
    house.sandbox.faults.set("kustomer", truncate=-1, times=1)
    await renew(house)
    for _ in range(2):
        await until_next(house)
        await renew(house)


async def test_r8_spare_refused_in_own_words_is_tried_three_times(tmp_path: Path) -> None:
    """It may be the living successor, so it is given up no sooner than the token itself."""
    async with open_house(tmp_path / "house") as house:
        await leave_only_a_spare(house)
        house.sandbox.faults.set("kustomer", status=200, body='{"error":"invalid_grant"}', times=4)
        seen = []
        for _ in range(3):
            await until_next(house)
            seen.append((await renew(house)).status)

        assert [Status.UNCERTAIN, Status.UNCERTAIN, Status.ACTIVE] == seen


async def test_unknown_error_is_told_and_asked_again_ever_more_seldom(house: House, acme: Account) -> None:
    """It may have rotated, so the intent stays and nobody is dead. At first every 5 min at most, after a day hourly."""
    house.sandbox.faults.set("kit", status=200, body='{"error":"consent_required"}')
    waits = []

    answer = await house.get("/token/acme")
    for _ in range(60):
        await renew(house)
        waits.append(await until_next(house))
    account = await house.account()
    shown = (await house.get("/accounts/acme")).json

    hour = [wait for at, wait in enumerate(waits) if sum(waits[:at]) < 3600]
    day = [wait for at, wait in enumerate(waits) if sum(waits[:at]) > 86400]
    assert (Status.UNCERTAIN, None) == (account.status, account.dead)
    assert account.intent is not None
    assert max(hour) <= 300
    assert {3600} == {round(wait) for wait in day}
    assert "an error the broker does not know: consent_required, status 200." in answer.json["detail"]
    assert ("unknown_error", "consent_required, status 200") == (shown["reason"], shown["detail"])


async def test_answer_that_cannot_be_read_is_told_as_one(house: House, acme: Account) -> None:
    """“Never came” would send an operator looking for a network fault."""
    house.sandbox.faults.set("kit", status=200, body="<html>")

    account = await renew(house)
    [event] = [one for one in await house.broker.context.stores.events.last_events(9) if one.detail]

    assert (Reason.UNREADABLE, Status.UNCERTAIN) == (account.reason, account.status)
    assert "the answer is not JSON" in (event.detail or "")


async def test_r8_late_success_reopens_a_dead_account(house: House, acme: Account) -> None:
    """An operator's override tries again, and what then works is active."""
    house.sandbox.faults.set("kit", status=400, body='{"error":"invalid_grant"}')
    await renew(house)
    await until_next(house)
    dead = await renew(house)
    house.sandbox.faults.set("kit", status=None, body=None)

    await house.broker.tokens.service.override(OPERATOR, "acme", request_id="test")

    assert dead.dead
    assert Status.ACTIVE is (await house.account()).status


async def test_r8_one_refusal_of_a_spare_is_not_its_end(tmp_path: Path) -> None:
    """A provider that punishes replays errs once about the spare: the old token would end the whole grant."""
    rotation = '[providers.kustomer]\nrotation = "family"'
    async with open_house(tmp_path / "house", extra=rotation) as house:
        await house.connect("kustomer")
        house.sandbox.faults.set("kustomer", rotation="F")
        house.clock.advance(LIFE)
        house.sandbox.faults.set("kustomer", truncate=-1, times=1)
        await renew(house)
        await until_next(house)
        house.sandbox.faults.set("kustomer", status=400, body='{"error":"invalid_grant"}', times=1)

        doubted = await renew(house)
        await until_next(house)
        saved = await renew(house)

        assert (Status.UNCERTAIN, Status.ACTIVE) == (doubted.status, saved.status)


async def test_r8_salvaged_token_saves_a_strict_grant(tmp_path: Path) -> None:
    """The answer was cut behind its refresh token: kept as a spare, and used when the old one is refused."""
    async with open_house(tmp_path / "house") as house:
        await house.connect("kustomer")
        house.clock.advance(LIFE)
        house.sandbox.faults.set("kustomer", truncate=-1, times=1)
        cut = (await renew(house)).status is Status.UNCERTAIN
        for _ in range(4):
            if (await house.account()).status is Status.ACTIVE:
                break
            await until_next(house)
            await renew(house)

        assert cut
        assert Status.ACTIVE is (await house.account()).status


async def test_r9_two_refused_clients_open_the_breaker(house: House) -> None:
    """A wrong secret harms nobody: two accounts hear it, then one probe every five minutes, until it is right."""
    for number in range(5):
        await house.connect("kit", f"acme-{number}", account=str(100 + number))
    house.clock.advance(LIFE)
    house.sandbox.faults.set("kit", deny_all_clients=True)

    answers = [await house.get(f"/token/acme-{number}") for number in range(5)]
    sent = await house.refreshes()
    house.clock.advance(301)
    await house.get("/token/acme-4")
    probed = await house.refreshes()
    house.sandbox.faults.set("kit", deny_all_clients=False)
    house.clock.advance(301)
    mended = [(await house.get(f"/token/acme-{number}")).status for number in (3, 0, 1, 2, 4)]

    assert {(502, "provider_rejected_client")} == {(answer.status, answer.json["code"]) for answer in answers}
    assert (2, 3) == (sent, probed)
    assert [200] * 5 == mended
    told = [event.kind for event in await house.broker.context.stores.events.last_events(50)]
    assert 1 == told.count(EventKind.PROVIDER_REJECTED_CLIENT)


async def test_r9_org_without_the_app_harms_nobody_else(house: House) -> None:
    """Kustomer's “Invalid Client” of one org backs off that account alone, and says what it probably is."""
    await house.connect("kustomer", "one", org="one")
    await house.connect("kustomer", "two", org="two")
    house.clock.advance(LIFE)
    house.sandbox.faults.set("kustomer", app_not_installed=("one",))

    first = await house.get("/token/one")
    second = await house.get("/token/two")

    assert (502, 200) == (first.status, second.status)
    assert Reason.APP_NOT_INSTALLED is (await house.account("one")).reason


async def test_r9_mass_refusal_declares_nobody_dead(house: House) -> None:
    """When many are refused at once, the provider is not believed; a person is told."""
    for number in range(4):
        await house.connect("kit", f"acme-{number}", account=str(100 + number))
    house.clock.advance(LIFE)
    house.sandbox.faults.set("kit", status=400, body='{"error":"invalid_grant"}')

    for _ in range(2):
        for number in range(4):
            await renew(house, f"acme-{number}")
        house.clock.advance(3)

    statuses = {(await house.account(f"acme-{number}")).status for number in range(4)}
    assert {Status.REFRESH_FAILING} == statuses


async def test_r8_first_refusal_of_a_spare_is_not_believed(tmp_path: Path) -> None:
    """The provider refuses everything once, wrongly, when only the spare is left: the spare is tried again."""
    async with open_house(tmp_path / "house") as house:
        await leave_only_a_spare(house)
        house.sandbox.faults.set("kustomer", status=400, body='{"error":"invalid_grant"}', times=2)
        await until_next(house)
        refused = await renew(house)
        await until_next(house)

        saved = await renew(house)

        assert Status.UNCERTAIN is refused.status
        assert Status.ACTIVE is saved.status


async def test_r8_late_spare_reopens_a_dead_account(house: House, acme: Account) -> None:
    """Another process comes with a token that the provider issued: it is tried, and the account lives."""
    await revoke(house)
    for _ in range(3):
        if (await house.account()).dead is None:
            await renew(house)
            house.clock.advance(3)
    dead = await house.account()
    spare = Spare("late", "acme", dead.epoch, dead.generation, "sealed", house.clock.now())

    await house.broker.context.stores.accounts.add_spare(spare)

    assert Status.NEEDS_REAUTHORIZATION is dead.status
    assert (await house.account()).dead is None


@pytest.mark.parametrize("answer", [{"status": 429}, {"status": 429, "headers": {"Retry-After": "40"}}])
async def test_r9_rate_limit_pauses_the_provider_not_the_account(
    house: House, acme: Account, answer: dict[str, object]
) -> None:
    """429 is no failure of an account: its status stays, and nothing is sent until the pause is over."""
    house.sandbox.faults.set("kit", **answer)

    refused = await house.get("/token/acme")
    for _ in range(5):
        await house.get("/token/acme")
    account = await house.account()
    house.sandbox.faults.set("kit", status=None, headers={})
    house.clock.advance(41)

    assert (503, "provider_unavailable") == (refused.status, refused.json["code"])
    assert Status.ACTIVE is account.status
    assert 1 == await house.refreshes()
    assert 200 == (await house.get("/token/acme")).status


async def test_grant_of_an_unknown_client_is_not_sent(house: House, acme: Account) -> None:
    """Renewed with the client that minted it or not at all; nobody is dead for it."""
    providers = house.settings.providers
    house.broker.context.providers.use({name: one for name, one in providers.items() if name != "kit"})

    answer = await house.get("/token/acme")

    assert 502 == answer.status
    assert (Status.REFRESH_FAILING, Reason.CLIENT_NOT_CONFIGURED) == (
        (await house.account()).status,
        (await house.account()).reason,
    )
    assert 0 == await house.refreshes()


async def test_not_sent_backs_off_and_recovers(house: House, acme: Account) -> None:
    """Connection refused: 1, 2, 4 … 60 s, never uncertain, and one event each way."""
    await house.sandbox.stop()
    waits = []
    for _ in range(8):
        assert Status.REFRESH_FAILING is (await renew(house)).status
        waits.append(round(await until_next(house)))
    await house.sandbox.start()

    recovered = await renew(house)

    assert [1, 2, 4, 8, 16, 32, 60, 60] == waits
    assert Status.ACTIVE is recovered.status
    kinds = [event.kind for event in await house.broker.context.stores.events.last_events(20)]
    assert [EventKind.CONNECTED, EventKind.REFRESH_FAILING, EventKind.RENEWED, EventKind.RECOVERED] == kinds


async def test_reinstall_during_a_renewal_wins(house: House, acme: Account) -> None:
    """A late answer of the old grant is dropped; the new epoch stands."""
    house.sandbox.faults.set("kit", latency_after=0.2)
    flight = asyncio.create_task(house.broker.tokens.flights.join(acme.ref))
    while not await house.refreshes():
        await moment()
    house.sandbox.faults.set("kit", latency_after=0)
    reconnected = await house.connect()

    house.clock.advance(1)
    ended = await flight

    assert isinstance(ended, Renewed)
    assert reconnected == await house.account()


async def test_frozen_account_is_not_renewed(house: House, acme: Account) -> None:
    """Frozen: 409 once no living token is left; unfrozen: as before."""
    await house.post("/accounts/acme/freeze")

    frozen = await house.get("/token/acme")
    await house.post("/accounts/acme/unfreeze")
    thawed = await house.get("/token/acme")

    assert (409, "frozen") == (frozen.status, frozen.json["code"])
    assert frozen.json["detail"] == (
        "Account 'acme' is frozen, so it is not renewed. Its access token has expired."
        " `broker accounts unfreeze acme` when it may be renewed again."
    )
    assert (200, 2) == (thawed.status, thawed.json["generation"])


async def test_frozen_account_says_how_long_its_token_is_valid(house: House) -> None:
    """Who demands a renewal is told what is there, not that nothing is."""
    await house.connect()
    await house.post("/accounts/acme/freeze")
    house.clock.advance(3600)

    answer = await house.post("/token/acme/refresh")

    assert (409, "The account is frozen, so it is not renewed") == (answer.status, answer.json["title"])
    assert "Its access token stays valid for 47 h." in answer.json["detail"]


@pytest.fixture(name="family")
async def _family(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path / "house", extra='[providers.kit]\nrotation = "family"') as house:
        house.sandbox.faults.set("kit", rotation="F")
        yield house


async def test_r7_family_waits_for_the_expiry(family: House) -> None:
    """Where a replay kills the family, a lost answer is settled only once the old access token has ended."""
    await family.connect()
    family.clock.advance(LIFE - 600)
    family.sandbox.faults.set("kit", drop="before", times=1)
    await renew(family)

    family.clock.advance(300)
    waiting = await renew(family)
    family.clock.advance(301)
    settled = await renew(family)

    assert Status.UNCERTAIN is waiting.status
    assert Status.ACTIVE is settled.status
    assert 2 == await family.refreshes()


async def test_r7_family_rejection_ends_the_wait(family: House) -> None:
    """A caller whose token was rejected has nothing to lose any more; the quarantine still holds."""
    await family.connect()
    family.clock.advance(LIFE - 600)
    family.sandbox.faults.set("kit", drop="before", times=1)
    await renew(family)
    family.clock.advance(5)

    answer = await family.post("/token/acme/refresh", {"rejected_generation": 1})

    assert (200, 2) == (answer.status, answer.json["generation"])


@pytest.mark.parametrize("jump", [3600, -3600, 86400, -86400])
async def test_r12_jump_of_the_wall_clock_changes_nothing(house: House, jump: int) -> None:
    """Lives are counted by what has really passed: no storm, and no dead token handed out."""
    await house.connect()
    before = await house.get("/token/acme")

    house.clock.jump(jump)
    after = await house.get("/token/acme")
    house.clock.advance(LIFE - 600)
    window = await house.get("/token/acme")

    assert abs(before.json["expires_in"] - after.json["expires_in"]) <= 1
    assert 1 == window.json["expires_in"]


async def _crashed_in_a_renewal(house: House) -> None:
    """The intent is durable, the process is gone, and the provider may or may not have had the request."""
    account = await house.account()
    intent = house.broker.tokens.leases.new_intent(account)
    await house.broker.context.stores.accounts.begin(account.ref, intent)
    await house.restart()


async def test_r10_boot_waits_out_the_quarantine_for_everybody(house: House, acme: Account) -> None:
    """Three seconds from the intent: not the recovery and no caller sends before; then it is renewed."""
    await _crashed_in_a_renewal(house)
    recovery = asyncio.create_task(house.broker.tokens.recovery.renew(house.broker.left_open))
    asking = asyncio.create_task(house.get("/token/acme"))
    await house.clock.settle()
    early = await house.refreshes()
    uncertain = await house.account()

    house.clock.advance(3.1)
    answer = await asking
    await recovery

    assert 0 == early
    assert (Status.UNCERTAIN, 1) == (uncertain.status, uncertain.trouble.ambiguous)
    assert (200, 2) == (answer.status, answer.json["generation"])
    assert 1 == await house.refreshes()


@pytest.mark.parametrize("configured", ["on-use", "strict"])
async def test_kit_becomes_strict_in_mid_life(tmp_path: Path, configured: str) -> None:
    """Answers are lost before and after: while Kit is lenient that costs nothing, then only what nobody could save;
    and the broker decides the same whichever it was told."""
    steps: list[tuple[object, ...]] = []
    extra = f'[providers.kit]\nrotation = "{configured}"'
    async with open_house(tmp_path / "house", extra=extra) as house:
        await house.connect()
        for mode, fault in (("D", {"drop": "after"}), ("S", {"truncate": -1}), ("S", {"drop": "after"})):
            house.clock.advance(LIFE)
            house.sandbox.faults.set("kit", rotation=mode)
            house.sandbox.faults.set("kit", times=1, **fault)
            for _ in range(6):
                account = await renew(house)
                wait = account.trouble.not_before or house.broker.context.steady.now()
                left = round(wait - house.broker.context.steady.now())
                steps.append((account.status, account.reason, account.trouble.refusals, left))
                if account.dead or account.status is Status.ACTIVE:
                    break
                await until_next(house)

    unknown, active = (Status.UNCERTAIN, Reason.UNCERTAIN), (Status.ACTIVE, None, 0, 0)
    assert [(*unknown, 0, 3), active] == steps[:2]
    assert [(*unknown, 0, 3), (*unknown, 1, 2), (*unknown, 2, 58), active] == steps[2:6]
    assert [(*unknown, 0, 3), (*unknown, 1, 2), (*unknown, 2, 58)] == steps[6:9]
    assert (Status.NEEDS_REAUTHORIZATION, Reason.LOST_ROTATION) == steps[9][:2]
    assert 10 == len(steps)


async def endless(house: House, **members: object) -> Account:
    house.sandbox.faults.set("kit", members={"refresh_token": None, "expires_in": 0, **members}, times=1)
    return await house.connect()


async def reported(house: House) -> tuple[int, str | None]:
    """What a caller hears who reports a 401."""
    generation = (await house.account()).generation
    answer = await house.post("/token/acme/refresh", {"rejected_generation": generation})
    return answer.status, answer.json.get("reason")


@pytest.mark.parametrize("life", [0, None, -1, "0", "never"])
async def test_token_without_a_stated_end_is_served(house: House, life: object) -> None:
    """It cannot be renewed, and nobody said that it ends; what a caller may keep it for is stated."""
    account = await endless(house, expires_in=life)
    house.clock.advance(400 * 86400)

    token = (await house.get("/token/acme")).json
    shown = (await house.get("/accounts/acme")).json

    forced = await house.post("/token/acme/refresh", {})

    assert account.is_endless
    assert (200, token["access_token"]) == (forced.status, forced.json["access_token"])
    assert (3600, None) == (token["expires_in"], token["provider_expires_at"])
    assert ("active", None, None) == (shown["status"], shown["reason"], shown["expires_at"])
    assert shown["next_renewal_at"] is None


async def test_endless_token_ends_when_the_identity_endpoint_rejects_it_too(house: House) -> None:
    """One faulty caller does not end it; what ends it is kept, and an operator may try it again."""
    await endless(house)
    house.clock.advance(3600)

    heard = await reported(house)
    still = (await house.get("/token/acme")).status
    house.sandbox.faults.set("kit", identity_status=401)
    house.clock.advance(1)
    ended = await reported(house)
    account, answer = await house.account(), await house.get("/token/acme")
    house.sandbox.faults.set("kit", identity_status=None)
    with suppress(BrokerError):
        await house.broker.tokens.service.override(OPERATOR, "acme", request_id="test")

    assert ((503, "rejected_by_provider"), 200) == (heard, still)
    assert (409, "revoked_or_expired") == ended
    assert (Reason.REVOKED_OR_EXPIRED, True, 409) == (
        account.dead,
        account.sealed_access is not None,
        answer.status,
    )
    assert 200 == (await house.get("/token/acme")).status


@pytest.mark.parametrize("status", [403, 404, 500, 302])
async def test_identity_endpoint_that_does_not_confirm_ends_nothing(house: House, status: int) -> None:
    """Only a 401 of its own says that the token is dead."""
    await endless(house)
    house.sandbox.faults.set("kit", identity_status=status)

    for _ in range(3):
        house.clock.advance(700)
        assert (503, "rejected_by_provider") == await reported(house)

    assert 200 == (await house.get("/token/acme")).status


@pytest.mark.parametrize(("pause", "ends"), [(30.0, False), (61.0, True), (3600.0, True), (90000.0, False)])
async def test_two_reports_end_an_endless_token_without_an_identity_endpoint(
    house: House, pause: float, ends: bool
) -> None:
    """At least a minute apart, and not so far that they have nothing to do with each other."""
    await endless(house)
    house.clock.advance(3600)
    provider = house.broker.context.providers["kit"]
    assert isinstance(provider, OAuth2Provider)
    provider._endpoints = replace(provider._endpoints, identity=None)

    await reported(house)
    house.clock.advance(pause)
    await reported(house)

    assert ends is ((await house.account()).dead is not None)


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "a b", "\u00fc", "x" * 65_537])
async def test_token_that_cannot_be_used_is_shown(house: House, acme: Account, token: str) -> None:
    """The account says so, once, until a token comes that can be."""
    if len(token) < 65_000:
        house.sandbox.faults.set("kit", members={"access_token": token})
    else:
        house.sandbox.faults.set("kit", members={"token_type": "DPoP"})

    await renew(house)
    shown = (await house.get("/accounts/acme")).json
    house.clock.advance(LIFE)
    await renew(house)
    house.sandbox.faults.set("kit", members={})
    house.clock.advance(LIFE)
    after = await renew(house)
    told = [
        (one.kind, one.reason)
        for one in await house.broker.context.stores.events.last_events(50)
        if one.kind is not EventKind.RENEWED
    ]

    assert ("refresh_failing", "token_unusable") == (shown["status"], shown["reason"])
    assert (Status.ACTIVE, None) == (after.status, after.reason)
    assert [
        (EventKind.CONNECTED, None),
        (EventKind.REFRESH_FAILING, Reason.TOKEN_UNUSABLE),
        (EventKind.RECOVERED, Reason.TOKEN_UNUSABLE),
    ] == told
