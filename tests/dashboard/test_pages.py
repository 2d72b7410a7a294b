"""What the pages say."""

import asyncio
from dataclasses import replace

from broker.sandbox.faults import Mode
from tests.dashboard.conftest import Visitor
from tests.house import OPERATOR


async def text(operator: Visitor, path: str) -> str:
    answer = await operator.get(path)
    assert 200 == answer.status, answer.body
    return answer.body.decode()


async def test_start_page_says_that_all_is_well(operator: Visitor) -> None:
    """Two connections, and what happened last."""
    page = await text(operator, "/")

    assert "All connections are well" in page
    assert "When access tokens end" in page
    assert "/dashboard/accounts/north" in page


async def test_dead_account_comes_first_with_what_to_do(operator: Visitor) -> None:
    """In plain words; the command can be pasted."""
    house = operator.house
    house.sandbox.faults.set("kit", rotation=Mode.STRICT)
    revoked = {"provider": "kit", "external_id": (await house.account()).external_id}
    async with house.session.post(f"{house.sandbox.base_url}/_sandbox/revoke", json=revoked) as done:
        assert done.status == 200, await done.text()
    asking = asyncio.create_task(house.post("/token/acme/refresh"))
    while not asking.done():
        await house.clock.settle()
        house.clock.advance(3)
    await asking

    page = await text(operator, "/")

    assert "1 connection needs a person" in page
    assert "The provider says that the grant was revoked or has expired." in page


async def test_account_page_tells_its_history_and_who_uses_it(operator: Visitor) -> None:
    """The latest first."""
    await operator.house.get("/token/acme")
    await operator.house.post("/token/acme/refresh")

    page = await text(operator, "/dashboard/accounts/acme")

    assert page.index("<strong>Renewed") < page.index("<strong>Connected")
    assert "<dt>service</dt>" in page


async def test_keys_page_tells_what_each_seals_and_what_to_do(operator: Visitor) -> None:
    """After `keys new` the older one has records, until `keys rewrap`; no key is ever shown."""
    desk = operator.house.broker.rooms.keys.desk
    old = operator.house.broker.base.keyring.active
    await desk.new(OPERATOR, request_id="test")

    page = await text(operator, "/dashboard/keys")
    await desk.rewrap(OPERATOR, None, request_id="test")
    rewrapped = await text(operator, "/dashboard/keys")

    assert old in page
    assert "<code>broker keys rewrap</code>" in page.split(old)[1].split("</tr>")[0]
    assert f"<code>broker keys drop {old}</code>" in rewrapped


async def test_callers_page_tells_how_each_proves_itself_and_when_it_was_there(operator: Visitor) -> None:
    """A key by its id and last use; nothing of the key."""
    await operator.house.get("/token/acme")
    await operator.house.broker.callers.service.flush_uses()

    page = await text(operator, "/dashboard/callers")

    assert operator.house.key.split("_")[1] in page
    assert operator.house.key not in page
    assert "now</time>" in page


async def test_unknown_account_is_no_page(operator: Visitor) -> None:
    """Also a name that none can have."""
    answers = [await operator.get(f"/dashboard/accounts/{name}") for name in ("nobody", "%3Cscript%3E")]

    assert [404, 404] == [answer.status for answer in answers]
    assert b"<script>" not in answers[1].body


async def test_search_finds_by_name_and_id(operator: Visitor) -> None:
    """In any case; what stands for anything elsewhere stands for itself here."""
    house = operator.house
    await house.broker.rooms.accounts.change(OPERATOR, "acme", {"label": "100% Wool_Ltd"}, request_id="test")

    found = {
        search: "accounts/acme" in await text(operator, f"/dashboard/accounts?search={search}")
        for search in ("ACM", "north", "100%25+wool", "wool_", "w%25l", "%25%25", "nothing")
    }

    expected = ("ACM", "100%25+wool", "wool_")
    assert {search: search in expected for search in found} == found


async def test_long_lists_have_pages(operator: Visitor) -> None:
    """Fifty to a page, and a link to the next."""
    accounts = operator.house.broker.base.stores.accounts
    one = await operator.house.account("acme")
    for number in range(60):
        name = f"many-{number:03}"
        await accounts.connect(
            replace(one, name=name, external_id=name), expected=None, next_at=None, grant=None, events=[]
        )

    first = await text(operator, "/dashboard/accounts?search=many")
    second = await text(operator, "/dashboard/accounts?search=many&status=&provider=&after=many-049")

    assert (50, 10) == (first.count('scope="row"'), second.count('scope="row"'))
    assert "after=many-049" in first
    assert 'rel="next"' not in second


async def test_names_from_outside_are_text(operator: Visitor) -> None:
    """A label may hold anything printable; the page holds it as text."""
    await operator.house.broker.rooms.accounts.change(
        OPERATOR, "acme", {"label": "<b onmouseover=alert(1)>"}, request_id="test"
    )

    pages = [await text(operator, path) for path in ("/dashboard/accounts", "/dashboard/accounts/acme")]

    assert all("&lt;b onmouseover=alert(1)&gt;" in page and "<b on" not in page for page in pages)


async def test_pages_run_no_foreign_script(operator: Visitor) -> None:
    """One file of our own, nothing inline, nothing framed."""
    answer = await operator.get("/")

    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy


async def test_stream_tells_of_changes(operator: Visitor) -> None:
    """A renewal is told within a look; the broker's stop ends the stream."""
    house = operator.house
    async with operator.session.get(f"{house.internal}/dashboard/live") as stream:
        retry = await stream.content.readline()
        await house.post("/token/acme/refresh")
        await house.clock.settle()
        house.clock.advance(1.1)
        lines = [await stream.content.readline() for _ in range(2)]
        house.broker.listeners.stop()
        await house.clock.settle()
        house.clock.advance(1.1)
        await stream.content.read()

    assert b"retry: 2000\n" == retry
    assert b"event: changed\n" in lines
    assert stream.content.at_eof()
