"""Every flow of several requests works when no two of them in a row meet the same broker."""

import asyncio

from broker.admin.routes import operator
from broker.model import EventKind
from broker.sandbox import visitor
from tests.flows.test_kit_install import kit, store_page, tell_kit
from tests.replicas import Replicas

OPERATOR = operator(0)


async def test_install_walks_over_both_brokers(two: Replicas) -> None:
    """A link made by one; its state, its grant and its account are everybody's."""
    await two[0].connect("kit", "acme")
    await two[1].connect("kustomer", "globex")

    answers = [await two[number].get(f"/token/{name}") for number in range(2) for name in ("acme", "globex")]

    assert [200] * 4 == [answer.status for answer in answers]
    assert answers[0].json["access_token"] == answers[2].json["access_token"]


async def test_kit_connects_its_plugin_over_both_brokers(two: Replicas) -> None:
    """Sign-in, consent, code, tokens, install: all of it; then Kit renews and uninstalls."""
    visit = await visitor.install(store_page(two[0]), login_as="user-42")
    held = await kit(two[0])

    assert "/kit/apps/717" in visit.final_url
    assert [] == [step for step in held["steps"] if step["complaint"]]
    [grant] = await two[1].broker.context.stores.plugin.grants(
        subject="user-42", now=two.clock.now(), after="", limit=9
    )
    assert grant.account is not None
    renewed = await tell_kit(two[0], "refresh")
    again = await tell_kit(two[0], "refresh")
    assert (200, 200) == (renewed["status"], again["status"])


async def test_connect_code_is_good_once_on_all_brokers(two: Replicas) -> None:
    """Five wrong tries end it, wherever they come in."""
    first, second = (two[number].broker.context.stores.plugin for number in range(2))
    made = await two[0].post("/plugin/connect-codes", {"subject": "user-7"})

    tries = await asyncio.gather(
        *[
            (first, second)[number % 2].try_connect_code("q", "handle", "wrong", two.clock.now())
            for number in range(8)
        ]
    )

    assert 201 == made.status
    assert {None} == set(tries)


async def test_caller_who_is_shut_out_is_shut_out_everywhere(two: Replicas) -> None:
    """Within a second."""
    key = await two[0].caller("acme", name="short-lived")
    let_in = [(await two[number].get("/token/acme", key=key)).status for number in range(2)]

    await two[0].broker.callers.service.remove(OPERATOR, "short-lived", request_id="test")
    two.clock.advance(1)
    shut_out = [(await two[number].get("/token/acme", key=key)).status for number in range(2)]

    assert [404, 404] == let_in
    assert [401, 401] == shut_out


async def test_data_key_made_on_one_opens_on_the_other(two: Replicas) -> None:
    """A broker that meets an unknown key reads the store; what it seals itself is under the new one."""
    await two[0].connect()
    await two[1].get("/token/acme")

    made = await two[0].broker.keys.new(OPERATOR, request_id="test")
    on_one = await two[0].post("/token/acme/refresh")
    await two[1].connect("kit", "globex", account="777")
    on_other = await two[1].get("/token/acme")

    assert (200, 200) == (on_one.status, on_other.status)
    assert on_one.json["access_token"] == on_other.json["access_token"]
    counts = await two[0].broker.context.stores.records.counts()
    assert {made["kid"]} <= set(counts["accounts.sealed_refresh"])


async def test_events_of_all_brokers_are_one_row(two: Replicas) -> None:
    """Numbered in the order of their commits, each told once."""
    for number in range(6):
        await two[number % 2].connect("kit", f"acme-{number}", account=str(500 + number))

    await asyncio.gather(*[two[number % 2].post(f"/token/acme-{number}/refresh") for number in range(6)])

    events = await two[0].broker.context.stores.events.events(0, 100)
    assert list(range(1, len(events) + 1)) == [event.id for event in events]
    assert 6 == sum(event.kind is EventKind.RENEWED for event in events)


async def test_copied_database_is_adopted_for_everybody(two: Replicas) -> None:
    """One is told; the other finds out by itself."""
    await two[0].connect()
    await two[0].broker.context.stores.keys.set_meta("incarnation", "another server:1")
    for house in two.houses:
        await house.restart()
    held = [house.broker.tokens.permit.copied_store for house in two.houses]

    await two[0].broker.adoption.adopt(OPERATOR, request_id="test")
    await two[1].broker.adoption.look_again()

    assert [True, True] == held
    assert [False, False] == [house.broker.tokens.permit.copied_store for house in two.houses]
