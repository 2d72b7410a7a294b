"""What an operator does: confirmed by a form of this session, done once, and audited."""

import json
import re
from pathlib import Path

import pytest

from tests.commanding import commands_at
from tests.dashboard.conftest import Visitor

ACTIONS = ["renew", "freeze", "unfreeze", "remove", "restore", "reconnect"]


def audited(visitor: Visitor) -> list[dict[str, object]]:
    path: Path = visitor.house.folder / "var" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_renewal_by_hand(operator: Visitor) -> None:
    """It is done before the page comes, and stands in the audit under the operator's name."""
    answer = await operator.do("/dashboard/accounts/acme/renew")

    assert 200 == answer.status
    assert b"Renewed: generation 2." in answer.body
    assert 2 == (await operator.house.account()).generation
    last = audited(operator)[-1]
    assert ("uid:0", "acme") == (last["caller"], last["account"])


async def test_freeze_and_back(operator: Visitor) -> None:
    """Each button does what the page says."""
    await operator.post("/dashboard/accounts/acme/freeze")
    frozen = (await operator.house.account()).frozen
    await operator.post("/dashboard/accounts/acme/unfreeze")

    assert frozen is not None
    assert (await operator.house.account()).frozen is None


async def test_removed_account_is_listed_and_can_be_brought_back(operator: Visitor) -> None:
    """Among the removed and nowhere else; its form brings it back."""
    removed = await operator.get((await operator.post("/dashboard/accounts/acme/remove")).headers["Location"])
    gone = await operator.get("/dashboard/accounts/acme")
    listed = await operator.get("/dashboard/accounts")
    back = await operator.post("/dashboard/accounts/acme/restore")

    assert b"acme is removed" in removed.body
    assert b'action="/dashboard/accounts/acme/restore"' in removed.body
    assert (404, True) == (gone.status, b"broker accounts restore acme" in gone.body)
    assert b"accounts/acme" not in listed.body
    assert (303, "/dashboard/accounts/acme") == (back.status, back.headers["Location"])
    assert (await operator.house.account()).removed_at is None


async def test_history_names_who_did_it(operator: Visitor) -> None:
    """On the page and at the command line; what is so already is not done again."""
    for action in ("freeze", "freeze", "unfreeze", "unfreeze", "remove", "restore"):
        await operator.post(f"/dashboard/accounts/acme/{action}")

    page = (await operator.get("/dashboard/accounts/acme")).body.decode()
    async with commands_at(operator.house) as commands:
        told = json.loads((await commands.run("events", "--account", "acme", "--json")).stdout)["events"]
        listed = await commands.run("events", "--account", "acme")

    expected = ["connected", "frozen", "unfrozen", "disconnected", "restored"]
    assert expected == [event["event"] for event in told]
    assert [None, *4 * ["uid:0"]] == [event.get("actor") for event in told]
    shown = re.findall(r"<strong>(\w+)</strong> <span class=\"soft\">by uid:0<", page)
    assert ["Restored", "Removed", "Unfrozen", "Frozen"] == shown
    assert 4 == listed.stdout.count("by uid:0")


async def test_reload_of_a_page_does_nothing_again(operator: Visitor) -> None:
    """The form leads to a page by GET, which says what was done, once."""
    posted = await operator.post("/dashboard/accounts/acme/renew")
    shown = [await operator.get(posted.headers["Location"]) for _ in range(2)]

    assert (303, 2) == (posted.status, (await operator.house.account()).generation)
    assert [True, False] == [b"Renewed: generation 2." in page.body for page in shown]


async def test_reconnect_link_connects(operator: Visitor) -> None:
    """For this account and no other."""
    answer = await operator.do("/dashboard/accounts/acme/reconnect")

    assert f"{operator.house.public}/install/kit?ticket=".encode() in answer.body


async def test_what_is_refused_is_told(operator: Visitor) -> None:
    """On the account's page."""
    operator.house.sandbox.faults.set("kit", drop="before", times=1)
    await operator.post("/dashboard/accounts/acme/freeze")

    answer = await operator.do("/dashboard/accounts/acme/renew")

    assert 200 == answer.status
    assert b'role="alert"' in answer.body
    assert 1 == (await operator.house.account()).generation


@pytest.mark.parametrize(
    ("form", "headers"),
    [("", {}), ("0" * 64, {}), (None, {"Origin": "https://evil.example"}), (None, {"Origin": "null"})],
    ids=["none", "foreign", "origin", "null"],
)
async def test_form_of_another_site_does_nothing(
    operator: Visitor, form: str | None, headers: dict[str, str]
) -> None:
    """Neither without this session's token nor from another origin."""
    before = await operator.house.account()

    for action in ACTIONS:
        answer = await operator.post(f"/dashboard/accounts/acme/{action}", form=form, **headers)

        assert 403 == answer.status, action
        assert before == await operator.house.account(), action


async def test_form_of_another_session_does_nothing(operator: Visitor) -> None:
    """Signed in twice, each has its own."""
    token = await operator.form_token()
    await operator.sign_in()

    answer = await operator.post("/dashboard/accounts/acme/freeze", form=token)

    assert 403 == answer.status


async def test_unknown_action_is_no_page(operator: Visitor) -> None:
    """There are six."""
    assert 404 == (await operator.post("/dashboard/accounts/acme/explode")).status


async def test_breaker_is_closed_by_hand(operator: Visitor) -> None:
    """Two refused clients open it; the button closes it and goes back to the page."""
    house = operator.house
    await house.connect("kit", "globex", account="4711")
    house.sandbox.faults.set("kit", status=401, body='{"error":"invalid_client"}')
    for name in ("acme", "globex"):
        await house.post(f"/token/{name}/refresh")
    open_ = await operator.get("/dashboard/providers")

    answer = await operator.post("/dashboard/providers/kit/resume")

    assert b"breaker open" in open_.body
    assert (303, "/dashboard/providers") == (answer.status, answer.headers["Location"])
    assert b"breaker open" not in (await operator.get("/dashboard/providers")).body
