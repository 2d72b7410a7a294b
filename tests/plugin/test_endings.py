"""How a grant ends and who hears of it; what services and strangers may ask."""

import io
import json
from typing import Any

import pytest
import structlog

from broker.config.settings import LogSettings
from broker.observe.logs import configure
from tests.house import OPERATOR
from tests.plugin.driving import KIT, OTHER, SECRET, Person, Stand

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
@pytest.mark.parametrize("hint", [None, "access_token", "refresh_token", "nonsense"])
async def test_revoking_any_token_ends_its_grant(stand: Stand, which: str, hint: str | None) -> None:
    """RFC 7009 2.1: the hint is a hint. The company hears that the creator uninstalled."""
    subject = f"leaver-{which}-{hint}"
    tokens = await stand.tokens(subject)

    answer = await stand.client.revoke(tokens[which], token_type_hint=hint)

    assert (200, {}) == (answer.status, answer.json)
    assert not await stand.client.is_active(tokens["access_token"])
    assert "invalid_grant" == (await stand.client.renew(tokens["refresh_token"])).json["error"]
    assert ("plugin_disconnected", subject, "uninstalled") == (await stand.events())[-1]


async def test_expired_access_token_still_ends_its_grant(stand: Stand) -> None:
    """Kit uninstalls with the access token that it has, however old."""
    tokens = await stand.tokens("sleeper")
    stand.house.clock.advance(30 * 86400)
    await stand.house.broker.context.stores.plugin.purge(stand.house.clock.now(), 1000)

    await stand.client.revoke(tokens["access_token"])

    assert "invalid_grant" == (await stand.client.renew(tokens["refresh_token"])).json["error"]


@pytest.mark.parametrize("token", ["unknown", "tbp_" + "x" * 43])
async def test_unknown_token_is_revoked_alike(stand: Stand, token: str) -> None:
    """RFC 7009 2.2: the client's purpose is fulfilled. Nobody hears of it."""
    before = await stand.events()

    answer = await stand.client.revoke(token)

    assert (200, {}, before) == (answer.status, answer.json, await stand.events())


async def test_revoking_twice_is_told_once(stand: Stand) -> None:
    """The second time there is nothing left."""
    tokens = await stand.tokens("twice")

    answers = [await stand.client.revoke(tokens["access_token"]) for _ in range(2)]

    assert [200, 200] == [answer.status for answer in answers]
    ends = [event for event in await stand.events() if event[:2] == ("plugin_disconnected", "twice")]
    assert 1 == len(ends)


async def test_token_of_another_client_is_not_revoked(stand: Stand) -> None:
    """And the answer does not tell that there is such a token."""
    tokens = await stand.tokens()

    answer = await stand.client.revoke(tokens["access_token"], **OTHER)

    assert (200, {}) == (answer.status, answer.json)
    assert await stand.client.is_active(tokens["access_token"])


@pytest.mark.parametrize(
    "changes", [{"client_secret": None}, {"client_secret": "wrong"}, {"client_id": "nobody"}, {"token": None}]
)
async def test_revoking_needs_the_secret_and_a_token(stand: Stand, changes: dict[str, None]) -> None:
    """RFC 7009 2.1; nothing ends."""
    tokens = await stand.tokens()

    answer = await stand.client.revoke(**{"token": tokens["access_token"], **changes})

    wrong = ("invalid_request", 400) if "token" in changes else ("invalid_client", 401)
    assert wrong == (answer.json["error"], answer.status)
    assert await stand.client.is_active(tokens["access_token"])


async def test_replayed_code_ends_what_it_gave(stand: Stand) -> None:
    """RFC 6749 4.1.2, also long after the code's own minute."""
    code = await stand.person.code("replayed")
    tokens = (await stand.client.redeem(code)).json
    stand.house.clock.advance(3600)

    answer = await stand.client.redeem(code)

    assert "invalid_grant" == answer.json["error"]
    assert not await stand.client.is_active(tokens["access_token"])
    assert ("plugin_disconnected", "replayed", "code_replayed") == (await stand.events())[-1]


async def test_connecting_is_told(stand: Stand) -> None:
    """Once a code was redeemed; renewing is not told."""
    tokens = await stand.tokens("newcomer")
    await stand.client.renew(tokens["refresh_token"])

    assert ("plugin_connected", "newcomer", None) == (await stand.events())[-1]


async def test_introspection_tells_services_whose_token_it_is(stand: Stand) -> None:
    """RFC 7662 2.2."""
    tokens = await stand.tokens("user-77")

    answer = await stand.client.introspect(tokens["access_token"])

    now = int(stand.house.clock.now())
    assert {
        "active": True,
        "scope": "",
        "client_id": "kit-client",
        "token_type": "Bearer",
        "exp": now + 172800,
        "iat": now,
        "sub": "user-77",
        "iss": stand.house.public,
    } == answer


async def test_introspection_says_no_more_than_no(stand: Stand) -> None:
    """Unknown, revoked, expired, or a refresh token: one answer, which is not cached."""
    tokens, gone = await stand.tokens(), await stand.tokens()
    await stand.client.revoke(gone["access_token"])
    old = (await stand.tokens())["access_token"]
    stand.house.clock.advance(172800)

    asked = ("unknown", gone["access_token"], old, tokens["refresh_token"])
    answers = [await stand.house.ask("POST", "/plugin/introspect", data={"token": token}) for token in asked]

    assert [{"active": False}] * 4 == [answer.json for answer in answers]
    assert {"no-store"} == {answer.headers["Cache-Control"] for answer in answers}


