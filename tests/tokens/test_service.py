"""What `GET /token/{account}` and its refresh promise, over real sockets."""

import asyncio

import aiohttp
import pytest

from broker.model import EventKind, Reason, Status
from tests.house import House
from tests.until import moment

LIFE = 172800


async def _flown(house: House) -> None:
    """Let the renewals that are under way end."""
    await house.broker.tokens.flights.drain()


async def test_living_token_is_served_at_once_while_it_is_renewed(house: House) -> None:
    """Inside the window the old token goes out for this moment, and the next call brings the new one."""
    await house.connect()
    house.clock.advance(LIFE - 600)

    during = await house.get("/token/acme")
    await _flown(house)
    after = await house.get("/token/acme")

    assert (1, 1) == (during.json["generation"], during.json["expires_in"])
    assert 2 == after.json["generation"]
    assert during.json["access_token"] != after.json["access_token"]


async def test_caller_who_hangs_up_changes_nothing(house: House) -> None:
    """The flight goes on, and whoever asks next gets what it brought; one POST in all."""
    await house.connect()
    house.clock.advance(LIFE)
    house.sandbox.faults.set("kit", latency=0.3)

    impatient = aiohttp.ClientTimeout(total=0.1)
    with pytest.raises(TimeoutError):
        await house.ask("GET", "/token/acme", timeout=impatient)
    asking = asyncio.create_task(house.get("/token/acme"))
    await house.clock.settle()
    house.clock.advance(0.4)
    answer = await asking

    assert 2 == answer.json["generation"]
    assert 1 == await house.refreshes()


async def test_min_ttl_renews_first(house: House) -> None:
    """A caller that needs more life than is left gets a new token."""
    await house.connect()
    house.clock.advance(LIFE - 4000)

    answer = await house.get("/token/acme?min_ttl=5000")

    assert 2 == answer.json["generation"]


@pytest.mark.parametrize(
    "query", ["min_ttl=x", "min_ttl=-1", "min_ttl=1e3", "min_ttl=1&min_ttl=2", "min_ttl=86401"]
)
async def test_impossible_min_ttl_is_told(house: House, query: str) -> None:
    """More than half of the issued life, or no number, is the caller's mistake."""
    await house.connect()

    answer = await house.get(f"/token/acme?{query}")

    assert (400, "invalid_request") == (answer.status, answer.json["code"])


async def test_provider_down_in_the_window_withholds_nothing(house: House) -> None:
    """A living token is served for moments, with a warning, while its renewal fails."""
    await house.connect()
    house.sandbox.faults.set("kit", status=500, body="<html>down</html>")
    house.clock.advance(LIFE - 600)
    await house.get("/token/acme")
    await _flown(house)

    answer = await house.get("/token/acme")

    assert 200 == answer.status
    assert 1 <= answer.json["expires_in"] <= 5
    assert "warning" in answer.json
    assert Status.UNCERTAIN is (await house.account()).status


async def test_revoked_grant_is_dead_only_after_a_second_refusal(house: House) -> None:
    """The first refusal is confirmed seconds later; then the caller is told whose turn it is."""
    await house.connect()
    external = (await house.account()).external_id
    async with house.session.post(
        f"{house.sandbox.base_url}/_sandbox/revoke", json={"provider": "kit", "external_id": external}
    ) as revoked:
        assert 200 == revoked.status
    house.clock.advance(LIFE)

    asking = asyncio.create_task(house.get("/token/acme"))
    await house.clock.settle()
    first = await house.account()
    house.clock.advance(2.5)
    answer = await asking

    assert (Reason.REFUSED_ONCE, None) == (first.reason, first.dead)
    assert (409, "needs_reauthorization") == (answer.status, answer.json["code"])
    assert "revoked_or_expired" == answer.json["reason"]
    assert 2 == await house.refreshes()
    kinds = [event.kind for event in await house.broker.context.stores.events.last_events(10)]
    assert [EventKind.CONNECTED, EventKind.NEEDS_REAUTHORIZATION] == kinds


async def test_dead_grant_is_not_hammered(house: House) -> None:
    """Once dead, no call reaches the provider any more."""
    await test_revoked_grant_is_dead_only_after_a_second_refusal(house)

    for _ in range(20):
        house.clock.advance(3600)
        assert 409 == (await house.get("/token/acme")).status

    assert 2 == await house.refreshes()


async def test_rejected_generation_is_renewed_once_for_fifty(house: House) -> None:
    """Fifty services that all saw a 401 cause one renewal and share its result."""
    await house.connect()
    house.clock.advance(3600)

    answers = await asyncio.gather(
        *[house.post("/token/acme/refresh", {"rejected_generation": 1}) for _ in range(50)]
    )

    assert {(200, 2)} == {(answer.status, answer.json["generation"]) for answer in answers}
    assert 1 == await house.refreshes()


async def test_old_rejection_asks_nobody(house: House) -> None:
    """A report about a generation that is no longer current brings the current token."""
    await house.connect()

    answer = await house.post("/token/acme/refresh", {"rejected_generation": 0})

    assert (200, 1) == (answer.status, answer.json["generation"])
    assert 0 == await house.refreshes()


async def test_rejections_of_fresh_tokens_end(house: House) -> None:
    """A provider that rejects every fresh token (a lapsed plan) does not make us renew for ever."""
    await house.connect()
    answers = []

    for generation in range(1, 5):
        house.clock.advance(70)
        answers.append(await house.post("/token/acme/refresh", {"rejected_generation": generation}))

    assert [200, 200, 429, 200] == [answer.status for answer in answers]
    assert ("rate_limited", "rejected_by_provider") == (answers[2].json["code"], answers[2].json["reason"])
    assert "Retry-After" in answers[2].headers
    account = await house.account()
    assert (Status.ACTIVE, Reason.REJECTED) == (account.status, account.reason)


