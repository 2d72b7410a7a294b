"""Codes become tokens, tokens become tokens, in every shape that a client may send."""

import asyncio
from typing import Any

import pytest

from tests.plugin.driving import (
    APPS,
    CHALLENGE,
    INSTALL,
    KIT,
    NEW_SECRET,
    OTHER,
    SECRET,
    VERIFIER,
    Person,
    Stand,
    basic,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
MEMBERS = ["access_token", "token_type", "expires_in", "refresh_token", "created_at", "scope"]


async def test_answer_has_all_that_kit_needs(stand: Stand) -> None:
    """The six members, integers as integers, for two days."""
    answer = await stand.client.redeem(await stand.person.code())

    found = answer.json
    assert MEMBERS == list(found)
    assert (172800, int(stand.house.clock.now())) == (found["expires_in"], found["created_at"])
    assert ("Bearer", "") == (found["token_type"], found["scope"])
    assert found["access_token"].startswith("tbp_") and len(found["access_token"]) == 47
    assert {"no-store"} == {answer.headers["Cache-Control"]}
    assert "application/json" == answer.headers["Content-Type"]


@pytest.mark.parametrize("path", ["/plugin/token", "/plugin/refresh"])
@pytest.mark.parametrize("body", ["json", "form"])
@pytest.mark.parametrize("content_type", ["json", "form"])
async def test_both_grants_at_both_addresses_in_every_dress(
    stand: Stand, path: str, body: str, content_type: str
) -> None:
    """The body decides what it is, whatever the content type says."""
    code = await stand.person.code()
    asked = {**KIT, "grant_type": "authorization_code", "code": code, "redirect_uri": APPS}

    first = await stand.client.post(path, asked, body=body, content_type=content_type)
    renewal = {
        "client_id": "kit-client",
        "grant_type": "refresh_token",
        "refresh_token": first.json["refresh_token"],
    }
    second = await stand.client.post(path, renewal, body=body, content_type=content_type)

    assert (200, MEMBERS) == (second.status, list(second.json))
    assert await stand.client.is_active(second.json["access_token"])


@pytest.mark.parametrize("secret", [SECRET, NEW_SECRET])
@pytest.mark.parametrize("way", ["basic", "post"])
async def test_secret_in_the_header_or_the_body(stand: Stand, way: str, secret: str) -> None:
    """Either way, percent-encoded in the header, and with either secret while one replaces the other."""
    asked = {"grant_type": "authorization_code", "code": await stand.person.code(), "redirect_uri": APPS}
    named = {} if way == "basic" else {"client_id": "kit-client", "client_secret": secret}
    headers = basic("kit-client", secret) if way == "basic" else {}

    answer = await stand.client.post("/plugin/token", {**asked, **named}, body="form", headers=headers)

    assert 200 == answer.status


@pytest.mark.parametrize("redirect_uri", [INSTALL, APPS])
async def test_kit_may_redeem_with_any_address_of_its_own(stand: Stand, redirect_uri: str) -> None:
    """Its documents ask with one and redeem with the other."""
    code = await stand.person.code(redirect_uri=INSTALL)

    assert 200 == (await stand.client.redeem(code, redirect_uri=redirect_uri)).status


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"redirect_uri": "https://app.kit.com/apps/"}, "invalid_grant"),
        ({"redirect_uri": None}, "invalid_grant"),
        ({"code": None}, "invalid_request"),
        ({"code": "wrong"}, "invalid_grant"),
        ({"grant_type": None}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
        ({"code_verifier": VERIFIER}, "invalid_grant"),
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"client_secret": None}, "invalid_client"),
        ({"client_id": "nobody"}, "invalid_client"),
        ({"client_id": None}, "invalid_client"),
        ({"code": 5}, "invalid_request"),
        ({"code": ["a"]}, "invalid_request"),
        ({"code": "a\nb"}, "invalid_request"),
        ({"code": "\ud800"}, "invalid_request"),
    ],
)
async def test_what_is_wrong_is_told_and_spends_nothing(
    stand: Stand, changes: dict[str, Any], error: str
) -> None:
    """The code is good afterwards, for whoever asks rightly."""
    code = await stand.person.code()

    wrong = await stand.client.redeem(**{"code": code, **changes})
    right = await stand.client.redeem(code)

    assert (error, 200) == (wrong.json["error"], right.status)
    assert (401 if error == "invalid_client" else 400) == wrong.status


