"""The whole Kit install: plugin consent, API consent, back at Kit; either half missing or repeated."""

from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from broker.model import EventKind, PluginGrant
from broker.sandbox import visitor
from tests.house import House

KIT_RETURN = "https://app.kit.com/apps/717?success=true"

ON_ITS_OWN = """
[providers.kit]
client_id = "sandbox-kit"
client_secret = "sandbox-kit-secret"
app_id = 717
authorize_url = "{base}/kit/oauth/authorize"
token_url = "{base}/kit/oauth/token"
api_url = "{base}/kit"
[plugin.clients.kit]
name = "Kit"
client_id = "sandbox-kit-plugin"
client_secret = "sandbox-kit-plugin-secret"
redirect_uris = ["{base}/kit/apps/install", "{base}/kit/apps"]
refresh_without_secret = true
"""


class Walk:
    """A browser that goes one step at a time."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def get(self, url: str) -> str:
        """Where it is sent."""
        async with self._session.get(URL(url, encoded=True), allow_redirects=False) as answer:
            return answer.headers.get("Location", "")

    async def plugin_half(self) -> None:
        """Up to the consent; Kit does not go on."""
        start = await self.get(f"{self._house.sandbox.base_url}/kit/apps/717/start")
        login = URL(await self.get(start))
        form = {"login_challenge": login.query["login_challenge"], "login_as": "user-42"}
        async with self._session.post(login, data=form, allow_redirects=False) as answer:
            back = answer.headers["Location"]
        consent = (await self.get(back)).partition("consent=")[2]
        form = {"consent": consent, "decision": "allow"}
        url = f"{self._house.public}/plugin/authorize"
        async with self._session.post(url, data=form, allow_redirects=False) as answer:
            assert answer.status == 303

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()


def store_page(house: House) -> str:
    return f"{house.sandbox.base_url}/kit/apps/717/install"


async def kit(house: House) -> Any:
    """What Kit holds and went through."""
    async with house.session.get(f"{house.sandbox.base_url}/_sandbox/plugin") as response:
        return await response.json()


def back_at_kit(house: House) -> str:
    """The app's page, as the sandbox plays it: nothing leaves the machine."""
    return f"{house.sandbox.base_url}/kit/apps/717?success=true"


async def tell_kit(house: House, what: str, body: object = None) -> Any:
    """Make Kit do something with its first connection."""
    url = f"{house.sandbox.base_url}/_sandbox/plugin/1/{what}"
    async with house.session.post(url, json=body or {}) as response:
        return await response.json()


async def grants(house: House) -> list[PluginGrant]:
    return await house.broker.context.stores.plugin.grants(
        subject=None, now=house.clock.now(), after="", limit=100
    )


async def test_whole_install_links_both_halves_to_one_person(house: House) -> None:
    """One sign-in; the grant of the plugin and the account of the API have the same subject."""
    visit = await visitor.install(store_page(house), login_as="user-42")

    account = await house.account("kit-29")
    [grant] = await grants(house)
    seen = await kit(house)
    assert back_at_kit(house) == visit.final_url
    assert ("user-42", "user-42", "kit-29") == (account.subject, grant.subject, grant.account)
    assert [("token", 200, None)] == [(one["step"], one["status"], one["complaint"]) for one in seen["steps"]]


async def test_remembered_person_is_good_for_one_install(house: House) -> None:
    """Whoever begins a second one in the same browser signs in again."""
    async with Walk(house) as walk:
        await walk.plugin_half()

        first = await walk.get(f"{house.public}/install/kit?redirect={KIT_RETURN}")
        second = await walk.get(f"{house.public}/install/kit?redirect={KIT_RETURN}")

    assert "/kit/oauth/authorize" in first
    assert "/company/login" in second


async def test_remembered_person_is_forgotten_after_minutes(house: House) -> None:
    """The cookie alone is worth nothing then."""
    async with Walk(house) as walk:
        await walk.plugin_half()
        house.clock.advance(600)

        late = await walk.get(f"{house.public}/install/kit?redirect={KIT_RETURN}")

    assert "/company/login" in late


async def test_api_half_alone(house: House) -> None:
    """An app without a plugin, or a person who connects only the API: as ever, with a sign-in."""
    visit = await visitor.install(f"{house.public}/install/kit?redirect={KIT_RETURN}", login_as="user-7")

    assert KIT_RETURN == visit.final_url
    assert ("user-7", []) == ((await house.account("kit-29")).subject, await grants(house))