async def test_young_token_is_not_renewed_for_a_rejection(house: House) -> None:
    """A token of a few seconds that is rejected will not be better for being renewed."""
    await house.connect()

    answer = await house.post("/token/acme/refresh", {"rejected_generation": 1})

    assert (429, 0) == (answer.status, await house.refreshes())


async def test_forced_renewal_is_a_right_of_its_own(house: House) -> None:
    """Without permission `refresh` it is forbidden; with it, once a minute."""
    await house.connect()
    reader = await house.caller("*", permissions=("token",), name="reader")
    house.clock.advance(3600)

    forbidden = await house.post("/token/acme/refresh", key=reader)
    first = await house.post("/token/acme/refresh", {})
    second = await house.post("/token/acme/refresh")

    assert [403, 200, 429] == [forbidden.status, first.status, second.status]
    assert 2 == first.json["generation"]


async def test_forced_renewals_are_a_minute_apart_for_each_account(house: House) -> None:
    """Whoever asks; the answer says how long to wait, and another account does not have to."""
    await house.connect()
    await house.connect("kustomer", "other")
    second_caller = await house.caller("*", permissions=("refresh",), name="second")
    house.clock.advance(3600)
    await house.post("/token/acme/refresh")
    house.clock.advance(20)

    held = await house.post("/token/acme/refresh", key=second_caller)
    other = await house.post("/token/other/refresh", key=second_caller)
    house.clock.advance(40)
    free = await house.post("/token/acme/refresh", key=second_caller)

    assert (429, "40", 200, 200) == (held.status, held.headers["Retry-After"], other.status, free.status)


async def test_forced_renewal_says_that_the_outcome_is_unknown(house: House) -> None:
    """However often it was refused meanwhile: the broker's limit for useless tokens is not for refusals."""
    await house.connect()
    house.sandbox.faults.set("kit", rotation="S", drop="after", times=1)
    house.clock.advance(3600)

    demand = asyncio.create_task(house.post("/token/acme/refresh"))
    while await house.refreshes() < 1:
        await moment()
    while not demand.done():
        house.clock.advance(0.5)
        await moment()
    answer = await demand

    assert 2 <= await house.refreshes()
    assert (503, "refresh_uncertain") == (answer.status, answer.json["code"])
    assert "provider_declined" != answer.json.get("reason")


async def test_bare_token_and_conditional_get(house: House) -> None:
    """text/plain is the token and a newline; 304 holds while the token need not be asked for again."""
    await house.connect()

    bare = await house.get("/token/acme", Accept="text/plain")
    unchanged = await house.get("/token/acme", **{"If-None-Match": '"1"'})
    house.clock.advance(LIFE - 600)
    in_window = await house.get("/token/acme", **{"If-None-Match": '"1"'})

    assert bare.body.startswith(b"sbx-kit-at-")
    assert bare.body.endswith(b"\n")
    assert [304, 200] == [unchanged.status, in_window.status]


@pytest.mark.parametrize(
    "path",
    [
        "/token/..%2f..%2fetc",
        "/token/%00",
        "/token/" + "a" * 10_000,
        "/token/Acme",
        "/token/ac%0d%0ame",
        "/token/%EF%BC%A1",
        "/token/-x",
        "/token/%C0%AF",
    ],
)
async def test_bad_name_is_refused(house: House, path: str) -> None:
    """A name that no account can have is the caller's mistake, whatever it tries to reach."""
    answer = await house.ask("GET", path)

    assert 400 == answer.status
    assert b"Traceback" not in answer.body


async def test_order_of_refusal(house: House) -> None:
    """401 before 400 before 403 before 404, and 403 whether or not the account exists."""
    await house.connect()
    narrow = await house.caller("other-*", name="narrow")

    stranger = await house.get("/token/BAD", key="tbk_000000000000_" + "x" * 43)
    bad = await house.get("/token/BAD", key=narrow)
    foreign = await house.get("/token/acme", key=narrow)
    foreign_unknown = await house.get("/token/nobody", key=narrow)
    unknown = await house.get("/token/nobody")

    statuses = [answer.status for answer in (stranger, bad, foreign, foreign_unknown, unknown)]
    assert [401, 400, 403, 403, 404] == statuses
    assert foreign.json["detail"] == "Caller 'narrow' may not touch account 'acme'"
    alike = {"request_id": "", "detail": foreign.json["detail"].replace("acme", "nobody")}
    assert foreign.json | alike == foreign_unknown.json | {"request_id": ""}
    assert "unknown_account" == unknown.json["code"]
    assert "There is no account 'nobody'." == unknown.json["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"rejected_generation": "1"}',
        b'{"x": 1}',
        b'{"rejected_generation": 1, "rejected_generation": 2}',
    ],
)
async def test_malformed_body_is_told(house: House, body: bytes) -> None:
    """A body that is no such object is the caller's mistake."""
    await house.connect()

    answer = await house.ask("POST", "/token/acme/refresh", data=body)

    assert (400, "invalid_request") == (answer.status, answer.json["code"])


async def test_unknown_route_and_method(house: House) -> None:
    """Both are problem documents of our own."""
    nowhere = await house.get("/nowhere")
    wrong = await house.ask("PUT", "/token/acme")

    assert [(404, "not_found"), (405, "method_not_allowed")] == [
        (answer.status, answer.json["code"]) for answer in (nowhere, wrong)
    ]
    assert "application/problem+json" == nowhere.headers["Content-Type"].split(";")[0]
    assert "GET" == wrong.headers["Allow"]
