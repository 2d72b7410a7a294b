"""Keys: shown once, hashed, two at a time, expiring, gone within a second."""

import re

import pytest

from broker.callers.authentication import NO_KEY, WHAT_TO_DO
from broker.errors import Conflict, InvalidRequest, NotFound
from broker.http.bodies import rfc3339
from broker.model import Permission
from tests.house import OPERATOR, House

NOT_VALID = "No valid credential"


async def test_key_is_nowhere_in_the_store(house: House) -> None:
    """Only its hash is."""
    key = await house.caller("*", name="other")

    stored = str(await house.broker.context.stores.callers.callers())

    assert key.startswith("tbk_")
    assert key not in stored
    assert key.split("_", 2)[2] not in stored


async def test_removed_caller_is_out_at_once(house: House) -> None:
    """Also where its key was just used."""
    await house.connect()
    key = await house.caller("*", name="other")
    before = await house.get("/token/acme", key=key)

    await house.broker.callers.service.remove(OPERATOR, "other", request_id="t")
    after = await house.get("/token/acme", key=key)

    assert (200, 401) == (before.status, after.status)
    assert "Bearer" == after.headers["WWW-Authenticate"]


async def test_key_removed_by_another_process_stops_within_a_second(house: House) -> None:
    """What is remembered is looked up again."""
    await house.connect()
    key = await house.caller("*", name="other")
    await house.get("/token/acme", key=key)

    await house.broker.context.stores.callers.remove_caller("other")
    house.clock.advance(1)

    assert 401 == (await house.get("/token/acme", key=key)).status


async def test_rotation_overlaps_for_a_day(house: House) -> None:
    """The old key works 24 hours longer; a third ends the first at once."""
    await house.connect()
    service = house.broker.callers.service
    first = await house.caller("*", name="other")
    second = (await service.rotate(OPERATOR, "other", request_id="t"))[1].reveal()
    both = [(await house.get("/token/acme", key=key)).status for key in (first, second)]
    house.clock.advance(86400 - 10)
    still = (await house.get("/token/acme", key=first)).status
    house.clock.advance(20)
    over = [(await house.get("/token/acme", key=key)).status for key in (first, second)]

    assert ([200, 200], 200, [401, 200]) == (both, still, over)


async def test_key_expires(house: House) -> None:
    """When it was told to."""
    await house.connect()
    _, key = await house.broker.callers.service.add(
        OPERATOR, name="short", accounts=["*"], permissions=[], expires_in=60, request_id="t"
    )

    before = await house.get("/token/acme", key=key.reveal())
    house.clock.advance(61)
    after = await house.get("/token/acme", key=key.reveal())

    assert (200, 401) == (before.status, after.status)


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, NO_KEY),
        ({"Authorization": "Bearer"}, NO_KEY),
        ({"Authorization": "Bearer  "}, NO_KEY),
        ({"Authorization": ""}, NO_KEY),
        ({"Authorization": "Bearer tbk_x"}, NOT_VALID),
        ({"Authorization": "Bearer tbk_000000000000_" + "a" * 43}, NOT_VALID),
        ({"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}, NOT_VALID),
        ({"Authorization": "Bearer " + "a" * 5000}, NOT_VALID),
    ],
)
async def test_no_valid_credential_is_401(house: House, headers: dict[str, str], detail: str) -> None:
    """The same answer for every key that is none; where no key was sent, where one comes from."""
    async with house.session.get(house.internal + "/token/acme", headers=headers) as answer:
        body = await answer.json()

    assert (401, "unauthenticated", detail) == (answer.status, body["code"], body["detail"])


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Basic eDpzM2NyZXQ=", "The scheme Basic is not taken here."),
        ("Token s3cret", "The scheme Token is not taken here."),
        ("Digest username=s3cret, realm=x", "The scheme Digest is not taken here."),
        ("s3cret", "The Authorization header does not begin with the word Bearer and a blank."),
        ("s3cret and more", "The Authorization header does not begin with the word Bearer and a blank."),
        ("Bearer: s3cret", "The Authorization header does not begin with the word Bearer and a blank."),
        ("Bearer Bearer s3cret", "The word Bearer is there twice."),
        ("BEARER BeareR s3cret", "The word Bearer is there twice."),
        ("Bearer None", "The word None was sent, and no key; is BROKER_KEY set?"),
        ("Bearer null", "The word null was sent, and no key; is BROKER_KEY set?"),
        ("BEARER undefined", "The word undefined was sent, and no key; is BROKER_KEY set?"),
        ("Bearer NaN", "The word NaN was sent, and no key; is BROKER_KEY set?"),
        ("Bearer $BROKER_KEY", "The name of a variable or of a place for the key was sent"),
        ("Bearer ${S3CRET}", "The name of a variable or of a place for the key was sent"),
        ("Bearer $(cat s3cret)", "The name of a variable or of a place for the key was sent"),
        ("Bearer {{ s3cret }}", "The name of a variable or of a place for the key was sent"),
        ("Bearer %S3CRET%", "The name of a variable or of a place for the key was sent"),
        ("Bearer <key>", "The name of a variable or of a place for the key was sent"),
        ("Bearer KEY", "The name of a variable or of a place for the key was sent"),
        ("Bearer tbk_...", "The name of a variable or of a place for the key was sent"),
        ('Bearer "s3cret"', "There are quotes around the key that was sent; leave them out."),
        ("Bearer 's3cret", "There are quotes around the key that was sent; leave them out."),
    ],
)
async def test_what_was_sent_instead_of_a_key_is_told(house: House, header: str, said: str) -> None:
    """And what to do. Nothing that may be the key is quoted."""
    answer = await house.ask("GET", "/token/acme", headers={"Authorization": header})

    detail = answer.json["detail"]
    assert (401, "unauthenticated") == (answer.status, answer.json["code"])
    assert detail.startswith(said)
    assert detail.endswith(WHAT_TO_DO)
    assert "s3cret" not in detail.lower()
    assert "eDp" not in detail