async def test_code_lives_a_minute(stand: Stand) -> None:
    """Not longer."""
    young, old = await stand.person.code(), await stand.person.code()
    stand.house.clock.advance(59)
    in_time = await stand.client.redeem(young)
    stand.house.clock.advance(1)

    late = await stand.client.redeem(old)

    assert (200, "invalid_grant") == (in_time.status, late.json["error"])


async def test_code_is_good_once_also_in_a_crowd(stand: Stand) -> None:
    """Twenty at once: at most one gets tokens, and the others' tries end them."""
    code = await stand.person.code("crowd")

    answers = await asyncio.gather(*[stand.client.redeem(code) for _ in range(20)])

    good = [answer for answer in answers if answer.status == 200]
    assert 1 == len(good)
    assert not await stand.client.is_active(good[0].json["access_token"])


async def test_code_of_another_client_is_worth_nothing(stand: Stand) -> None:
    """And is not spent by that."""
    code = await stand.person.code()

    stolen = await stand.client.redeem(code, **OTHER, redirect_uri="https://app.example.com/scoped?keep=1")

    assert "invalid_grant" == stolen.json["error"]
    assert 200 == (await stand.client.redeem(code)).status


async def test_pkce_is_held_to(stand: Stand) -> None:
    """A challenge wants its verifier: none, another or a malformed one gets nothing."""
    code = await stand.person.code(code_challenge=CHALLENGE, code_challenge_method="S256")

    none = await stand.client.redeem(code)
    other = await stand.client.redeem(code, code_verifier="w" * 43)
    short = await stand.client.redeem(code, code_verifier="v")
    right = await stand.client.redeem(code, code_verifier=VERIFIER)

    assert ["invalid_grant"] * 3 == [answer.json["error"] for answer in (none, other, short)]
    assert 200 == right.status


async def test_lost_answer_is_given_again(stand: Stand) -> None:
    """The same pair, while nobody has used it; what is left of its life is less."""
    old = (await stand.tokens())["refresh_token"]
    first = (await stand.client.renew(old)).json
    stand.house.clock.advance(59)

    again = (await stand.client.renew(old)).json

    tokens = ("access_token", "refresh_token", "created_at", "scope")
    assert [first[name] for name in tokens] == [again[name] for name in tokens]
    assert first["expires_in"] - 59 == again["expires_in"]
    assert await stand.client.is_active(again["access_token"])


async def test_crowd_of_renewals_gets_one_pair(stand: Stand) -> None:
    """Workers that renew at once do not end each other's grant."""
    old = (await stand.tokens())["refresh_token"]

    answers = await asyncio.gather(*[stand.client.renew(old) for _ in range(20)])

    assert {200} == {answer.status for answer in answers}
    assert 1 == len({answer.json["access_token"] for answer in answers})


async def test_reuse_after_a_minute_ends_the_grant(stand: Stand) -> None:
    """Whoever holds the old token may have stolen it."""
    old = (await stand.tokens("robbed"))["refresh_token"]
    new = (await stand.client.renew(old)).json
    stand.house.clock.advance(60)

    reused = await stand.client.renew(old)

    assert (400, "invalid_grant") == (reused.status, reused.json["error"])
    assert not await stand.client.is_active(new["access_token"])
    assert "invalid_grant" == (await stand.client.renew(new["refresh_token"])).json["error"]
    assert ("plugin_disconnected", "robbed", "token_replayed") == (await stand.events())[-1]