async def test_plugin_half_alone(house: House) -> None:
    """The API half is refused: the plugin's grant lives without an account."""
    visit = await visitor.install(store_page(house), login_as="user-8", decision="deny")

    [grant] = await grants(house)
    assert "You declined access" in visit.text
    assert ("user-8", None) == (grant.subject, grant.account)


async def test_plugin_half_refused(house: House) -> None:
    """Kit hears access_denied, and nothing is connected."""
    visit = await visitor.install(store_page(house), plugin="deny")

    assert (400, "access_denied" in visit.text) == (visit.status, True)
    assert ([], []) == (await grants(house), (await house.get("/accounts")).json["accounts"])


async def test_update_renews_both_halves_in_place(house: House) -> None:
    """Kit runs the whole install again: one account, a generation further, and one living grant."""
    await visitor.install(store_page(house), login_as="user-42")
    [before], account = await grants(house), await house.account("kit-29")

    await visitor.install(store_page(house), login_as="user-42")

    [after], renewed = await grants(house), await house.account("kit-29")
    assert (account.epoch + 1, account.generation + 1) == (renewed.epoch, renewed.generation)
    assert ("kit-29", "kit-29", True) == (before.account, after.account, before.id != after.id)
    assert [EventKind.PLUGIN_CONNECTED] * 2 == [
        event.kind
        for event in await house.broker.context.stores.events.last_events(100)
        if event.kind.startswith("plugin")
    ]


async def test_two_kit_accounts_of_one_person_keep_a_grant_each(house: House) -> None:
    """Nothing says that a person has one Kit account only."""
    await visitor.install(store_page(house), login_as="agency", answers={"account": "1"})
    await visitor.install(store_page(house), login_as="agency", answers={"account": "2"})

    assert {"kit-1", "kit-2"} == {grant.account for grant in await grants(house)}


async def test_kit_renews_and_uninstalls(house: House) -> None:
    """Without a secret, with a JSON body under a form's name; a lost answer is given again; then it is over."""
    await visitor.install(store_page(house), login_as="user-42")

    lost = await tell_kit(house, "refresh", {"lose_answer": True})
    renewed = await tell_kit(house, "refresh")
    again = await tell_kit(house, "refresh")
    gone = await tell_kit(house, "uninstall")
    after = await tell_kit(house, "refresh")

    assert [{"status": 200, "complaint": None}] * 4 == [lost, renewed, again, gone]
    assert {"status": 400, "complaint": "status 400: invalid_grant"} == after
    [event] = [
        event
        for event in await house.broker.context.stores.events.last_events(100)
        if event.kind is EventKind.PLUGIN_DISCONNECTED
    ]
    assert ("user-42", "kit-29", "uninstalled") == (event.subject, event.account, event.reason)


async def test_connect_code_lets_the_api_half_through_without_a_login(house: House) -> None:
    """Where no app signs people in, whoever typed a connect code is known, and needs no open_install."""
    base, text = house.sandbox.base_url, (house.folder / "config.toml").read_text()
    (house.folder / "config.toml").write_text(
        text.replace("enabled = true", "enabled = false") + ON_ITS_OWN.format(base=base)
    )
    await house.restart()
    key = await house.caller(permissions=("plugin",), name="app")
    code = (await house.post("/plugin/connect-codes", {"subject": "user-9"}, key=key)).json["connect_code"]

    unknown = await visitor.install(f"{house.public}/install/kit?redirect={KIT_RETURN}")
    visit = await visitor.install(store_page(house), connect_code=code)

    assert "by invitation" in unknown.text
    assert back_at_kit(house) == visit.final_url
    assert ("user-9", "user-9") == (
        (await house.account("kit-29")).subject,
        (await grants(house))[0].subject,
    )


async def test_plugin_server_that_is_off_is_not_there(house: House) -> None:
    """Neither for Kit nor for services; the API half goes on."""
    house.extra = "[plugin]\nenabled = false\n"
    house.write_config()
    await house.restart()

    visit = await visitor.install(store_page(house))
    async with house.session.get(f"{house.public}/plugin/authorize") as answer:
        status = answer.status

    assert (back_at_kit(house), 404) == (visit.final_url, status)
    assert 404 == (await house.post("/plugin/introspect", {"token": "x"})).status
