"""Webhooks: signed as the standard says, tried again, in order, over restarts, and nothing of them is logged."""

import asyncio
import base64
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from broker.alerts.hooks import Alert, Dispatcher, WebhookClient, signed_headers
from broker.alerts.hooks import Webhook as Ours
from broker.clock import within
from broker.model import EventKind
from tests.alerts.conftest import happen, rounds
from tests.alerts.receiver import ANSWER, SECRET, Receiver
from tests.fakes.clock import FakeClock
from tests.house import House, open_house
from tests.until import moment


@pytest.mark.parametrize(
    ("secret", "theirs"),
    [
        (SECRET, SECRET),
        ("a plain text, not base64", base64.b64encode(b"a plain text, not base64").decode()),
    ],
)
async def test_alert_verifies_with_the_standard_library(
    tmp_path: Path, receiver: Receiver, secret: str, theirs: str
) -> None:
    """Both forms of the secret; and the same alert with another body does not."""
    extra = receiver.config.replace(SECRET, secret)
    async with open_house(tmp_path / "house", extra=extra, clock=FakeClock(time.time())) as house:
        await rounds(house)
        await house.connect()
        await rounds(house)

    [received] = receiver.received
    event = Webhook(theirs).verify(received.body, dict(received.headers))

    assert ("connected", "acme") == (event["event"], event["account"])
    assert {"id", "at", "event", "account", "provider", "reason", "what_to_do", "generation"} == set(event)
    with pytest.raises(WebhookVerificationError):
        Webhook(theirs).verify(received.body + b" ", dict(received.headers))


def test_each_of_two_secrets_signs() -> None:
    """While one is being replaced, a receiver with either believes the alert."""
    at, keys = int(time.time()), (b"old-secret", b"new-secret")

    headers = signed_headers(Alert("evt_1", b"{}"), at, keys)

    for key in keys:
        assert Webhook(base64.b64encode(key).decode()).verify(b"{}", headers) == {}


async def test_renewals_are_not_told(told: House, receiver: Receiver) -> None:
    """The webhook gets what the stream gets, without `renewed`."""
    await told.connect()
    await told.post("/token/acme/refresh")

    await rounds(told)

    assert [("connected", "acme")] == receiver.told
    kinds = [event.kind for event in await told.broker.context.stores.events.events(0, 10)]
    assert [EventKind.CONNECTED, EventKind.RENEWED] == kinds


async def test_new_webhook_hears_nothing_old(tmp_path: Path, receiver: Receiver) -> None:
    """It begins with what happens once it is configured."""
    async with open_house(tmp_path / "house") as house:
        await happen(house, "before")
        house.extra = receiver.config
        house.write_config()
        await house.restart()
        await rounds(house)
        await happen(house, "after")
        await rounds(house)

    assert [("connected", "after")] == receiver.told


async def test_failed_alert_is_tried_again_on_schedule(told: House, receiver: Receiver) -> None:
    """With the same id, 5 s later, then 30 s, then 2 min; and then never again."""
    for _ in range(3):
        receiver.answer(500)
    await happen(told, "acme")
    seen = []

    for wait in (0, 4, 1, 29, 1, 119, 1, 100_000):
        told.clock.advance(wait)
        await rounds(told)
        seen.append(len(receiver.received))

    assert [1, 1, 2, 2, 3, 3, 4, 4] == seen
    assert 1 == len({one.id for one in receiver.received})
    assert 4 == len({one.headers["webhook-timestamp"] for one in receiver.received})


@pytest.mark.parametrize("form", ["60", "59.5", "60s", "date"])
async def test_retry_after_is_heard(told: House, receiver: Receiver, form: str) -> None:
    """A receiver that wants a minute gets a minute, in whatever form it says so."""
    if form == "date":
        at = datetime.fromtimestamp(told.clock.now() + 60, UTC)
        form = at.strftime("%a %b %d %H:%M:%S %Y")
    receiver.answer(429, Retry_After=form)
    await happen(told, "acme")
    await rounds(told)

    told.clock.advance(59)
    await rounds(told)
    early = len(receiver.received)
    told.clock.advance(1)
    await rounds(told)

    assert (1, 2) == (early, len(receiver.received))


