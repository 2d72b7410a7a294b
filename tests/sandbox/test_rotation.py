"""What each mode of rotation does to the old tokens, over the wire."""

import pytest

from broker.sandbox import Sandbox
from broker.sandbox.faults import Provider

from .app import App, HandClock

MODES = ("N", "D", "GI", "GS", "GL", "S", "F")
PROVIDERS = ("kit", "kustomer")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("mode", MODES)
async def test_a_renewal_gives_tokens_that_work(
    app: App, sandbox: Sandbox, provider: Provider, mode: str
) -> None:
    """In every mode the chain goes on with what the last answer gave."""
    sandbox.faults.set(provider, rotation=mode)
    first = await app.connect(provider)

    second = await app.renewed(provider, first["refresh_token"])
    third = await app.renewed(provider, second["refresh_token"])

    assert await app.works(provider, third["access_token"])


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_without_rotation_the_refresh_token_stays(
    app: App, sandbox: Sandbox, provider: Provider
) -> None:
    """Mode N answers the token that was sent, again and again, and old access tokens live on."""
    sandbox.faults.set(provider, rotation="N")
    first = await app.connect(provider)

    second = await app.renewed(provider, first["refresh_token"])
    third = await app.renewed(provider, first["refresh_token"])

    assert first["refresh_token"] == second["refresh_token"] == third["refresh_token"]
    assert await app.works(provider, first["access_token"])
    assert [grant["rotations"] for grant in (await app.record())["grants"]] == [0]


async def test_without_rotation_the_refresh_token_can_be_left_out(app: App, sandbox: Sandbox) -> None:
    """With omit_refresh_token the answer has no such member at all."""
    sandbox.faults.set("kit", rotation="N", omit_refresh_token=True)
    first = await app.connect("kit")

    second = await app.renewed("kit", first["refresh_token"])

    assert "refresh_token" not in second


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_on_use_the_old_pair_lives_until_the_new_access_token_is_used(
    app: App, sandbox: Sandbox, provider: Provider
) -> None:
    """Mode D: several renewals with one token work, until a new access token reaches a resource."""
    sandbox.faults.set(provider, rotation="D")
    first = await app.connect(provider)
    await app.renewed(provider, first["refresh_token"])
    second = await app.renewed(provider, first["refresh_token"])
    assert await app.works(provider, first["access_token"])

    assert await app.works(provider, second["access_token"])

    assert not await app.works(provider, first["access_token"])
    answer = await app.refresh(provider, first["refresh_token"])
    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")


async def test_on_use_is_kits_default(app: App) -> None:
    """Nobody has to switch Kit to D."""
    first = await app.connect("kit")

    await app.renewed("kit", first["refresh_token"])
    again = await app.refresh("kit", first["refresh_token"])

    assert again.status == 200


