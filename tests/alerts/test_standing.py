"""Troubles of the broker itself: told when they begin and when they are over, once, over restarts too."""

from broker.model import EventKind
from tests.alerts.conftest import happen
from tests.alerts.streams import open_stream
from tests.house import OPERATOR, House

REFUSED = ("acme", "globex", "initech", "umbrella")


async def told(house: House) -> list[tuple[EventKind, str | None, str | None]]:
    """What was said of the broker, in order."""
    events = await house.broker.context.stores.events.events(0, 1000)
    kinds = (EventKind.BROKER_DEGRADED, EventKind.BROKER_RECOVERED)
    return [(event.kind, event.reason, event.provider) for event in events if event.kind in kinds]


async def connect_all(house: House) -> None:
    for number, name in enumerate(REFUSED):
        await house.connect("kit", name, account=str(100 + number))


async def renew_all(house: House) -> None:
    """One attempt each."""
    for name in REFUSED:
        await house.broker.tokens.flights.join((await house.account(name)).ref)


async def test_trouble_is_told_once_and_its_end_once(house: House) -> None:
    """However often it is raised, and whatever else is wrong meanwhile."""
    health, standing = house.broker.context.health, house.broker.alerts.standing

    for sentence in ("one token set waits", "two token sets wait"):
        health.raise_problem("commit_retained", sentence)
        health.raise_problem("something_else", sentence)
        await standing.flush()
    health.clear("commit_retained")
    await standing.flush()

    assert [
        (EventKind.BROKER_DEGRADED, "commit_retained", None),
        (EventKind.BROKER_RECOVERED, "commit_retained", None),
    ] == await told(house)


async def test_short_trouble_is_told_all_the_same(house: House) -> None:
    """It began and ended between two looks."""
    health = house.broker.context.health
    health.raise_problem("audit_waiting", "the audit waits")
    health.clear("audit_waiting")

    await house.broker.alerts.standing.flush()

    assert [EventKind.BROKER_DEGRADED, EventKind.BROKER_RECOVERED] == [kind for kind, *_ in await told(house)]


async def test_trouble_that_ended_with_the_process_is_over_after_the_restart(house: House) -> None:
    """What this start does not find is told as over, once."""
    house.broker.context.health.raise_problem("audit_waiting", "the audit waits")
    await house.broker.alerts.standing.flush()

    for _ in range(2):
        await house.restart()
        await house.broker.alerts.standing.flush()

    assert [
        (EventKind.BROKER_DEGRADED, "audit_waiting", None),
        (EventKind.BROKER_RECOVERED, "audit_waiting", None),
    ] == await told(house)


async def test_trouble_that_stands_over_a_restart_is_told_once(house: House) -> None:
    """The next start finds it again and says nothing new."""
    for restart in (False, True, True):
        if restart:
            await house.restart()
        house.broker.context.health.raise_problem("copied_store", "the store is a copy")
        await house.broker.alerts.standing.flush()

    assert [(EventKind.BROKER_DEGRADED, "copied_store", None)] == await told(house)


async def test_mass_refusal_is_told_with_its_provider(house: House) -> None:
    """When refusals come in crowds, and when the provider's word is taken again."""
    await connect_all(house)
    house.sandbox.faults.set("kit", status=400, body='{"error":"invalid_grant"}', times=4)
    await renew_all(house)
    await house.broker.alerts.standing.flush()
    begun = await told(house)

    house.clock.advance(601)
    await house.broker.alerts.standing.flush()

    assert [(EventKind.BROKER_DEGRADED, "mass_refusal", "kit")] == begun
    assert [*begun, (EventKind.BROKER_RECOVERED, "mass_refusal", "kit")] == await told(house)


async def test_mass_refusal_is_over_when_an_operator_says_so(house: House) -> None:
    """`broker providers resume`."""
    await connect_all(house)
    house.sandbox.faults.set("kit", status=400, body='{"error":"invalid_grant"}', times=4)
    await renew_all(house)
    await house.broker.alerts.standing.flush()

    await house.broker.overview.resume(OPERATOR, "kit", request_id="r")
    await house.broker.alerts.standing.flush()

    assert (EventKind.BROKER_RECOVERED, "mass_refusal", "kit") == (await told(house))[-1]


async def test_client_that_is_taken_again_is_told(house: House) -> None:
    """`provider_rejected_client` when the breaker opens, `recovered` of the provider when it closes; each once."""
    await connect_all(house)
    house.sandbox.faults.set("kit", deny_all_clients=True)
    await renew_all(house)

    house.sandbox.faults.set("kit", deny_all_clients=None)
    house.clock.advance(400)
    await renew_all(house)

    events = await house.broker.context.stores.events.events(0, 1000)
    of_the_provider = [(event.kind, event.reason) for event in events if event.account is None]
    assert [
        (EventKind.PROVIDER_REJECTED_CLIENT, "provider_rejected_client"),
        (EventKind.RECOVERED, "provider_rejected_client"),
    ] == of_the_provider


async def test_good_news_asks_for_nothing(house: House) -> None:
    """`what_to_do` is said of what is wrong, in words of its own for each trouble."""
    health, key = house.broker.context.health, await house.caller(permissions=("accounts",), name="reader")
    for problem in ("commit_retained", "audit_waiting", "copied_store"):
        health.raise_problem(problem, "…")
        health.clear(problem)
    await house.broker.alerts.standing.flush()
    await happen(house, "acme")

    async with open_stream(house, key=key, last_id="0") as stream:
        await stream.beat()

    todo = {(data["event"], data["reason"]): data["what_to_do"] for _, data in stream.messages}
    assert {None} == {words for (kind, _), words in todo.items() if kind != "broker_degraded"}
    assert 3 == len({words for (kind, _), words in todo.items() if kind == "broker_degraded" and words})
