"""What the clients do when the broker refuses, is slow, restarts, or is gone."""

import asyncio
import logging
from itertools import pairwise
from pathlib import Path

import pytest

from broker import client, errors
from broker.client import (
    Broker,
    BrokerAway,
    NeedsReauthorization,
    ProviderUnavailable,
    RateLimited,
    SyncBroker,
    Token,
)
from broker.client.errors import BY_CODE
from broker.client.testing import PROBLEMS, Answer, Server
from tests.client.asking import Asker
from tests.client.conftest import NewAsker
from tests.until import moment

AHEAD = 900.0


def test_every_code_of_the_broker_has_its_error() -> None:
    """In the client, in its front door, and in the fake; with the broker's status and words."""
    kinds: list[type[errors.BrokerError]] = [errors.BrokerError, *errors.BrokerError.__subclasses__()]
    theirs = {kind.code: (kind.status, kind.title) for kind in kinds if kind.__module__ == errors.__name__}

    assert theirs == PROBLEMS
    assert set(theirs) == set(BY_CODE)
    assert {kind.__name__ for kind in BY_CODE.values()} <= vars(client).keys()


@pytest.mark.parametrize("code", [code for code, (status, _) in PROBLEMS.items() if status != 503])
async def test_final_refusal_is_told_at_once(asker: Asker, code: str) -> None:
    """As its own class, with the broker's words, and without asking twice."""
    asker.fake.refuse("acme", code, detail="why it is so")

    with pytest.raises(BY_CODE[code], match="why it is so") as caught:
        await asker.token()

    assert (code, PROBLEMS[code][0]) == (caught.value.code, caught.value.status)
    assert caught.value.request_id is not None
    assert 1 == len(asker.fake.asked)
    assert [] == asker.clock.pauses


async def test_dead_grant_says_where_to_connect_again(asker: Asker) -> None:
    """The members of the problem are at hand."""
    asker.fake.refuse("acme", "needs_reauthorization", reason="lost_rotation", reconnect_url="http://b/acme")

    with pytest.raises(NeedsReauthorization) as caught:
        await asker.token()

    assert ("lost_rotation", "http://b/acme") == (caught.value.reason, caught.value.reconnect_url)


@pytest.mark.parametrize("code", [code for code, (status, _) in PROBLEMS.items() if status == 503])
async def test_passing_refusal_is_waited_out(asker: Asker, code: str) -> None:
    """A 503 is tried again no sooner than its Retry-After, until patience ends."""
    asker.fake.refuse("acme", code, retry_after=7)

    with pytest.raises(BY_CODE[code]):
        await asker.token()

    assert 4 == len(asker.clock.pauses)
    assert all(7 <= pause < 8 for pause in asker.clock.pauses)


async def test_token_after_a_passing_refusal(new: NewAsker) -> None:
    """Who waits gets it when the broker has it."""
    asker = new(patience=1e6)
    asker.fake.refuse("acme", "refresh_uncertain", retry_after=60)
    asked = asyncio.create_task(asker.token())
    while len(asker.clock.pauses) < 3:
        await moment()

    asker.fake.relent("acme")
    token = await asked

    assert 1 == token.generation


async def test_retry_after_beyond_patience_is_not_waited_for(asker: Asker) -> None:
    """The error comes at once, and says when to ask again."""
    asker.fake.refuse("acme", "provider_unavailable", retry_after=300)

    with pytest.raises(ProviderUnavailable) as caught:
        await asker.token()

    assert 300 == caught.value.retry_after
    assert [] == asker.clock.pauses


async def test_nobody_listens(asker: Asker) -> None:
    """It is tried again with longer and longer pauses, and then told without the key in it."""
    with asker.fake.away(), pytest.raises(BrokerAway) as caught:
        await asker.token()

    pauses = asker.clock.pauses
    assert 30 >= sum(pauses) > 20
    assert all(after > before / 2 for before, after in pairwise(pauses))
    assert max(pauses) <= 5
    assert asker.fake.key not in f"{caught.value!r} {caught.value}"


