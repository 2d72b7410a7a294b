"""OAuth apps that tests register, replace and take away."""

from typing import Any

import pytest

from broker.sandbox import Sandbox

from .app import App, StartSandbox

PUBLIC = {"provider": "kit", "client_id": "public-app"}


async def test_a_secret_is_replaced(app: App) -> None:
    """After replacing, the old secret is refused and the new one works; with both, both do."""
    tokens = await app.connect("kit")
    client = {"provider": "kit", "client_id": "sandbox-kit"}

    await app.post("/_sandbox/clients", json={**client, "client_secrets": ["sandbox-kit-secret", "new"]})
    both = [
        (await app.refresh("kit", tokens["refresh_token"], client_secret=secret)).status
        for secret in ("sandbox-kit-secret", "new")
    ]
    await app.post("/_sandbox/clients", json={**client, "client_secret": "new"})
    after = (await app.refresh("kit", tokens["refresh_token"])).status

    assert (both, after) == ([200, 200], 401)


async def test_grants_stay_with_the_client_that_minted_them(app: App) -> None:
    """Another app of the same company cannot renew them."""
    tokens = await app.connect("kit")
    await app.post("/_sandbox/clients", json={"provider": "kit", "client_id": "b", "client_secret": "bs"})

    answer = await app.refresh("kit", tokens["refresh_token"], client_id="b", client_secret="bs")

    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")


async def test_a_client_is_removed(app: App) -> None:
    """Its grants cannot be renewed any more."""
    tokens = await app.connect("kit")

    await app.post("/_sandbox/clients", json={"provider": "kit", "client_id": "sandbox-kit", "removed": True})

    assert (await app.refresh("kit", tokens["refresh_token"])).status == 401


async def test_registered_redirect_uris_are_exact(app: App) -> None:
    """Only what was registered is taken, also not the default callback."""
    uris = ["https://broker.example/callback/kit"]
    client = {"provider": "kit", "client_id": "b", "client_secret": "bs", "redirect_uris": uris}
    await app.post("/_sandbox/clients", json=client)

    taken = await app.consent("kit", client_id="b", redirect_uri=uris[0])
    default = await app.consent("kit", client_id="b")

    assert [taken.status, default.status] == [302, 400]


@pytest.mark.parametrize(
    ("uri", "status"),
    [
        ("http://127.0.0.1:8081/callback/kit", 302),
        ("http://127.0.0.1:9999/callback/kit", 302),
        ("https://localhost/callback/kit", 302),
        ("http://127.0.0.1:8081/callback/kustomer", 400),
        ("http://127.0.0.1:8081/callback/kit/", 400),
        ("http://127.0.0.1:8081/callback/kit?x=1", 400),
        ("http://me@127.0.0.1:8081/callback/kit", 400),
        ("http://10.0.0.1/callback/kit", 400),
        ("javascript:alert(1)", 400),
    ],
)
async def test_by_default_any_loopback_callback_is_taken(app: App, uri: str, status: int) -> None:
    """Any port of this machine, the provider's callback path and nothing else."""
    answer = await app.consent("kit", redirect_uri=uri)

    assert status == answer.status


async def test_a_public_client_needs_pkce_and_no_secret(app: App) -> None:
    """Without a challenge it is sent back; with one it gets tokens without a secret."""
    await app.post("/_sandbox/clients", json=PUBLIC)

    bare = await app.consent("kit", client_id="public-app", code_challenge="", code_challenge_method="")
    code = await app.code("kit", client_id="public-app")
    tokens = await app.exchange("kit", code, client_id="public-app", client_secret="")

    assert (bare.sent_to["error"], tokens.status) == ("invalid_request", 200)


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_id": "b"},
        {"provider": "kit"},
        {"provider": "kit", "client_id": "b", "client_secret": 1},
        {"provider": "kit", "client_id": "b", "redirect_uris": "https://x.example"},
    ],
)
async def test_a_wrong_registration_is_refused(app: App, wrong: dict[str, Any]) -> None:
    """400 with a sentence."""
    answer = await app.post("/_sandbox/clients", json=wrong)

    assert (answer.status, bool(answer.json["error"])) == (400, True)


async def test_registrations_survive_a_restart(
    app: App, sandbox: Sandbox, start_sandbox: StartSandbox
) -> None:
    """A replaced secret is not put back by the start."""
    replaced = {"provider": "kit", "client_id": "sandbox-kit", "client_secret": "new"}
    await app.post("/_sandbox/clients", json=replaced)
    await sandbox.stop()

    app.base = (await start_sandbox()).base_url

    assert (await app.refresh("kit", "x")).status == 401
