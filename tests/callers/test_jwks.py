"""The keys of an issuer on a real socket: when they are fetched, and what is made of the answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest

from broker.callers.jws import JwksCache, KeySet, read_keys
from broker.providers.client import Answer, ProviderClient
from tests.callers.signing import Signer, ed25519, p256, p384, rsa
from tests.fakes.clock import FakeClock
from tests.fakes.issuer import Issuer, open_issuer
from tests.until import moment

KEY = ed25519("k1")
OTHER = ed25519("k2")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with open_issuer(KEY) as issuer:
        yield issuer


@pytest.fixture
async def cache(clock: FakeClock) -> AsyncIterator[JwksCache]:
    client = ProviderClient()
    cache = JwksCache(http=client, clock=clock, timeout=0.5)
    yield cache
    await cache.close()
    await client.close()


async def kids(cache: JwksCache, issuer: Issuer, kid: str = "k1") -> list[str | None]:
    found = await cache.keys(issuer.url, "EdDSA", kid)
    return [] if found is None else [key.id for key in found.keys]


async def test_set_is_kept_for_ten_minutes(cache: JwksCache, issuer: Issuer, clock: FakeClock) -> None:
    """And then asked for again, so that a key that was withdrawn is gone."""
    first = await kids(cache, issuer)
    issuer.keys = [OTHER]
    clock.advance(599)
    still = (await kids(cache, issuer), issuer.fetches)
    clock.advance(1)

    assert (["k1"], (["k1"], 1)) == (first, still)
    assert (["k2"], 2) == (await kids(cache, issuer), issuer.fetches)


async def test_crowd_costs_one_fetch(cache: JwksCache, issuer: Issuer, clock: FakeClock) -> None:
    """At the start, and when the time is over; also where some of the crowd hang up."""
    first = (await crowd(cache, issuer), issuer.fetches)
    clock.advance(600)
    second = (await crowd(cache, issuer), issuer.fetches)

    assert (({"k1"}, 1), ({"k1"}, 2)) == (first, second)


async def crowd(cache: JwksCache, issuer: Issuer) -> set[str | None]:
    """What fifty at once get, of whom ten do not wait for it."""
    issuer.open.clear()
    tasks = [asyncio.create_task(kids(cache, issuer)) for _ in range(50)]
    asked = issuer.fetches
    async with asyncio.timeout(60):
        while issuer.fetches == asked:
            await moment()
    for task in tasks[:10]:
        task.cancel()
    issuer.open.set()
    return {kid for answer in await asyncio.gather(*tasks[10:]) for kid in answer}


async def test_unknown_kid_asks_again_once_in_thirty_seconds(
    cache: JwksCache, issuer: Issuer, clock: FakeClock
) -> None:
    """A new key is known at once; who invents kids brings about no flood."""
    await kids(cache, issuer)
    clock.advance(30)
    issuer.keys = [KEY, OTHER]
    new = await kids(cache, issuer, "k2")
    for number in range(100):
        await kids(cache, issuer, f"invented-{number}")
    held = issuer.fetches
    clock.advance(30)
    await asyncio.gather(*(kids(cache, issuer, f"invented-{number}") for number in range(100)))

    assert (["k1", "k2"], 2, 3) == (new, held, issuer.fetches)


@pytest.mark.parametrize("invented", [["flood"], ["a", "b"], [f"k-{number}" for number in range(70)]])
async def test_invented_kids_delay_a_new_key_by_seconds(
    cache: JwksCache, issuer: Issuer, clock: FakeClock, invented: list[str]
) -> None:
    """Whoever asks for them all the time, one or many, is answered from memory; the issuer is left in peace."""
    await kids(cache, issuer)
    clock.advance(30)
    for kid in invented:
        await kids(cache, issuer, kid)
    issuer.keys = [KEY, OTHER]
    waited = 0

    while "k2" not in await kids(cache, issuer, "k2"):
        for kid in invented:
            await kids(cache, issuer, kid)
        clock.advance(1)
        waited += 1

    assert waited <= 5
    assert issuer.fetches <= 4


async def test_same_unknown_kid_is_looked_for_once_in_thirty_seconds(
    cache: JwksCache, issuer: Issuer, clock: FakeClock
) -> None:
    """A service that is set up wrongly asks all day."""
    await kids(cache, issuer)
    clock.advance(30)
    for _ in range(58):
        await kids(cache, issuer, "k9")
        clock.advance(1)

    assert 3 == issuer.fetches


@pytest.mark.parametrize(
    "trouble",
    [
        {"status": 500},
        {"status": 404},
        {"location": "/elsewhere"},
        {"body": b'{"keys": []}'},
        {"body": b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'},
        {"body": b"<html>"},
        {"body": b"[]"},
        {"body": b'{"keys": 7}'},
        {"body": b""},
        {"body": b"\xff"},
        {"body": b"[" * 60_000},
        {"body": json.dumps({"keys": [KEY.jwk] * 400, "pad": "x" * 60_000}).encode()},
    ],
)
async def test_old_set_outlives_the_issuers_trouble_for_a_day(
    cache: JwksCache, issuer: Issuer, clock: FakeClock, trouble: dict[str, Any]
) -> None:
    """Nothing that is no usable set ever replaces one; after a day there is none."""
    await kids(cache, issuer)
    for name, value in trouble.items():
        setattr(issuer, name, value)
    clock.advance(86_399)
    during = await kids(cache, issuer)
    clock.advance(1)
    after = await kids(cache, issuer)
    issuer.status, issuer.body, issuer.location = 200, None, None
    clock.advance(10)

    assert (["k1"], []) == (during, after)
    assert ["k1"] == await kids(cache, issuer)


async def test_issuer_that_hangs_is_given_up(cache: JwksCache, issuer: Issuer, clock: FakeClock) -> None:
    """Without a set nobody is believed; it is asked again ten seconds later, and not before."""
    issuer.open.clear()
    nothing = await kids(cache, issuer)
    at_once = await kids(cache, issuer)
    asked = issuer.fetches
    issuer.open.set()
    clock.advance(10)

    assert ([], [], 1, ["k1"]) == (nothing, at_once, asked, await kids(cache, issuer))


async def test_nobody_waits_while_an_issuer_is_known_to_be_away(issuer: Issuer, clock: FakeClock) -> None:
    """The old set is used at once while the next attempt hangs."""
    client = ProviderClient()
    cache = JwksCache(http=client, clock=clock, timeout=60)
    await kids(cache, issuer)
    issuer.status = 500
    clock.advance(600)
    await kids(cache, issuer)
    issuer.open.clear()
    clock.advance(10)

    async with asyncio.timeout(60):
        during = await kids(cache, issuer)
    await cache.close()
    await client.close()

    assert ["k1"] == during


async def test_forgotten_issuers_are_asked_anew(cache: JwksCache, issuer: Issuer) -> None:
    """A set does not outlive its place in the configuration."""
    await kids(cache, issuer)
    cache.keep_only(frozenset())
    await kids(cache, issuer)

    assert 2 == issuer.fetches


def answered(*keys: object) -> tuple[list[str | None], str]:
    found, why = read_keys(Answer(200, {}, json.dumps({"keys": keys}).encode()))
    return ([] if found is None else [key.id for key in found.keys]), why


def without(signer: Signer, *names: str, **changes: object) -> dict[str, Any]:
    jwk = {name: value for name, value in signer.jwk.items() if name not in names}
    return {**jwk, **changes}


@pytest.mark.parametrize("signer", [ed25519(), p256(), rsa()], ids=lambda one: one.algorithm)
def test_key_is_taken(signer: Signer) -> None:
    """With all its members, or the least."""
    assert (["k1", "k1", "k1"], "") == answered(
        signer.jwk, without(signer, "alg", "use"), without(signer, key_ops=["verify"])
    )


@pytest.mark.parametrize(
    "jwk",
    [
        p384().jwk,
        rsa(bits=1024).jwk,
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "k1", "alg": "HS256"},
        without(KEY, alg="HS256"),
        without(rsa(), alg="PS256"),
        without(rsa(), alg="RS512"),
        without(rsa(), alg="none"),
        without(KEY, use="enc"),
        without(KEY, key_ops=["sign"]),
        without(KEY, key_ops="verify"),
        {**jwt.get_algorithm_by_name("EdDSA").to_jwk(KEY.key, as_dict=True), "kid": "k1"},
        {
            **jwt.get_algorithm_by_name("RS256").to_jwk(rsa().key, as_dict=True),
            "kid": "k1",
            "key_ops": ["verify"],
        },
        without(KEY, crv="Ed448"),
        without(KEY, "x"),
        without(KEY, x=7),
        without(KEY, x="AA"),
        without(KEY, kid=7),
        without(KEY, kty=["OKP"]),
        without(KEY, "kty"),
        "key",
        None,
    ],
)
def test_key_that_cannot_be_used_is_left_out(jwk: object) -> None:
    """And spoils none beside it."""
    assert ([], "no key that can be used") == answered(jwk)
    assert (["k2"], "") == answered(jwk, OTHER.jwk)


def test_kid_and_algorithm_choose_the_key() -> None:
    """Without a kid there must be no choice."""
    found, _ = read_keys(Answer(200, {}, json.dumps({"keys": [KEY.jwk, OTHER.jwk, p256("k1").jwk]}).encode()))
    assert found is not None

    chosen = [
        [key.algorithm for key in found.fitting(algorithm, kid)]
        for algorithm, kid in [
            ("EdDSA", "k1"),
            ("ES256", "k1"),
            ("RS256", "k1"),
            ("EdDSA", "../k1"),
            ("EdDSA", None),
            ("ES256", None),
        ]
    ]

    assert [["EdDSA"], ["ES256"], [], [], [], ["ES256"]] == chosen


async def test_set_is_current_as_itself_and_while_it_is_fresh(
    cache: JwksCache, issuer: Issuer, clock: FakeClock
) -> None:
    """What was verified with another, or with an old one, is verified again."""
    keys = await cache.keys(issuer.url, "EdDSA", "k1")
    assert keys is not None
    fresh = [cache.is_current(issuer.url, one) for one in (keys, KeySet(keys.keys))]
    clock.advance(600)

    assert ([True, False], False) == (fresh, cache.is_current(issuer.url, keys))
