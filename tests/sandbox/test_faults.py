"""Every fault of the token endpoint, and the doors that switch them."""

import asyncio
from typing import Any

import aiohttp
import pytest

from broker.sandbox import Sandbox

from .app import App, HandClock


async def last_request(app: App) -> Any:
    return (await app.record())["requests"][-1]


async def test_a_status_is_answered_instead(app: App, sandbox: Sandbox) -> None:
    """Status, body and headers as told; the token is not rotated and works afterwards."""
    tokens = await app.connect("kit")
    fault = {"status": 503, "body": "<html>down", "headers": {"Retry-After": "7"}, "times": 1}
    sandbox.faults.set("kit", **fault)

    answer = await app.refresh("kit", tokens["refresh_token"])

    assert (answer.status, answer.text, answer.headers["Retry-After"]) == (503, "<html>down", "7")
    request = await last_request(app)
    assert (
        request["outcome"],
        request["issued_refresh_sha256"],
        request["answered"],
    ) == ("fault", None, False)
    assert (await app.refresh("kit", tokens["refresh_token"])).status == 200


async def test_a_status_after_rotating(app: App, sandbox: Sandbox) -> None:
    """With `rotate` the token is spent although the answer says otherwise."""
    sandbox.faults.set("kit", rotation="S")
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", status=502, rotate=True, times=1)

    answer = await app.refresh("kit", tokens["refresh_token"])

    assert answer.status == 502
    request = await last_request(app)
    assert (request["outcome"], request["answered"]) == ("issued", False)
    assert (await app.refresh("kit", tokens["refresh_token"])).status == 400


async def test_times_counts_token_requests(app: App, sandbox: Sandbox) -> None:
    """A fault for two requests is gone at the third, and resources are no token requests."""
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", status=500, times=2)

    seen = []
    for _ in range(3):
        assert await app.works("kit", tokens["access_token"])
        seen.append((await app.refresh("kit", tokens["refresh_token"])).status)

    assert seen == [500, 500, 200]


async def test_a_fault_without_times_stays_until_changed(app: App, sandbox: Sandbox) -> None:
    """Null takes it away."""
    sandbox.faults.set("kit", status=500)

    before = [(await app.refresh("kit", "x")).status for _ in range(3)]
    sandbox.faults.set("kit", status=None)

    assert before == [500, 500, 500]
    assert (await app.refresh("kit", "x")).status == 400


async def test_the_other_provider_is_not_touched(app: App, sandbox: Sandbox) -> None:
    """Faults are per provider."""
    sandbox.faults.set("kit", status=500)

    answer = await app.refresh("kustomer", "x")

    assert answer.status == 400


async def test_dropped_before_handling(app: App, sandbox: Sandbox) -> None:
    """The connection ends without an answer and the token is as it was."""
    sandbox.faults.set("kit", rotation="S")
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", drop="before", times=1)

    with pytest.raises(aiohttp.ClientConnectionError):
        await app.refresh("kit", tokens["refresh_token"])

    request = await last_request(app)
    assert (
        request["outcome"],
        request["issued_refresh_sha256"],
        request["answered"],
    ) == ("fault", None, False)
    assert (await app.refresh("kit", tokens["refresh_token"])).status == 200


async def test_dropped_after_rotating(app: App, sandbox: Sandbox) -> None:
    """The connection ends without an answer and the token is spent."""
    sandbox.faults.set("kit", rotation="S")
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", drop="after", times=1)

    with pytest.raises(aiohttp.ClientConnectionError):
        await app.refresh("kit", tokens["refresh_token"])

    request = await last_request(app)
    assert (request["outcome"], request["answered"]) == ("issued", False)
    assert (await app.refresh("kit", tokens["refresh_token"])).status == 400


@pytest.mark.parametrize("size", [0, 1, 60])
async def test_a_truncated_answer(
    app: App, sandbox: Sandbox, session: aiohttp.ClientSession, size: int
) -> None:
    """So many bytes of the true answer arrive, then the connection ends."""
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", truncate=size, times=1)
    form = {
        "client_id": "sandbox-kit",
        "grant_type": "refresh_token",
        "refresh_token": tokens["refresh_token"],
    }

    async with session.post(f"{app.base}/kit/oauth/token", data=form) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.readexactly(size)
            await response.read()

    request = await last_request(app)
    assert (response.status, request["outcome"], request["answered"]) == (200, "issued", False)


async def test_a_raw_answer_is_verbatim(app: App, sandbox: Sandbox) -> None:
    """The token endpoint's body is what the test says, as JSON with status 200."""
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", raw='{"access_token": "\\u0000", "expires_in": "soon"}', times=1)

    answer = await app.refresh("kit", tokens["refresh_token"])

    assert (answer.status, answer.text) == (200, '{"access_token": "\\u0000", "expires_in": "soon"}')
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert (await app.refresh("kit", tokens["refresh_token"])).status == 200


async def test_members_are_laid_over_the_true_answer(app: App, sandbox: Sandbox) -> None:
    """A member is changed, null takes one away, the rest is true."""
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", members={"expires_in": "3600", "scope": None}, times=1)

    document = (await app.refresh("kit", tokens["refresh_token"])).json

    assert document["expires_in"] == "3600"
    assert "scope" not in document
    assert (await app.refresh("kit", document["refresh_token"])).status == 200


async def test_latency_comes_before_handling(app: App, sandbox: Sandbox, clock: HandClock) -> None:
    """While it lasts nothing is decided: a grant revoked meanwhile is refused."""
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", latency=5, times=1)

    asking = asyncio.create_task(app.refresh("kit", tokens["refresh_token"]))
    await clock.someone_sleeps()
    await app.post("/_sandbox/revoke", json={"refresh_token": tokens["refresh_token"]})
    await clock.advance(5)

    assert (await asking).status == 400


