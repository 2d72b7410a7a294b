"""A token is asked for once and kept for as long as the broker allows, by everybody in the program."""

import asyncio

import pytest

from broker.client import Broker, SyncBroker, Token
from broker.client.testing import FakeBroker
from broker.client.tokens import Memory
from tests.client.asking import Asker
from tests.client.conftest import NewAsker


async def test_token_is_text_that_goes_into_a_header(asker: Asker) -> None:
    """And knows what the broker said of it."""
    token = await asker.token()

    assert f"Bearer {asker.fake.access_token('acme')}" == token.header == f"Bearer {token}"
    assert ("acme", "kit", 1) == (token.account, token.provider, token.generation)


async def test_token_is_not_shown_where_nobody_asks_for_it(asker: Asker) -> None:
    """A traceback, a log line with `%r` or a dict shows the account and the generation."""
    token = await asker.token()

    shown = repr({"token": token, "client": asker.client})

    assert str(token) not in shown
    assert asker.fake.key not in shown
    assert "acme" in shown


async def test_kept_for_as_long_as_the_broker_says(asker: Asker) -> None:
    """`expires_in` seconds, to the second, and then it is asked again."""
    first = await asker.token()

    asker.clock.passed += first.expires_in - 1
    await asker.token()
    asked_before = len(asker.fake.asked)
    asker.clock.passed += 1
    second = await asker.token()

    assert (1, 2) == (asked_before, len(asker.fake.asked))
    assert first.expires_in > second.expires_in


async def test_used_at_once_and_not_kept_while_its_renewal_runs(asker: Asker) -> None:
    """`expires_in` 1 is a token in its window: the next ask gets the new one."""
    first = await asker.token()
    asker.clock.passed += first.expires_in + 1

    in_window = await asker.token()
    after = await asker.token()

    assert (1, 1, 2) == (in_window.expires_in, in_window.generation, after.generation)


async def test_accounts_are_kept_apart(asker: Asker) -> None:
    """Each has its own token."""
    tokens = [await asker.token(name) for name in ("acme", "globex", "acme")]

    assert ["acme", "globex", "acme"] == [token.account for token in tokens]
    assert ["GET /token/acme", "GET /token/globex"] == asker.fake.asked


async def test_crowd_causes_one_request(asker: Asker) -> None:
    """Fifty asks at once, one request, one token."""
    asker.fake.slow(0.3)

    tokens = await asyncio.gather(*[asker.token() for _ in range(50)])

    assert {asker.fake.access_token("acme")} == set(tokens)
    assert ["GET /token/acme"] == asker.fake.asked


async def test_crowd_shares_the_refusal_too(asker: Asker) -> None:
    """Nobody asks again because another was refused."""
    asker.fake.slow(0.3)
    asker.fake.refuse("acme", "forbidden")

    ends = await asyncio.gather(*[asker.token() for _ in range(20)], return_exceptions=True)

    assert {"Forbidden"} == {type(end).__name__ for end in ends}
    assert 1 == len(asker.fake.asked)


async def test_who_gives_up_ends_only_his_own_wait(fake_broker: FakeBroker) -> None:
    """The request that all share goes on for the others."""
    fake_broker.slow(0.1)
    async with Broker(fake_broker.url, key=fake_broker.key) as broker:
        impatient = asyncio.create_task(broker.token("acme"))
        patient = asyncio.create_task(broker.token("acme"))
        await asyncio.sleep(0)

        impatient.cancel()
        token = await patient

    assert impatient.cancelled()
    assert fake_broker.access_token("acme") == token
    assert 1 == len(fake_broker.asked)


async def test_close_ends_what_is_under_way(fake_broker: FakeBroker) -> None:
    """Who still waits is cancelled, and nothing is left open."""
    fake_broker.slow(5)
    broker = Broker(fake_broker.url, key=fake_broker.key)
    waiting = asyncio.create_task(broker.token("acme"))
    await asyncio.sleep(0)

    await broker.aclose()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert {asyncio.current_task()} == asyncio.all_tasks()


def test_one_broker_serves_one_loop_after_another(fake_broker: FakeBroker) -> None:
    """Also when the first ended in the middle of an ask."""
    broker = Broker(fake_broker.url, key=fake_broker.key)
    fake_broker.slow(0.3)

    async def ask() -> Token:
        return await broker.token("acme")

    async def hardly_ask() -> None:
        lost = asyncio.create_task(ask())
        await asyncio.wait([lost], timeout=0.05)

    asyncio.run(hardly_ask())
    fake_broker.slow(0)
    token = asyncio.run(ask())

    assert fake_broker.access_token("acme") == token


async def test_more_real_life_is_asked_for(new: NewAsker) -> None:
    """`min_ttl` goes to the broker when the kept token has less, and only then."""
    asker = new(fake_life=1000.0)
    await asker.token()
    asker.clock.passed += 600

    enough, more = await asker.token(min_ttl=100), await asker.token(min_ttl=400)

    assert (1, 2) == (enough.generation, more.generation)
    assert ["GET /token/acme", "GET /token/acme?min_ttl=400"] == asker.fake.asked


def test_older_generation_never_replaces_a_newer() -> None:
    """An answer that was overtaken on its way is not kept."""
    memory = Memory(while_away=0)
    memory.keep("acme", _token(2), 0.0)

    memory.keep("acme", _token(1), 1.0)
    kept = memory.fresh("acme", 2.0)

    assert kept is not None
    assert 2 == kept.generation


def _token(generation: int) -> Token:
    return Token.read({"access_token": f"t{generation}", "generation": generation, "expires_in": 60})


def test_sync_client_closes_like_a_file(fake_broker: FakeBroker) -> None:
    """`with` works, and it can be used without."""
    with SyncBroker(fake_broker.url, key=fake_broker.key) as broker:
        token = broker.token("acme")

    assert 1 == token.generation