async def test_every_route_but_the_marked_needs_a_caller(house: House) -> None:
    """A walk over every route of the internal listener; the dashboard has a login of its own."""
    open_routes = {"/healthz", "/readyz", "/openapi.json", "/docs"}
    own_login = re.compile(r"/(dashboard/.*)?")
    statuses = {}
    for route in house.broker.listeners.internal.router.routes():
        if route.resource is not None:
            path = re.sub(r"\{\w+\}", "acme", route.resource.canonical)
            method = route.method.replace("*", "PATCH")
            # Slowly enough that nobody is taken for somebody who tries keys.
            house.clock.advance(5.0)
            async with house.session.request(method, house.internal + path) as answer:
                statuses[method, path] = answer.status

    assert {200} == {status for (_, path), status in statuses.items() if path in open_routes}
    dashboard = {key: status for key, status in statuses.items() if own_login.fullmatch(key[1])}
    static = {key for key in statuses if key[1].startswith("/static/")}
    rest = set(statuses) - set(dashboard) - static - {key for key in statuses if key[1] in open_routes}
    assert {401} == {statuses[key] for key in rest}
    assert {403} == set(dashboard.values())


@pytest.mark.parametrize(
    ("name", "accounts", "permissions"),
    [("BAD", ["*"], []), ("x" * 65, ["*"], []), ("ok", [], []), ("ok", ["a b"], []), ("ok", ["*"], ["root"])],
)
async def test_malformed_caller_is_told(
    house: House, name: str, accounts: list[str], permissions: list[str]
) -> None:
    """Names, globs and permissions have their form."""
    with pytest.raises(InvalidRequest):
        await house.broker.callers.service.add(
            OPERATOR, name=name, accounts=accounts, permissions=permissions, expires_in=None, request_id="t"
        )


async def test_life_of_a_key_has_its_bounds(house: House) -> None:
    """No life at all is not for ever."""
    for life in (0, 0.5, -1, 3660 * 86400 + 1, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="a number of seconds"):
            await house.broker.callers.service.add(
                OPERATOR, name="ok", accounts=["*"], permissions=[], expires_in=life, request_id="t"
            )

    assert ["service"] == [one.name for one in await house.broker.context.stores.callers.callers()]


async def test_third_key_waits_until_the_first_has_ended(house: House) -> None:
    """Somebody may still use the first; only `now` ends it, and that at once."""
    await house.connect()
    service = house.broker.callers.service
    first = await house.caller("*", name="other")
    house.clock.advance(1)
    await service.rotate(OPERATOR, "other", request_id="t")
    ends_at = rfc3339(house.clock.now() + 86400)

    with pytest.raises(
        Conflict, match=rf"{first.split('_')[1]}, ends at {ends_at}.*broker callers rotate other --now"
    ):
        await service.rotate(OPERATOR, "other", request_id="t")
    still = (await house.get("/token/acme", key=first)).status
    await service.rotate(OPERATOR, "other", now=True, request_id="t")
    over = (await house.get("/token/acme", key=first)).status
    house.clock.advance(86400 + 1)
    await service.rotate(OPERATOR, "other", request_id="t")

    assert (200, 401) == (still, over)


async def test_last_use_is_shown(house: House) -> None:
    """Of the key that was used, and of no other."""
    service = house.broker.callers.service
    first = await house.caller("*", name="other")
    await service.rotate(OPERATOR, "other", request_id="t")
    house.clock.advance(5)
    await house.get("/token/acme", key=first)

    [other, _] = await service.callers(OPERATOR, request_id="t")

    assert {house.clock.now(), None} == {key.last_used_at for key in other.keys}


async def test_names_are_taken_once(house: House) -> None:
    """A second of that name, and one that is not there, are told apart."""
    with pytest.raises(Conflict):
        await house.caller("*", name="service")
    with pytest.raises(NotFound):
        await house.broker.callers.service.rotate(OPERATOR, "nobody", request_id="t")
    [record] = await house.broker.callers.service.callers(OPERATOR, request_id="t")
    assert Permission.TOKEN in record.permissions