async def test_latency_after_comes_when_the_token_is_spent(
    app: App, sandbox: Sandbox, clock: HandClock
) -> None:
    """While it lasts the rotation stands and the answer is not out."""
    sandbox.faults.set("kit", rotation="S")
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", latency_after=5, times=1)

    asking = asyncio.create_task(app.refresh("kit", tokens["refresh_token"]))
    await clock.someone_sleeps()
    meanwhile = await last_request(app)
    await clock.advance(5)

    assert (meanwhile["outcome"], meanwhile["ended"], meanwhile["answered"]) == ("issued", None, False)
    assert (await asking).status == 200
    assert (await last_request(app))["answered"]


async def test_a_provider_handles_what_a_vanished_client_sent(
    app: App, sandbox: Sandbox, clock: HandClock
) -> None:
    """Hanging up does not undo the renewal, and nobody counts as answered."""
    sandbox.faults.set("kit", rotation="S")
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", latency=5, times=1)
    asking = asyncio.create_task(app.refresh("kit", tokens["refresh_token"]))
    await clock.someone_sleeps()

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await clock.advance(5)

    assert (await app.refresh("kit", tokens["refresh_token"])).status == 400
    request = (await app.record())["requests"][-2]
    assert (request["outcome"], request["answered"]) == ("issued", False)


async def test_all_clients_can_be_denied(app: App, sandbox: Sandbox) -> None:
    """deny_all_clients: 401 invalid_client at both, until it is switched off."""
    kit, kustomer = await app.connect("kit"), await app.connect("kustomer")
    sandbox.faults.set("kit", deny_all_clients=True)
    sandbox.faults.set("kustomer", deny_all_clients=True)

    answers = [
        await app.refresh("kit", kit["refresh_token"]),
        await app.refresh("kustomer", kustomer["refresh_token"]),
    ]
    sandbox.faults.reset()

    assert [(answer.status, answer.json["error"]) for answer in answers] == [(401, "invalid_client")] * 2
    assert (await app.refresh("kit", kit["refresh_token"])).status == 200


async def test_the_life_of_access_tokens_can_be_changed(app: App, sandbox: Sandbox, clock: HandClock) -> None:
    """`life` holds for tokens issued from then on."""
    sandbox.faults.set("kit", life=5)
    tokens = await app.connect("kit")
    assert (tokens["expires_in"], await app.works("kit", tokens["access_token"])) == (5, True)

    await clock.advance(5)

    assert "The access token expired" in (await app.use("kit", tokens["access_token"])).text


async def test_switches_are_set_and_shown_over_http(app: App) -> None:
    """POST changes what it names and answers with all; GET shows the same; null is the default."""
    fault = {"provider": "kit", "rotation": "S", "grace": 3, "status": 503, "times": 2}

    posted = (await app.post("/_sandbox/faults", json=fault)).json
    shown = (await app.get("/_sandbox/faults")).json
    back = (await app.post("/_sandbox/faults", json={"provider": "kit", "rotation": None})).json

    assert posted == shown
    assert tuple(shown["kit"][name] for name in ("rotation", "grace", "status", "times")) == ("S", 3, 503, 2)
    assert tuple(back["kit"][name] for name in ("rotation", "grace", "status")) == ("D", 3, 503)


@pytest.mark.parametrize(
    "wrong",
    [
        {"provider": "stripe", "rotation": "S"},
        {"provider": "kit", "rotation": "X"},
        {"provider": "kit", "rotaton": "S"},
        {"provider": "kit", "self": 1},
        {"provider": "kit", "latency": -1},
        {"provider": "kit", "times": 0, "status": 500},
        {"provider": "kit", "status": 42},
        {"provider": "kit", "plan_lapsed": "yes"},
        {"provider": "kit", "app_not_installed": "acme"},
        {"provider": "kit", "drop": "sometimes"},
        {"provider": "kit", "headers": {"a": 1}},
        {"provider": "kit", "members": []},
        {"provider": "kit", "body": 1},
        {"provider": "kit", "truncate": True},
    ],
)
async def test_a_wrong_switch_changes_nothing(app: App, wrong: dict[str, Any]) -> None:
    """400 names what is wrong."""
    before = (await app.get("/_sandbox/faults")).json

    answer = await app.post("/_sandbox/faults", json={**wrong, "grace": 99})

    assert answer.status == 400
    assert any(name in answer.json["error"] for name in wrong)
    assert before == (await app.get("/_sandbox/faults")).json


@pytest.mark.parametrize("body", ["[]", "{", '"x"'])
async def test_what_is_no_object_is_refused(app: App, body: str | bytes) -> None:
    """The doors take JSON objects."""
    answer = await app.post("/_sandbox/faults", data=body)

    assert answer.status == 400


async def test_reset_puts_everything_back(app: App, sandbox: Sandbox) -> None:
    """Switches and record are as at the start, grants live on; `everything` forgets them too."""
    sandbox.faults.set("kit", rotation="S", status=500)

    await app.post("/_sandbox/reset")
    tokens = await app.connect("kit")
    await app.post("/_sandbox/reset", json={})
    kept = await app.record()
    await app.post("/_sandbox/reset", json={"everything": True})

    assert (len(kept["grants"]), kept["requests"]) == (1, [])
    assert (await app.record())["grants"] == []
    assert (await app.refresh("kit", tokens["refresh_token"])).status == 400
