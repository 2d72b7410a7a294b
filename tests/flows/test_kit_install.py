"""The whole Kit install: plugin consent, API consent, back at Kit; either half missing or repeated."""

from typing import Any

from broker.model import EventKind, PluginGrant
from broker.sandbox import visitor
from tests.house import House

KIT_RETURN = "https://app.kit.com/apps/717?success=true"


def store_page(house: House) -> str:
    return f"{house.sandbox.base_url}/kit/apps/717/install"


async def kit(house: House) -> Any:
    """What Kit holds and went through."""
    async with house.session.get(f"{house.sandbox.base_url}/_sandbox/plugin") as response:
        return await response.json()


async def grants(house: House) -> list[PluginGrant]:
    return await house.broker.base.stores.plugin.grants(
        subject=None, now=house.clock.now(), after="", limit=100
    )


async def test_whole_install_links_both_halves_to_one_person(house: House) -> None:
    """One sign-in; the grant of the plugin and the account of the API have the same subject."""
    visit = await visitor.install(store_page(house), login_as="user-42")

    account = await house.account("kit-29")
    [grant] = await grants(house)
    seen = await kit(house)
    assert KIT_RETURN == visit.final_url
    assert ("user-42", "user-42", "kit-29") == (account.subject, grant.subject, grant.account)
    assert [("token", 200, None)] == [(one["step"], one["status"], one["complaint"]) for one in seen["steps"]]