async def test_account_s_story_is_told_in_order(told: House, receiver: Receiver) -> None:
    """What follows an alert that fails waits for it; other accounts do not."""
    receiver.refused.add("sad")
    await happen(told, "sad")
    await happen(told, "sad", "glad", None, kind=EventKind.REFRESH_FAILING)
    await rounds(told)
    meanwhile = set(receiver.told)

    receiver.refused.clear()
    told.clock.advance(5)
    await rounds(told)

    assert {("connected", "sad"), ("refresh_failing", "glad"), ("refresh_failing", None)} == meanwhile
    assert [("connected", "sad"), ("connected", "sad"), ("refresh_failing", "sad")] == [
        one for one in receiver.told if one[1] == "sad"
    ]


async def test_alerts_survive_a_restart(told: House, receiver: Receiver) -> None:
    """One that failed and one that was never tried; none twice that arrived."""
    receiver.refused.add("sad")
    await happen(told, "glad", "sad")
    await rounds(told)
    await happen(told, "late")
    receiver.refused.clear()

    await told.restart()
    told.clock.advance(5)
    await rounds(told)

    assert ["glad", "late", "sad", "sad"] == sorted(str(account) for _, account in receiver.told)


async def test_attempt_cut_off_by_a_crash_is_made_again(told: House, receiver: Receiver) -> None:
    """The claim is durable, so for its minute nobody else tries; then it counts as lost."""
    receiver.gate.clear()
    await happen(told, "acme")
    attempt = asyncio.ensure_future(told.broker.alerts.webhook.round())
    while not receiver.received:
        await moment()
    attempt.cancel()
    await asyncio.gather(attempt, return_exceptions=True)
    receiver.gate.set()

    await told.restart()
    told.clock.advance(59)
    await rounds(told)
    early = len(receiver.received)
    told.clock.advance(1)
    await rounds(told)

    assert (1, 2) == (early, len(receiver.received))
    assert receiver.received[0].id == receiver.received[1].id


async def test_two_brokers_send_an_alert_once(told: House, receiver: Receiver) -> None:
    """Both read the same events; one of them claims each attempt."""
    other = Dispatcher("webhook", told.broker.context)
    settings, client = told.settings.alerts.webhook, WebhookClient()
    assert settings is not None
    other.use(Ours(settings, client=client, clock=told.clock))
    await other.round()
    await happen(told, *(f"acme-{number}" for number in range(20)))

    await asyncio.gather(*(one.round() for _ in range(6) for one in (other, told.broker.alerts.webhook)))
    await rounds(told)
    await client.close()

    assert 20 == len(receiver.received) == len({one.id for one in receiver.received})


async def test_gone_pauses_it_until_somebody_looks(told: House, receiver: Receiver) -> None:
    """410: nothing more is sent, over restarts too; a reload sends what waited."""
    receiver.answer(410)
    await happen(told, "first")
    await rounds(told)
    await happen(told, "second")
    await rounds(told)
    await told.restart()
    await rounds(told)
    paused, problems = len(receiver.received), (await told.get("/readyz")).json["problems"]

    told.broker.use(told.settings)
    await rounds(told)

    assert 1 == paused
    assert ["410 Gone"] == [word for problem in problems for word in ["410 Gone"] if word in problem]
    assert ["first", "first", "second"] == [account for _, account in receiver.told]
    assert [] == (await told.get("/readyz")).json["problems"]


async def test_redirect_is_not_followed(told: House, receiver: Receiver) -> None:
    """It would carry the signature to whoever the receiver names."""
    receiver.answer(307, Location=f"http://127.0.0.1:{receiver.port}/elsewhere")
    await happen(told, "acme")

    await rounds(told)

    assert (1, 0) == (len(receiver.received), receiver.elsewhere)


async def test_old_alert_is_given_up(told: House, receiver: Receiver) -> None:
    """Three days after the event nobody wants it any more, and what follows is told."""
    receiver.refused.add("acme")
    await happen(told, "acme")
    for _ in range(80):
        await rounds(told)
        told.clock.advance(3600)
    receiver.refused.clear()
    attempts = len(receiver.received)
    await happen(told, "acme", kind=EventKind.RECOVERED)

    await rounds(told)

    assert 60 < attempts < 80
    assert [("recovered", "acme")] == receiver.told[attempts:]


async def test_failing_receiver_shows_in_readyz(told: House, receiver: Receiver) -> None:
    """From the third failure in a row until one arrives."""
    for _ in range(3):
        receiver.answer(500)
    await happen(told, "a", "b", "c")
    await rounds(told)
    failing = (await told.get("/readyz")).json["problems"]

    told.clock.advance(5)
    await rounds(told)

    assert 1 == len(failing)
    assert "webhook" in failing[0]
    assert [] == (await told.get("/readyz")).json["problems"]


