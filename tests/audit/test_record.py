"""Who, what, which account, decision, generation, fingerprint, request id: one line each."""

import json
from typing import Any

from broker.sandbox import visitor
from tests.house import House
from tests.pages import block_with


def lines(house: House) -> list[dict[str, Any]]:
    paths = sorted((house.folder / "var").glob("audit*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def what(house: House) -> list[tuple[str, str | None, str | None]]:
    """What was done to which account, and more of it."""
    return [(line["action"], line.get("account"), line.get("detail")) for line in lines(house)]


async def test_handed_out_token_is_on_record_without_itself(house: House) -> None:
    """Who, which account, which generation, a keyed fingerprint, the request's id; as the documentation shows it."""
    await house.connect()

    answer = await house.get("/token/acme", **{"X-Request-Id": "request-0001"})

    [line] = [one for one in lines(house) if one.get("request_id") == "request-0001"]
    assert ("service", "token", "acme", "allowed", 1) == (
        line["caller"],
        line["action"],
        line["account"],
        line["decision"],
        line["generation"],
    )
    assert 16 == len(line["fingerprint"])
    assert answer.json["access_token"] not in str(lines(house))
    assert list(json.loads(block_with('"audit":1', "json"))) == list(line)


async def test_fingerprint_is_the_tokens(house: House) -> None:
    """The same for the same token, over restarts too, and another for the next one."""
    await house.connect()
    await house.get("/token/acme")
    await house.restart()
    await house.get("/token/acme")
    await house.post("/token/acme/refresh")

    prints = [(line["generation"], line["fingerprint"]) for line in lines(house) if "fingerprint" in line]

    assert [1, 1, 2] == [generation for generation, _ in prints]
    assert prints[0] == prints[1]
    assert prints[1][1] != prints[2][1]


async def test_denial_is_on_record(house: House) -> None:
    """Also for what does not exist."""
    narrow = await house.caller("other", name="narrow")

    await house.get("/token/acme", key=narrow)
    await house.ask("DELETE", "/accounts/other", key=narrow)

    assert [("token", "acme", "denied"), ("accounts.remove", "other", "denied")] == [
        (one["action"], one["account"], one["decision"])
        for one in lines(house)
        if one.get("caller") == "narrow"
    ]


async def test_each_change_is_told_by_its_name(house: House) -> None:
    """Before it is made; with what an auditor would ask next."""
    await house.connect()
    before = len(lines(house))

    await house.post("/token/acme/refresh")
    await house.ask("PATCH", "/accounts/acme", json={"label": "L", "subject": "user-1"})
    await house.ask("PATCH", "/accounts/acme", json={"name": "acme-2"})
    await house.post("/accounts/acme-2/freeze")
    await house.post("/accounts/acme-2/unfreeze")
    await house.ask("DELETE", "/accounts/acme-2")
    await house.post("/accounts/acme-2/restore")
    await house.ask("DELETE", "/accounts/acme-2?purge=1&revoke=1")

    assert [
        ("token.refresh", "acme", None),
        ("token", "acme", None),
        ("accounts.change", "acme", "label subject"),
        ("accounts.change", "acme", "name"),
        ("accounts.rename", "acme-2", "was acme"),
        ("accounts.freeze", "acme-2", None),
        ("accounts.unfreeze", "acme-2", None),
        ("accounts.remove", "acme-2", None),
        ("accounts.restore", "acme-2", None),
        ("accounts.remove", "acme-2", "purge revoke"),
    ] == what(house)[before:]
    assert "user-1" not in str(lines(house))


async def test_connection_is_on_record_with_whose_link_it_was(house: House) -> None:
    """A link by somebody, and what came of it when the person was back."""
    url = (await house.post("/installs", {"provider": "kit"})).json["install_url"]

    await visitor.install(url, answers={"account": "777"})

    assert [("installs.create", None, None), ("accounts.connect", "kit-777", "kit")] == what(house)[-2:]
    assert ("service", "install") == (lines(house)[-1]["caller"], lines(house)[-1]["credential"])


async def test_following_events_is_asked_for_once(house: House) -> None:
    """Not each time that somebody looks whether there is more."""
    before = len(lines(house))
    bearer = {"Authorization": f"Bearer {house.key}"}

    async with house.session.get(f"{house.internal}/events", headers=bearer):
        for _ in range(3):
            await house.clock.settle()
            house.clock.advance(1)

    assert [("events", None, None)] == what(house)[before:]