async def test_strict_is_kustomers_default(app: App) -> None:
    """Nobody has to switch Kustomer to S."""
    first = await app.connect("kustomer")

    await app.renewed("kustomer", first["refresh_token"])
    again = await app.refresh("kustomer", first["refresh_token"])

    assert (again.status, again.json["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize("mode", ["GI", "GS", "GL"])
async def test_grace_ends(app: App, sandbox: Sandbox, clock: HandClock, mode: str) -> None:
    """A replay works within the grace and not from its end on."""
    sandbox.faults.set("kit", rotation=mode, grace=10)
    first = await app.connect("kit")
    await app.renewed("kit", first["refresh_token"])

    await clock.advance(9)
    within = await app.refresh("kit", first["refresh_token"])
    await clock.advance(1)
    after = await app.refresh("kit", first["refresh_token"])

    assert [within.status, after.status] == [200, 400]


async def test_grace_gives_the_same_successor(app: App, sandbox: Sandbox) -> None:
    """Mode GI: a replay is answered with the very same tokens."""
    sandbox.faults.set("kit", rotation="GI")
    first = await app.connect("kit")

    second = await app.renewed("kit", first["refresh_token"])
    replay = await app.renewed("kit", first["refresh_token"])

    assert second == replay


async def test_grace_gives_siblings_that_all_work(app: App, sandbox: Sandbox) -> None:
    """Mode GS: a replay gives further tokens and harms none."""
    sandbox.faults.set("kit", rotation="GS")
    first = await app.connect("kit")

    second = await app.renewed("kit", first["refresh_token"])
    sibling = await app.renewed("kit", first["refresh_token"])

    assert second["refresh_token"] != sibling["refresh_token"]
    assert await app.works("kit", second["access_token"])
    assert await app.renewed("kit", second["refresh_token"])
    assert await app.renewed("kit", sibling["refresh_token"])


async def test_grace_leaves_only_the_latest_sibling(app: App, sandbox: Sandbox) -> None:
    """Mode GL: a replay kills what the first renewal gave."""
    sandbox.faults.set("kit", rotation="GL")
    first = await app.connect("kit")

    second = await app.renewed("kit", first["refresh_token"])
    sibling = await app.renewed("kit", first["refresh_token"])

    assert not await app.works("kit", second["access_token"])
    assert (await app.refresh("kit", second["refresh_token"])).status == 400
    assert (await app.refresh("kit", sibling["refresh_token"])).status == 200


@pytest.mark.parametrize("mode", ["S", "F"])
@pytest.mark.parametrize(("provider", "survives"), [("kit", False), ("kustomer", True)])
async def test_a_strict_renewal_kills_the_old_access_token_at_kit_only(
    app: App, sandbox: Sandbox, provider: Provider, survives: bool, mode: str
) -> None:
    """Kit kills the old pair at once; Kustomer's access token lives out its life."""
    sandbox.faults.set(provider, rotation=mode)
    first = await app.connect(provider)

    await app.renewed(provider, first["refresh_token"])

    assert survives is await app.works(provider, first["access_token"])


async def test_a_strict_replay_harms_nobody_else(app: App, sandbox: Sandbox) -> None:
    """Mode S: the successor goes on after a replay."""
    sandbox.faults.set("kit", rotation="S")
    first = await app.connect("kit")
    second = await app.renewed("kit", first["refresh_token"])

    replay = await app.refresh("kit", first["refresh_token"])

    assert replay.status == 400
    assert (await app.refresh("kit", second["refresh_token"])).status == 200


async def test_a_replay_revokes_the_family(app: App, sandbox: Sandbox) -> None:
    """Mode F: after a replay nothing of the grant works."""
    sandbox.faults.set("kit", rotation="F")
    first = await app.connect("kit")
    second = await app.renewed("kit", first["refresh_token"])

    await app.refresh("kit", first["refresh_token"])

    assert (await app.refresh("kit", second["refresh_token"])).status == 400
    assert "The access token was revoked" in (await app.use("kit", second["access_token"])).text
    assert [(g["revoked"], g["live"]) for g in (await app.record())["grants"]] == [(True, False)]


async def test_an_idle_refresh_token_dies(app: App, sandbox: Sandbox, clock: HandClock) -> None:
    """With idle_expiry a token is dead once it was left alone for so long."""
    sandbox.faults.set("kit", idle_expiry=1000)
    first = await app.connect("kit")
    await clock.advance(999)
    second = await app.renewed("kit", first["refresh_token"])

    await clock.advance(1000)
    answer = await app.refresh("kit", second["refresh_token"])

    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")
    assert [grant["live"] for grant in (await app.record())["grants"]] == [False]


async def test_going_back_from_strict_revives_nothing(app: App, sandbox: Sandbox) -> None:
    """What died under S stays dead under D."""
    sandbox.faults.set("kit", rotation="S")
    first = await app.connect("kit")
    await app.renewed("kit", first["refresh_token"])

    sandbox.faults.set("kit", rotation="D")

    assert (await app.refresh("kit", first["refresh_token"])).status == 400
