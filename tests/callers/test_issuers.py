"""JWTs of an issuer, against the whole broker: a cluster's service account, any OIDC issuer."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.callers.signing import Signer, ed25519, p256, rsa
from tests.fakes.issuer import NAME, Issuer, open_issuer
from tests.house import House, open_house

SUBJECT = "system:serviceaccount:billing:worker"
SIGNERS = {"EdDSA": ed25519("ed"), "ES256": p256("ec"), "RS256": rsa("rsa")}


@dataclass(frozen=True, slots=True)
class Place:
    """A house, and the issuer that it believes."""

    house: House
    issuer: Issuer

    def jwt(self, signer: Signer, **changes: object) -> str:
        now = int(self.house.clock.now())
        claims = {"iss": NAME, "sub": SUBJECT, "aud": ["token-broker"], "iat": now, "exp": now + 3600}
        return signer.sign({**claims, **changes}, {"kid": signer.kid, "typ": "JWT"})

    async def status(self, jwt: str) -> int:
        return (await self.house.get("/token/acme", key=jwt)).status


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_issuer(*SIGNERS.values()) as issuer:
        extra = f"""
[callers.worker]
accounts = ["acme"]
issuer = "{NAME}"
jwks_url = "{issuer.url}"
subject = "{SUBJECT}"
[callers.other]
accounts = ["*"]
issuer = "{NAME}"
jwks_url = "{issuer.url}"
subject = "other"
audience = "elsewhere"
"""
        async with open_house(tmp_path / "house", extra=extra) as house:
            await house.connect()
            yield Place(house, issuer)


@pytest.mark.parametrize("algorithm", SIGNERS)
async def test_issuers_sign_in_three_ways(place: Place, algorithm: str) -> None:
    """RS256, ES256, EdDSA; the keys are fetched once."""
    jwts = [place.jwt(SIGNERS[algorithm], jti=number) for number in range(3)]

    assert ([200, 200, 200], 1) == ([await place.status(jwt) for jwt in jwts], place.issuer.fetches)


async def test_subject_audience_and_life_are_as_configured(place: Place) -> None:
    """A caller may want an audience of its own."""
    signer, now = SIGNERS["EdDSA"], int(place.house.clock.now())
    tried = {
        "own audience": place.jwt(signer, sub="other", aud="elsewhere"),
        "a day": place.jwt(signer, exp=now + 86400),
        "the usual audience": place.jwt(signer, sub="other"),
        "another subject": place.jwt(signer, sub=SUBJECT + "x"),
        "another issuer": place.jwt(signer, iss=NAME + "/"),
        "more than a day": place.jwt(signer, exp=now + 86401),
    }

    statuses = {what: await place.status(jwt) for what, jwt in tried.items()}

    assert {"own audience", "a day"} == {what for what, status in statuses.items() if status == 200}
    assert {200, 401} == set(statuses.values())


async def test_key_that_is_withdrawn_stops_working(place: Place) -> None:
    """Once the set's ten minutes are over, though its JWT was just used; who has a key that stays goes on."""
    gone, stays = place.jwt(SIGNERS["EdDSA"]), place.jwt(SIGNERS["ES256"])
    before = [await place.status(jwt) for jwt in (gone, stays)]
    place.issuer.keys = [SIGNERS["ES256"]]
    place.house.clock.advance(600)

    assert ([200, 200], [401, 200]) == (before, [await place.status(jwt) for jwt in (gone, stays)])


async def test_new_key_is_known_at_its_first_jwt(place: Place) -> None:
    """Without waiting for the ten minutes."""
    new = ed25519("new")
    await place.status(place.jwt(SIGNERS["EdDSA"]))
    place.issuer.keys = [new]
    place.house.clock.advance(31)

    assert (200, 2) == (await place.status(place.jwt(new)), place.issuer.fetches)


async def test_issuers_outage_does_not_reach_callers(place: Place) -> None:
    """New JWTs are verified with the old set; not after a day."""
    first = await place.status(place.jwt(SIGNERS["RS256"]))
    place.issuer.status = 503
    place.house.clock.advance(86_000)
    during = await place.status(place.jwt(SIGNERS["RS256"]))
    place.house.clock.advance(400)

    assert (200, 200, 401) == (first, during, await place.status(place.jwt(SIGNERS["RS256"])))


async def test_right_kid_with_another_key_is_refused(place: Place) -> None:
    """The name of a key is no key."""
    impostor = ed25519("ed")

    assert (401, 401) == (
        await place.status(place.jwt(impostor)),
        await place.status(place.jwt(replace(SIGNERS["ES256"], kid="ed"))),
    )


async def test_reload_takes_the_subject_out_at_once(place: Place) -> None:
    """Also where its JWT is remembered and the issuer stays."""
    jwt = place.jwt(SIGNERS["EdDSA"])
    before = await place.status(jwt)
    place.house.extra = place.house.extra.replace(SUBJECT, "somebody:else")
    place.house.write_config()

    place.house.broker.use(place.house.settings)

    assert (200, 401) == (before, await place.status(jwt))
