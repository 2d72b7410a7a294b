"""`POST /accounts`: durable first, then proved by one renewal; an existing name is refused before anything is sent."""

import asyncio
from typing import Any

from tests.foreign import issued_elsewhere, line
from tests.house import Answer, House


async def imported(house: House, name: str = "acme", **members: object) -> Answer:
    [pair] = issued_elsewhere(house, 1)
    return await house.post("/accounts", line(name, pair, **members))


async def test_imported_grant_is_proved_by_one_renewal(house: House) -> None:
    """The answer is the account with a token of ours, and the provider was asked once."""
    answer = await imported(house)
    shown = await house.get("/accounts/acme")
    token = await house.get("/token/acme")

    assert (201, "active", 2) == (answer.status, answer.json["status"], answer.json["generation"])
    assert shown.json == answer.json
    assert 200 == token.status
    assert 1 == await house.refreshes()


async def test_without_verification_nothing_is_sent(house: House) -> None:
    """The access token that came with it is handed out for as long as it was said to live."""
    [pair] = issued_elsewhere(house, 1)
    grant = line("acme", pair, access_token=pair.access.value, expires_in=7200, verify=False)

    answer = await house.post("/accounts", grant)
    token = (await house.get("/token/acme")).json

    assert (201, 1) == (answer.status, answer.json["generation"])
    assert (pair.access.value, 7200 - 900) == (token["access_token"], token["expires_in"])
    assert 0 == await house.refreshes()


async def test_unverified_grant_is_renewed_by_its_first_caller(house: House) -> None:
    """There is no access token yet, so somebody waits once."""
    await imported(house, verify=False)
    before = await house.refreshes()

    token = await house.get("/token/acme")

    assert (0, 200, 1) == (before, token.status, await house.refreshes())


async def test_dead_grant_is_kept_with_its_status(house: House) -> None:
    """The refusal is confirmed while the caller waits, and the answer says why."""
    grant = {"name": "acme", "provider": "kit", "refresh_token": "sbx-kit-rt-never-issued"}

    asking = asyncio.create_task(house.post("/accounts", grant))
    while not asking.done():
        await house.clock.settle()
        house.clock.advance(1)
    answer = await asking

    assert (201, "needs_reauthorization") == (answer.status, answer.json["status"])
    assert "revoked or has expired" in answer.json["warning"]
    assert 2 == await house.refreshes()


async def test_provider_that_is_away_leaves_the_grant_stored(house: House) -> None:
    """Nothing is lost: it is renewed later, by a caller or by the next import of the same."""
    house.sandbox.faults.set("kit", status=503, headers={"Retry-After": "20"}, times=1)

    answer = await imported(house)
    house.clock.advance(21)
    token = await house.get("/token/acme")

    assert (201, 1) == (answer.status, answer.json["generation"])
    assert "Not renewed: The provider asked the broker to pause." == answer.json["warning"]
    assert 200 == token.status


async def test_existing_name_is_refused_before_anything_is_sent(house: House) -> None:
    """Another grant under a name that is there: 409, and neither the store nor the provider hears of it."""
    account = await house.connect()

    answer = await imported(house)

    assert (409, "conflict", False) == (answer.status, answer.json["code"], answer.json["same_grant"])
    assert account == await house.account()
    assert 0 == await house.refreshes()


async def test_same_grant_again_is_told_as_such(house: House) -> None:
    """So an import can go on: also after the token in its file was replaced by a renewal."""
    [pair] = issued_elsewhere(house, 1)
    grant = line("acme", pair)

    await house.post("/accounts", grant | {"verify": False})
    stored = await house.post("/accounts", grant)
    await house.get("/token/acme")
    renewed = await house.post("/accounts", grant)

    told = [(one.status, one.json["same_grant"], one.json["proved"]) for one in (stored, renewed)]
    assert [(409, True, False), (409, True, True)] == told
    assert 1 == await house.refreshes()


async def test_one_grant_is_never_two_accounts(house: House) -> None:
    """Two accounts would renew one grant and kill it; the holder is named to those who may see it."""
    [pair] = issued_elsewhere(house, 1)
    await house.post("/accounts", line("acme", pair))
    stranger = await house.caller("other-*", permissions=("manage",), name="stranger")

    known = await house.post("/accounts", line("other-name", pair))
    unknown = await house.post("/accounts", line("other-name", pair), key=stranger)

    assert [409, 409] == [known.status, unknown.status]
    assert "as acme" in known.json["detail"]
    assert "acme" not in unknown.body.decode()
    assert 1 == await house.refreshes()


async def test_crowd_that_imports_one_name_leaves_one_account(house: House) -> None:
    """One is created, the others meet it; the grant is renewed once."""
    [pair] = issued_elsewhere(house, 1)

    answers = await asyncio.gather(*(house.post("/accounts", line("acme", pair)) for _ in range(10)))

    assert [201, *[409] * 9] == sorted(answer.status for answer in answers)
    assert 1 == await house.refreshes()