@pytest.mark.parametrize("used", ["access", "refresh"])
async def test_reuse_after_the_successor_was_used_ends_the_grant(stand: Stand, used: str) -> None:
    """The answer was not lost; ten seconds are left for a worker that was a little late."""
    old = (await stand.tokens())["refresh_token"]
    new = (await stand.client.renew(old)).json
    if used == "access":
        await stand.client.is_active(new["access_token"])
    else:
        await stand.client.renew(new["refresh_token"])
    stand.house.clock.advance(9)
    late = await stand.client.renew(old)
    stand.house.clock.advance(1)

    reused = await stand.client.renew(old)

    assert (200, 400) == (late.status, reused.status)
    assert not await stand.client.is_active(new["access_token"])


async def test_renewal_keeps_the_old_access_token_alive(stand: Stand) -> None:
    """What is in flight with it does not fail."""
    first = await stand.tokens()

    second = (await stand.client.renew(first["refresh_token"])).json

    assert await stand.client.is_active(first["access_token"])
    assert await stand.client.is_active(second["access_token"])


async def test_client_that_must_prove_itself_must_at_renewal_too(stand: Stand) -> None:
    """Going without a secret is a client's own setting, and a wrong secret is wrong for every client."""
    code = await stand.person.code(client_id="other:client", redirect_uri=None, scope=None)
    token = (await stand.client.redeem(code, **OTHER, redirect_uri=None)).json["refresh_token"]
    kits = (await stand.tokens())["refresh_token"]

    without = await stand.client.renew(token, client_id="other:client")
    wrong = await stand.client.renew(kits, client_secret="wrong")
    right = await stand.client.renew(token, **OTHER)
    foreign = await stand.client.renew(kits, **OTHER)

    assert ["invalid_client", "invalid_client"] == [without.json["error"], wrong.json["error"]]
    assert (200, "invalid_grant") == (right.status, foreign.json["error"])
    assert 200 == (await stand.client.renew(kits)).status


async def test_scopes_can_shrink_and_never_grow(stand: Stand) -> None:
    """Of the access token; the refresh token keeps what was granted."""
    code = await stand.person.code(
        client_id="other:client", redirect_uri=None, scope="write:products,read:products"
    )
    first = (await stand.client.redeem(code, **OTHER, redirect_uri=None)).json

    less = (await stand.client.renew(first["refresh_token"], **OTHER, scope="read:products")).json
    more = await stand.client.renew(less["refresh_token"], **OTHER, scope="read:products admin")
    whole = (await stand.client.renew(less["refresh_token"], **OTHER)).json

    assert "read:products" == (await stand.client.introspect(less["access_token"]))["scope"]
    assert "invalid_scope" == more.json["error"]
    assert "read:products write:products" == first["scope"] == whole["scope"]


async def test_tokens_end_in_time(stand: Stand) -> None:
    """The access token after two days, the refresh token after a year of idleness."""
    first = await stand.tokens()
    stand.house.clock.advance(172800)
    dead = await stand.client.is_active(first["access_token"])
    second = (await stand.client.renew(first["refresh_token"])).json
    stand.house.clock.advance(365 * 86400)

    late = await stand.client.renew(second["refresh_token"])

    assert (False, "invalid_grant") == (dead, late.json["error"])


async def test_grants_survive_a_restart_with_a_lost_answer(stand: Stand) -> None:
    """Everything is in the store."""
    old = (await stand.tokens())["refresh_token"]
    first = (await stand.client.renew(old)).json

    await stand.house.restart()

    assert first["refresh_token"] == (await stand.client.renew(old)).json["refresh_token"]


async def test_another_persons_tokens_are_untouched_by_a_replay(stand: Stand) -> None:
    """What ends is one grant."""
    mine, theirs = await stand.tokens("mine"), await stand.tokens("theirs")
    await stand.client.renew(mine["refresh_token"])
    stand.house.clock.advance(61)

    await stand.client.renew(mine["refresh_token"])

    assert await stand.client.is_active(theirs["access_token"])


async def test_code_is_worth_nothing_to_who_was_denied(stand: Stand) -> None:
    """A no issues none."""
    person = Person(stand.house)
    step = await person.decide(await person.question(), "deny")
    await person.close()

    assert "code" not in step.told
    assert "access_denied" == step.told["error"]
