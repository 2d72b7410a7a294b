"""A secret replaced, an app replaced, an org without the app: nobody else is harmed."""

from pathlib import Path

import pytest

from broker.sandbox.faults import Mode
from tests.house import Answer
from tests.proof.stand import Stand, open_stand

OLD, NEW = "sandbox-kit-secret", "the-next-secret"


async def register(stand: Stand, client_id: str, secret: str) -> None:
    """The person at Kit gives the app this secret and no other."""
    client = {"provider": "kit", "client_id": client_id, "client_secrets": [secret]}
    url = f"{stand.process.sandbox.base_url}/_sandbox/clients"
    async with stand.process.session.post(url, json=client) as response:
        assert response.status == 200, await response.text()


async def restart_with(stand: Stand, old: str, new: str) -> None:
    """A restart on a configuration with one text replaced."""
    config = stand.process.config.read_text()
    assert old in config
    stand.process.config.write_text(config.replace(old, new, 1))
    assert 0 == await stand.process.stop()
    await stand.process.start()


async def status(stand: Stand, name: str) -> tuple[str, str | None]:
    shown = (await stand.ask("GET", f"/accounts/{name}")).json
    return shown["status"], shown["reason"]


async def force_all(stand: Stand) -> list[Answer | None]:
    return [await stand.force(name) for name in stand.number]


async def test_second_secret_takes_over(tmp_path: Path) -> None:
    """Both secrets are configured and the provider forgets the first: every renewal succeeds, nothing is held."""
    async with open_stand(tmp_path / "run", Mode.STRICT, "acme", "globex", "initech") as stand:
        await restart_with(stand, f'client_secret = "{OLD}"', f'client_secret = ["{OLD}", "{NEW}"]')
        await register(stand, "sandbox-kit", NEW)

        answers = await force_all(stand)

        assert [200] * 3 == [answer and answer.status for answer in answers]
        assert {("active", None)} == {await status(stand, name) for name in stand.number}
        assert (set(), {}) == (stand.uncommitted(), stand.dead())


async def test_wrong_secret_harms_no_account(tmp_path: Path) -> None:
    """Only the old secret is configured: the breaker opens at the second account, and nobody is given up."""
    async with open_stand(tmp_path / "run", Mode.STRICT, "acme", "globex", "initech") as stand:
        await register(stand, "sandbox-kit", NEW)

        answers = await force_all(stand)
        refused = stand.renewals()
        await restart_with(stand, f'client_secret = "{OLD}"', f'client_secret = "{NEW}"')
        again = await force_all(stand)

        assert [(502, "provider_rejected_client")] * 3 == [
            (answer.status, answer.json["code"]) for answer in answers if answer
        ]
        assert 2 == refused
        assert [200] * 3 == [answer and answer.status for answer in again]
        assert (set(), {}) == (stand.uncommitted(), stand.dead())


async def test_replaced_app_renews_each_grant_with_its_own(tmp_path: Path) -> None:
    """Grants of the app before go on with it as long as it stands in `previous_clients`, new ones use the new app."""
    async with open_stand(tmp_path / "run", Mode.STRICT, "acme") as stand:
        await register(stand, "kit-two", NEW)
        previous = f'previous_clients = [{{ client_id = "sandbox-kit", client_secret = "{OLD}" }}]'
        await restart_with(
            stand,
            f'client_id = "sandbox-kit"\nclient_secret = "{OLD}"',
            f'client_id = "kit-two"\nclient_secret = "{NEW}"\n{previous}',
        )
        stand.number["globex"] = 2000
        await stand.connect("globex")

        answers = await force_all(stand)

        assert [200, 200] == [answer and answer.status for answer in answers]
        grants = [grant["client_id"] for grant in (await stand.process.judge())["grants"]]
        assert ["sandbox-kit", "kit-two"] == grants


async def test_grant_of_a_forgotten_app_is_not_sent(tmp_path: Path) -> None:
    """The app before was taken out of the file: its grant waits, and says for what; the others are renewed."""
    async with open_stand(tmp_path / "run", Mode.STRICT, "acme") as stand:
        await register(stand, "kit-two", NEW)
        await restart_with(
            stand,
            f'client_id = "sandbox-kit"\nclient_secret = "{OLD}"',
            f'client_id = "kit-two"\nclient_secret = "{NEW}"',
        )
        stand.number["globex"] = 2000
        await stand.connect("globex")

        answers = await force_all(stand)

        assert [502, 200] == [answer and answer.status for answer in answers]
        assert ("refresh_failing", "client_not_configured") == await status(stand, "acme")
        assert ("active", None) == await status(stand, "globex")
        assert 1 == stand.renewals()


@pytest.mark.parametrize(
    ("shape", "reason"), [("errors", "app_not_installed?"), ("oauth", "provider_rejected_client")]
)
async def test_org_without_the_app_is_alone(tmp_path: Path, shape: str, reason: str) -> None:
    """One Kustomer org takes the app away: it backs off and says why, the other org and Kit are renewed."""
    async with open_stand(tmp_path / "run", Mode.STRICT, "acme") as stand:
        for org in ("north", "south"):
            await stand.install("kustomer", org, org=org)
        stand.process.sandbox.faults.set("kustomer", app_not_installed=["north"], invalid_client_shape=shape)

        answers = [await stand.force(name) for name in ("north", "south", "acme")]

        assert [502, 200, 200] == [answer and answer.status for answer in answers]
        assert ("refresh_failing", reason) == await status(stand, "north")
        assert [("active", None)] * 2 == [await status(stand, name) for name in ("south", "acme")]