async def test_last_token_serves_while_the_broker_is_away(
    asker: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    """Past its `expires_in`, because the provider still takes it; the log says so once, without the token."""
    first = await asker.token()
    asker.clock.passed += first.expires_in

    with caplog.at_level(logging.WARNING, "broker.client"), asker.fake.away():
        tokens = []
        for _ in range(3):
            asker.clock.passed += 10
            tokens.append(await asker.token())

    assert [first] * 3 == tokens
    assert 1 == len(caplog.records)
    assert "acme" in caplog.text
    assert str(first) not in caplog.text


async def test_last_token_serves_at_once(asker: Asker) -> None:
    """Nobody waits for a broker that is away when a living token is at hand, and it is asked ever less often."""
    first = await asker.token()
    asker.clock.passed += first.expires_in

    with asker.fake.away():
        for _ in range(10):
            await asker.token()
            asker.clock.passed += 0.01

    assert [] == asker.clock.pauses


@pytest.mark.parametrize("code", ["overloaded", "storage_unavailable", "audit_unavailable", "internal"])
async def test_last_token_serves_while_the_broker_cannot(asker: Asker, code: str) -> None:
    """A broker in trouble of its own is as good as away."""
    first = await asker.token()
    asker.clock.passed += first.expires_in
    asker.fake.refuse("acme", code)

    assert first == await asker.token()
    assert [] == asker.clock.pauses


async def test_last_token_is_never_served_beyond_its_life(asker: Asker) -> None:
    """`provider_expires_at` is the end, less a second because the broker tells whole ones."""
    first = await asker.token()

    with asker.fake.away():
        asker.clock.passed += first.expires_in + AHEAD - 2
        before = await asker.token()
        asker.clock.passed += 5
        with pytest.raises(BrokerAway):
            await asker.token()

    assert first == before


async def test_last_token_is_not_served_longer_than_allowed(new: NewAsker) -> None:
    """`while_away` is the bound, however long the token lives."""
    asker = new(while_away=60.0)
    first = await asker.token()

    with asker.fake.away():
        asker.clock.passed += first.expires_in + 58
        before = await asker.token()
        asker.clock.passed += 10
        with pytest.raises(BrokerAway):
            await asker.token()

    assert first == before


@pytest.mark.parametrize("code", ["needs_reauthorization", "forbidden", "unauthenticated", "unknown_account"])
async def test_last_token_is_dropped_when_the_broker_says_no(asker: Asker, code: str) -> None:
    """A refusal is about the account: what is kept is not used any more, also not when the broker then goes."""
    first = await asker.token()
    asker.clock.passed += first.expires_in
    asker.fake.refuse("acme", code)

    with pytest.raises(BY_CODE[code]):
        await asker.token()
    with asker.fake.away(), pytest.raises(BrokerAway):
        await asker.token()


async def test_provider_that_is_down_is_waited_for_also_with_a_token_kept(asker: Asker) -> None:
    """The broker says that no living token is left, and it knows better."""
    first = await asker.token()
    asker.clock.passed += first.expires_in
    asker.fake.refuse("acme", "provider_unavailable", retry_after=2)

    with pytest.raises(ProviderUnavailable):
        await asker.token()

    assert len(asker.clock.pauses) > 3


async def test_last_token_serves_while_the_key_cannot_be_read(new: NewAsker, tmp_path: Path) -> None:
    """A file that is being replaced is as passing as a broker that is away."""
    file = tmp_path / "key"
    file.write_text("tbk_fake")
    asker = new(key=None, key_file=file)
    first = await asker.token()
    asker.clock.passed += first.expires_in

    file.unlink()

    assert first == await asker.token()


async def test_broker_is_asked_again_when_it_is_back(asker: Asker, caplog: pytest.LogCaptureFixture) -> None:
    """After the pause of the outage, and the log says that it is over."""
    first = await asker.token()
    asker.clock.passed += first.expires_in
    with asker.fake.away():
        await asker.token()

    asker.clock.passed += 10
    with caplog.at_level(logging.WARNING, "broker.client"):
        await asker.token()

    assert 2 == len(asker.fake.asked)
    assert "is back" in caplog.text


async def test_rejected_token_is_reported_once_by_a_crowd(asker: Asker) -> None:
    """Fifty callers, one report, one new token for all."""
    first = await asker.token()
    asker.fake.slow(0.3)
    asker.fake.expire("acme")

    tokens = await asyncio.gather(*[asker.rejected(first) for _ in range(50)])
    late = await asker.rejected(first)

    assert {2} == {token.generation for token in (*tokens, late)}
    assert [("acme", 1)] == asker.fake.reported


async def test_rejected_token_is_never_used_again(asker: Asker) -> None:
    """Also not when the broker goes away at the report."""
    first = await asker.token()

    with asker.fake.away():
        with pytest.raises(BrokerAway):
            await asker.rejected(first)
        with pytest.raises(BrokerAway):
            await asker.token()

    assert 1 == first.generation


async def test_api_that_rejects_what_is_fresh_is_not_reported_for_ever(asker: Asker) -> None:
    """After the broker's 429 it is left alone for as long as it asked for."""
    token = await asker.token()
    for _ in range(2):
        token = await asker.rejected(token)
        asker.clock.passed += 70

    with pytest.raises(RateLimited):
        await asker.rejected(token)
    asked = len(asker.fake.asked)
    with pytest.raises(RateLimited) as again:
        await asker.rejected(token)

    assert "rejected_by_provider" == again.value.reason
    assert asked == len(asker.fake.asked)


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {}, b"<html>Welcome to nginx!</html>"),
        (200, {}, b'{"access_token": ""}'),
        (200, {}, b"[]"),
        (302, {"Location": "http://127.0.0.1:9/token/acme"}, b""),
        (502, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, b"<html>Bad Gateway</html>"),
        (404, {}, b"not found"),
    ],
)
@pytest.mark.parametrize("kind", [Broker, SyncBroker])
async def test_what_is_no_broker_gives_no_token(
    kind: type[Broker | SyncBroker], status: int, headers: dict[str, str], body: bytes
) -> None:
    """A page of something in between is no answer, and the key is not carried on by a redirect."""
    stranger = Server(lambda _: Answer(status, dict(headers), body))
    stranger.start()
    broker = kind(stranger.url, key="tbk_secret", patience=0)

    with pytest.raises(BrokerAway) as caught:
        await _token_of(broker)

    stranger.stop()
    assert "something that is not a broker answers" in caught.value.detail


async def _token_of(broker: Broker | SyncBroker) -> Token:
    if isinstance(broker, Broker):
        return await broker.token("acme")
    return await asyncio.to_thread(broker.token, "acme")