async def test_slow_receiver_holds_up_nobody(told: House, receiver: Receiver) -> None:
    """Tokens are handed out and the command runs while the receiver sits on an alert."""
    await told.connect()
    receiver.gate.clear()
    round_ = asyncio.ensure_future(told.broker.alerts.webhook.round())
    while not receiver.received:
        await moment()

    answer = await told.get("/token/acme")
    await told.broker.alerts.command.round()
    waiting = not round_.done()
    receiver.gate.set()
    await round_

    assert (200, True) == (answer.status, waiting)


async def test_backlog_is_bounded(told: House, receiver: Receiver) -> None:
    """A thousand alerts wait as deliveries at most; the rest stays in the table of events until there is room."""
    receiver.refused.add("acme")
    store = told.broker.context.stores
    for _ in range(7):
        await happen(told, *["acme"] * 200)
        await told.broker.alerts.webhook.round()

    waiting = len(await store.alerts.deliveries("webhook"))

    assert 1000 == waiting
    assert 1 == len(receiver.received)


async def test_purged_account_is_not_told_of(told: House, receiver: Receiver) -> None:
    """Its alerts go with it, also those that wait for another attempt."""
    receiver.refused.add("acme")
    await told.connect()
    await rounds(told)
    await told.ask("DELETE", "/accounts/acme?purge=1")
    receiver.refused.clear()

    told.clock.advance(5)
    await happen(told, "other")
    await rounds(told)

    assert ["acme", "other"] == [account for _, account in receiver.told]
    assert [] == await told.broker.context.stores.alerts.deliveries("webhook")


async def test_nothing_of_a_receiver_is_logged(told: House, receiver: Receiver) -> None:
    """Neither its address, nor its answers, nor the secret or a signature."""
    receiver.answer(500)
    await happen(told, "acme")

    with capture_logs() as lines:
        await rounds(told)
        told.clock.advance(5)
        await rounds(told)

    said = str(lines)
    assert "alert.failed" in said
    assert "alert.delivered" in said
    signature = receiver.received[0].headers["webhook-signature"]
    for secret in (ANSWER, SECRET, SECRET.removeprefix("whsec_"), signature, str(receiver.port), "/hook"):
        assert secret not in said


async def test_unreachable_receiver_is_tried_again(tmp_path: Path, receiver: Receiver) -> None:
    """A connection refused is a failure like any other."""
    dead = receiver.config.replace(receiver.url, "http://127.0.0.1:9/hook")
    async with open_house(tmp_path / "house", extra=dead) as house:
        await rounds(house)
        await happen(house, "acme")
        await rounds(house)
        [delivery] = await house.broker.context.stores.alerts.deliveries("webhook")

    assert (1, house.clock.now() + 5) == (delivery.attempts, delivery.next_at)


async def test_webhook_taken_out_of_the_file_is_forgotten(told: House, receiver: Receiver) -> None:
    """What waited is not told to whoever is configured next."""
    receiver.answer(500)
    await happen(told, "acme")
    await rounds(told)
    told.extra = ""
    told.write_config()
    told.broker.use(told.settings)
    await rounds(told)

    told.extra = receiver.config
    told.write_config()
    told.broker.use(told.settings)
    told.clock.advance(3600)
    await rounds(told)

    assert 1 == len(receiver.received)


async def test_loop_tells_by_itself_and_ends_with_the_broker(told: House, receiver: Receiver) -> None:
    """Within a second or two of the event; an attempt under way at the stop is ended, not made twice."""
    running = asyncio.create_task(told.broker.alerts.run())
    await told.connect()
    await told.clock.settle()
    told.clock.advance(1)
    await told.clock.settle()
    first = list(receiver.told)
    receiver.gate.clear()
    await happen(told, "late")
    told.clock.advance(1)
    while len(receiver.received) < 2:
        await moment()

    stopping = asyncio.create_task(told.broker.alerts.stop(running))
    await told.clock.settle()
    receiver.gate.set()
    await within(told.clock, 1, stopping)

    assert [("connected", "acme")] == first
    assert [] == await told.broker.context.stores.alerts.deliveries("webhook")
    assert running.done()
    assert json.loads(receiver.received[1].body)["account"] == "late"
