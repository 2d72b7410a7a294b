"""JWTs that a caller signs with its own key, against the whole broker."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.callers.configured import ConfiguredCallers, JwtAuthenticator
from broker.callers.jws import JwksCache
from broker.config.settings import CallerSettings, OwnJwt, PublicKey
from broker.errors import Unauthenticated
from broker.model import Permission, Secret
from broker.providers.client import ProviderClient, Reply
from broker.providers.outcomes import NotSent
from tests.callers.signing import Signer, ed25519, own_claims, p256
from tests.fakes.clock import FakeClock
from tests.house import House, open_house


def table(name: str, *keys: Signer, accounts: str = '["*"]', permissions: str = '["token"]') -> str:
    """A caller with its own keys, as the file has it."""
    pems = ", ".join(f"'''{key.public_pem}'''" for key in keys)
    return f"[callers.{name}]\naccounts = {accounts}\npermissions = {permissions}\npublic_key = [{pems}]\n"


@pytest.fixture(scope="module")
def edwards() -> Signer:
    return ed25519()


@pytest.fixture(scope="module")
def nist() -> Signer:
    return p256()


@pytest.fixture
async def house(tmp_path: Path, edwards: Signer, nist: Signer) -> AsyncIterator[House]:
    """`reporting` signs with Ed25519, `billing` with P-256; one account is connected."""
    extra = table("reporting", edwards) + table("billing", nist, accounts='["other"]')
    async with open_house(tmp_path / "house", extra=extra) as house:
        await house.connect()
        yield house


def token(house: House, signer: Signer, name: str, **changes: object) -> str:
    return signer.sign(own_claims(name, house.clock.now(), **changes))


async def test_caller_signs_its_own_jwt(house: House, edwards: Signer) -> None:
    """And is let in where its globs reach."""
    answer = await house.get("/token/acme", key=token(house, edwards, "reporting"))

    assert (200, "acme") == (answer.status, answer.json["account"])


async def test_rights_are_those_of_the_file(house: House, nist: Signer) -> None:
    """Another account is refused, its own may be missing, another permission is not held."""
    key = token(house, nist, "billing")

    statuses = [
        (await house.get(path, key=key)).status for path in ("/token/acme", "/token/other", "/accounts")
    ]

    assert [403, 404, 403] == statuses


async def test_nobody_signs_for_another(house: House, edwards: Signer, nist: Signer) -> None:
    """`iss` and `sub` are one's own name, and the key is one's own."""
    wrong = [
        token(house, edwards, "billing"),
        token(house, nist, "reporting"),
        token(house, edwards, "reporting", sub="billing"),
        token(house, edwards, "reporting", iss="billing"),
        token(house, edwards, "nobody"),
    ]

    assert [401] * 5 == [(await house.get("/token/acme", key=key)).status for key in wrong]


async def test_audience_is_ours(house: House, edwards: Signer) -> None:
    """Alone, or in a list."""
    asked = ["token-broker", ["x", "token-broker"], "other", ["x"], [], ""]

    statuses = [
        (await house.get("/token/acme", key=token(house, edwards, "reporting", aud=aud))).status
        for aud in asked
    ]

    assert [200, 200, 401, 401, 401, 401] == statuses


async def test_jwt_works_until_it_expires(house: House, edwards: Signer) -> None:
    """Also where it was just used: with ten seconds of leeway, and none after."""
    key = token(house, edwards, "reporting")
    before = (await house.get("/token/acme", key=key)).status
    house.clock.advance(309)
    at_last = (await house.get("/token/acme", key=key)).status
    house.clock.advance(1)

    assert (200, 200, 401) == (before, at_last, (await house.get("/token/acme", key=key)).status)


async def test_reload_takes_a_caller_out_at_once(house: House, edwards: Signer, nist: Signer) -> None:
    """Its remembered JWT too; who stays is not disturbed, and new rights count."""
    out, stays = token(house, edwards, "reporting"), token(house, nist, "billing")
    before = [(await house.get("/token/acme", key=key)).status for key in (out, stays)]
    house.extra = table("billing", nist, accounts='["acme"]')
    house.write_config()

    house.broker.use(house.settings)

    after = [(await house.get("/token/acme", key=key)).status for key in (out, stays)]
    assert ([200, 403], [401, 200]) == (before, after)


async def test_key_is_rotated_without_a_gap(house: House, edwards: Signer) -> None:
    """Two keys overlap, of different kinds too; the one that is taken away stops at once."""
    new = p256()
    old_jwt, new_jwt = token(house, edwards, "reporting"), token(house, new, "reporting")
    seen = []

    for keys in ([edwards], [edwards, new], [new]):
        house.extra = table("reporting", *keys)
        house.write_config()
        house.broker.use(house.settings)
        seen.append([(await house.get("/token/acme", key=key)).status for key in (old_jwt, new_jwt)])

    assert [[200, 401], [200, 200], [401, 200]] == seen


async def test_audit_names_the_caller_and_its_key(house: House, edwards: Signer) -> None:
    """And holds nothing of the JWT."""
    key = token(house, edwards, "reporting")

    await house.get("/token/acme", key=key)

    audit = (house.folder / "var" / "audit.jsonl").read_text()
    assert '"caller":"reporting","credential":"jwt of key ' in audit
    assert not any(part in audit for part in key.split("."))


class Nowhere(ProviderClient):
    """A network without issuers."""

    def __init__(self) -> None:
        """Open no session."""

    async def get(self, url: str, **_: object) -> Reply:
        return NotSent("no connection")


def authenticator(signer: Signer, clock: FakeClock, limit: int) -> JwtAuthenticator:
    key = PublicKey(signer.public_pem, "EdDSA")
    caller = CallerSettings("reporting", ("*",), frozenset({Permission.TOKEN}), OwnJwt((key,)))
    configured = ConfiguredCallers({"reporting": caller}, audience="token-broker")
    return JwtAuthenticator(
        configured=configured, jwks=JwksCache(http=Nowhere(), clock=clock), clock=clock, limit=limit
    )


async def test_what_is_remembered_is_bounded(edwards: Signer) -> None:
    """The last used stay; what failed is not remembered at all."""
    clock = FakeClock()
    jwts = authenticator(edwards, clock, limit=3)
    good = [edwards.sign(own_claims("reporting", clock.now(), jti=number)) for number in range(5)]

    callers = [await jwts.authenticate(Secret(one)) for one in (*good, good[0])]
    with pytest.raises(Unauthenticated):
        await jwts.authenticate(Secret(good[0][:-6] + "AAAAAA"))

    assert ({"reporting"}, 3) == ({caller.name for caller in callers if caller}, len(jwts))


async def test_other_credentials_are_left_to_others(edwards: Signer) -> None:
    """Two dots make a JWT."""
    jwts = authenticator(edwards, FakeClock(), limit=3)

    assert [None, None] == [await jwts.authenticate(Secret(text)) for text in ("tbk_x", "a.b")]