async def test_introspection_is_for_callers_with_the_permission(stand: Stand) -> None:
    """RFC 7662 2.1 and 4: no strangers, and nobody on the public listener; a token is needed."""
    key = await stand.house.caller("*", permissions=("token", "manage", "accounts"), name="others")
    token = (await stand.tokens())["access_token"]

    stranger = await stand.house.ask("POST", "/plugin/introspect", key="tbk_none", data={"token": token})
    other = await stand.house.ask("POST", "/plugin/introspect", key=key, data={"token": token})
    itself = await stand.house.ask("POST", "/plugin/introspect", key=token, data={"token": token})
    empty = await stand.house.ask("POST", "/plugin/introspect", data={"token": ""})
    public = await stand.client.post("/plugin/introspect", {**KIT, "token": token})

    assert [401, 403, 401, 400, 404] == [one.status for one in (stranger, other, itself, empty, public)]


async def test_introspection_takes_json_too(stand: Stand) -> None:
    """As everything here."""
    token = (await stand.tokens())["access_token"]

    answer = await stand.house.post("/plugin/introspect", {"token": token, "token_type_hint": "access_token"})

    assert answer.json["active"]


async def test_metadata_names_what_is_there(stand: Stand) -> None:
    """RFC 8414: the issuer is the public address; each endpoint answers; nothing internal is named."""
    async with stand.house.session.get(
        f"{stand.house.public}/.well-known/oauth-authorization-server"
    ) as response:
        kind, found = response.content_type, await response.json()

    public = stand.house.public
    assert ("application/json", public) == (kind, found["issuer"])
    assert f"{public}/plugin/authorize" == found["authorization_endpoint"]
    assert f"{public}/plugin/token" == found["token_endpoint"]
    assert f"{public}/plugin/revoke" == found["revocation_endpoint"]
    assert (["code"], ["S256"]) == (
        found["response_types_supported"],
        found["code_challenge_methods_supported"],
    )
    assert ["authorization_code", "refresh_token"] == found["grant_types_supported"]
    assert ["client_secret_basic", "client_secret_post"] == found["token_endpoint_auth_methods_supported"]
    assert ["read:products", "write:products"] == found["scopes_supported"]
    assert found["authorization_response_iss_parameter_supported"]
    assert "introspection_endpoint" not in found
    assert [] == [name for name, value in found.items() if value in ([], None, "")]


async def test_everything_issued_and_ended_is_audited(stand: Stand, person: Person) -> None:
    """Who, to whom, which grant; never a token."""
    code = await person.code("audited")
    tokens = (await stand.client.redeem(code)).json
    renewed = (await stand.client.renew(tokens["refresh_token"])).json
    await stand.client.renew(tokens["refresh_token"])
    await stand.client.revoke(renewed["access_token"])

    lines = stand.audited()[-5:]
    assert ["plugin.allow", "plugin.issue", "plugin.renew", "plugin.renew_again", "plugin.end"] == [
        line["action"] for line in lines
    ]
    assert {"plugin:kit"} == {line["caller"] for line in lines}
    assert 4 == sum("audited" in line["detail"] for line in lines)
    assert [] == [
        word
        for word in (code, *tokens.values(), *renewed.values())
        if str(word) in json.dumps(lines) and len(str(word)) > 20
    ]


async def test_nothing_is_issued_that_cannot_be_audited(stand: Stand, person: Person) -> None:
    """And nothing is spent by trying: when the audit is back, code and token are good."""
    tokens, code = await stand.tokens(), await person.code()
    path = stand.house.settings.audit.path
    assert path is not None
    path.rename(aside := path.with_name("aside"))
    path.mkdir()

    answers = [await stand.client.redeem(code), await stand.client.renew(tokens["refresh_token"])]
    question = await person.question("user-42")
    told = (await person.decide(question)).told
    path.rmdir()
    aside.rename(path)
    stand.house.clock.advance(1)
    await stand.house.clock.settle()

    assert [(503, "temporarily_unavailable")] * 2 == [(one.status, one.json["error"]) for one in answers]
    assert {"1"} == {one.headers["Retry-After"] for one in answers}
    assert "temporarily_unavailable" == told["error"]
    assert [200, 200, 303] == [
        (await stand.client.redeem(code)).status,
        (await stand.client.renew(tokens["refresh_token"])).status,
        (await person.decide(question)).status,
    ]


async def test_operator_lists_and_ends_grants(stand: Stand) -> None:
    """Page by page; the end is told with its reason."""
    for _ in range(3):
        await stand.tokens("many")
    service: Any = stand.house.broker.plugin.api._service  # type: ignore[union-attr]  # it is on

    page = await service.grants(OPERATOR, subject="many", after="", limit=2, request_id="t")
    rest = await service.grants(OPERATOR, subject="many", after=page[-1].id, limit=2, request_id="t")
    await service.end(OPERATOR, rest[0].id, request_id="t")
    left = await service.grants(OPERATOR, subject="many", after="", limit=9, request_id="t")

    assert (2, 1, 2) == (len(page), len(rest), len(left))
    assert ("plugin_disconnected", "many", "revoked_by_operator") == (await stand.events())[-1]


async def test_log_says_what_happened_and_no_secret(stand: Stand) -> None:
    """Not in an address, a body or a header."""
    log = io.StringIO()
    configure(LogSettings("json", "info"), log)
    code = await stand.person.code()
    tokens = (await stand.client.redeem(code)).json
    await stand.client.redeem(code, client_secret="wrong-secret-canary")
    await stand.client.post(f"/plugin/token?code={code}", KIT)
    await stand.client.introspect(tokens["access_token"])

    structlog.reset_defaults()
    said = log.getvalue()
    secrets = (code, tokens["access_token"], tokens["refresh_token"], SECRET, "wrong-secret-canary")
    assert "request.answered" in said
    assert [] == [secret for secret in secrets if secret in said]