async def test_generation_goes_on_over_removal(house: House) -> None:
    """A removed name may be imported again, and its generation never goes back."""
    await house.connect()
    await house.ask("DELETE", "/accounts/acme?purge=1")
    first = await imported(house)
    await house.ask("DELETE", "/accounts/acme")

    second = await imported(house)

    assert (201, 3) == (first.status, first.json["generation"])
    assert (201, 5) == (second.status, second.json["generation"])


async def test_import_follows_a_rename(house: House) -> None:
    """What the account was imported with is known under its new name, and forgotten with it."""
    [pair] = issued_elsewhere(house, 1)
    await house.post("/accounts", line("acme", pair))
    await house.ask("PATCH", "/accounts/acme", json={"name": "zenith"})

    renamed = await house.post("/accounts", line("zenith", pair))
    await house.ask("DELETE", "/accounts/zenith?purge=1")
    imports = house.broker.context.stores.imports

    assert (409, True) == (renamed.status, renamed.json["same_grant"])
    assert None is await imports.record("zenith")
    assert None is await imports.record("acme")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "name is missing"),
    ({"name": "acme", "provider": "kit"}, "refresh_token is missing"),
    ({"name": "Acme", "provider": "kit", "refresh_token": "r"}, "lower-case"),
    ({"name": "acme", "provider": "nobody", "refresh_token": "r"}, "there are: far, kit, kustomer, org"),
    ({"name": "acme", "provider": "kit", "refresh_token": " "}, "refresh_token is missing"),
    ({"name": "acme", "provider": "kit", "refresh_token": "sbx-kit-r", "expires_in": 5}, "access_token"),
    (
        {
            "name": "acme",
            "provider": "kit",
            "refresh_token": "sbx-kit-r",
            "access_token": "a",
            "expires_in": 0,
        },
        "seconds that access_token has left",
    ),
    ({"name": "acme", "provider": "kit", "refresh_token": "sbx-kit-r", "access_token": "é"}, "header"),
    ({"name": "acme", "provider": "kit", "refresh_token": "of-the-real-kit"}, "where [sandbox] is off"),
    ({"name": "acme", "provider": "far", "refresh_token": "sbx-kit-rt-x"}, "far is none"),
    ({"name": "acme", "provider": "org", "refresh_token": "r"}, "organisation"),
    ({"name": "acme", "provider": "org", "refresh_token": "r", "org": "a/b"}, "host label"),
    ({"name": "acme", "provider": "kit", "refresh_token": "r", "verify": "no"}, "verify"),
    ({"name": "acme", "provider": "kit", "refresh_token": "r", "label": "x"}, "unknown member"),
    ({"name": "acme", "provider": "kit", "refresh_token": "r" * 8193}, "refresh_token"),
]


OTHERS = """
[providers.far]
type = "oauth2"
client_id = "c"
client_secret = "s"
authorize_url = "https://id.example.com/a"
token_url = "https://id.example.com/t"
[providers.org]
type = "kustomer"
client_id = "c"
client_secret = "s"
endpoints = "org"
"""


async def test_malformed_import_is_one_clear_error(house: House) -> None:
    """Each says what to do, and leaves nothing behind."""
    house.extra = OTHERS
    house.write_config()
    await house.restart()

    answers = [await house.post("/accounts", body) for body, _ in REFUSED]

    assert {(400, "invalid_request")} == {(answer.status, answer.json["code"]) for answer in answers}
    details = [(answer.json["detail"], said) for answer, (_, said) in zip(answers, REFUSED, strict=True)]
    assert [] == [one for one in details if one[1] not in one[0]]
    assert None is await house.broker.context.stores.accounts.get("acme")


async def test_import_needs_the_permission_and_the_name(house: House) -> None:
    """Outside its globs a caller is told nothing, whether or not the account exists."""
    await house.connect()
    [pair] = issued_elsewhere(house, 1)
    reader = await house.caller(permissions=("token", "accounts", "install"), name="reader")
    narrow = await house.caller("other-*", permissions=("manage",), name="narrow")

    answers = [
        await house.post("/accounts", line(name, pair), key=key)
        for name, key in (("new", reader), ("new", narrow), ("acme", narrow))
    ]

    assert [403] * 3 == [answer.status for answer in answers]
    assert 401 == (await house.post("/accounts", line("new", pair), key="tbk_nonsense")).status


async def test_import_is_event_and_audit_line_without_its_tokens(house: House) -> None:
    """Who did it stands in the audit; the person is connected."""
    [pair] = issued_elsewhere(house, 1)
    await house.post("/accounts", line("acme", pair, access_token=pair.access.value, verify=False))

    events = await house.broker.context.stores.events.last_events(5)
    audit = (house.folder / "var" / "audit.jsonl").read_text()

    assert [("connected", "acme")] == [(event.kind, event.account) for event in events]
    assert '"action":"accounts.import","account":"acme","decision":"allowed"' in audit
    assert pair.refresh is not None
    assert pair.refresh not in audit
    assert pair.access.value not in audit
