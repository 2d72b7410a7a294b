"""Kit's shapes and rules, over the wire."""

import json
from typing import Any

import pytest

from broker.sandbox import Sandbox

from .app import App, HandClock

GRANT_WORDS = (
    "The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used "
    "in the authorization request, or was issued to another client."
)


async def test_tokens_have_kits_members(app: App, clock: HandClock) -> None:
    """The answer has Doorkeeper's members in its order, and must not be stored."""
    answer = await app.exchange("kit", await app.code("kit"))

    tokens = answer.json
    names = ["access_token", "token_type", "expires_in", "refresh_token", "scope", "created_at"]
    assert names == list(tokens)
    assert (
        tokens["token_type"],
        tokens["expires_in"],
        tokens["scope"],
        tokens["created_at"],
    ) == ("Bearer", 172800, "public", 1_800_000_000)
    assert tokens["access_token"].startswith("sbx-kit-at-")
    assert tokens["refresh_token"].startswith("sbx-kit-rt-")
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/kit/oauth/token", "/kit/v4/oauth/token"])
async def test_json_is_taken_whatever_the_header_says(app: App, path: str) -> None:
    """A JSON body works under a form's content type, as in the vendor's samples."""
    tokens = await app.connect("kit")
    asked = {
        "client_id": "sandbox-kit",
        "grant_type": "refresh_token",
        "refresh_token": tokens["refresh_token"],
    }

    answer = await app.post(
        path, data=json.dumps(asked), headers={"Content-Type": "application/x-www-form-urlencoded"}
    )

    assert answer.status == 200


@pytest.mark.parametrize("body", ["{not json", "a=1&a=2", b"\xff=\xff"])
async def test_a_garbled_body_is_an_invalid_request(app: App, body: str | bytes) -> None:
    """Broken JSON, a parameter given twice and bytes that are no text are refused."""
    answer = await app.post("/kit/oauth/token", data=body)

    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_secret": ""}, 401, "invalid_client"),
        ({"client_id": "nobody"}, 401, "invalid_client"),
        ({"code": "sbx-kit-code-none"}, 400, "invalid_grant"),
        ({"redirect_uri": "http://127.0.0.1:8081/callback/kit/"}, 400, "invalid_grant"),
        ({"code_verifier": "w" * 43}, 400, "invalid_grant"),
        ({"code_verifier": ""}, 400, "invalid_request"),
        ({"redirect_uri": ""}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": ""}, 400, "invalid_request"),
    ],
)
async def test_a_wrong_exchange_is_refused(
    app: App, changes: dict[str, str], status: int, error: str
) -> None:
    """Each thing wrong with an exchange has its RFC 6749 error."""
    code = await app.code("kit")

    answer = await app.exchange("kit", code, **changes)

    assert (status, error) == (answer.status, answer.json["error"])
    assert f'error="{error}"' in answer.headers["WWW-Authenticate"]


async def test_invalid_grant_says_it_in_doorkeepers_words(app: App) -> None:
    """The description is the locale string clients match on."""
    answer = await app.refresh("kit", "sbx-kit-rt-unknown")

    assert answer.json == {"error": "invalid_grant", "error_description": GRANT_WORDS}


async def test_a_hex_challenge_does_not_verify(app: App) -> None:
    """Only RFC 7636's form counts, not the vendor's example that hashes to hex first."""
    hexed = "ZmYyOTI3ZTk3OWY4ZjU3ZTkxMmQzZTBkZDNkZjk2ZjBhYjA0ZjkxZTUwMDdkYzVjZGM4ZWQ4ODc5ZDA5YmQ0Yw"

    answer = await app.exchange("kit", await app.code("kit", code_challenge=hexed))

    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")


async def test_a_verifier_without_a_challenge_is_a_downgrade(app: App) -> None:
    """A code asked for without PKCE is not given out to somebody with a verifier."""
    code = await app.code("kit", code_challenge="", code_challenge_method="")

    answer = await app.exchange("kit", code)

    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")


async def test_a_second_redemption_kills_the_first(app: App) -> None:
    """The code works once; using it twice takes back what it gave."""
    code = await app.code("kit")
    tokens = (await app.exchange("kit", code)).json

    again = await app.exchange("kit", code)

    assert (again.status, again.json["error"]) == (400, "invalid_grant")
    assert (await app.refresh("kit", tokens["refresh_token"])).status == 400


async def test_a_code_lives_ten_minutes(app: App, clock: HandClock) -> None:
    """From 600 seconds on a code is worth nothing."""
    code = await app.code("kit")
    await clock.advance(600)

    answer = await app.exchange("kit", code)

    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")


async def test_refresh_without_secret_is_accepted_until_switched(app: App, sandbox: Sandbox) -> None:
    """Kit's docs show no secret on refresh; `refresh_requires_secret` is stock Doorkeeper."""
    tokens = await app.connect("kit")

    lenient = await app.refresh("kit", tokens["refresh_token"], client_secret="")
    sandbox.faults.set("kit", refresh_requires_secret=True)
    stern = await app.refresh("kit", lenient.json["refresh_token"], client_secret="")

    assert [lenient.status, stern.status] == [200, 401]


async def test_a_refresh_with_a_wrong_secret_is_refused(app: App) -> None:
    """A secret that is sent must be right, also where none is needed."""
    tokens = await app.connect("kit")

    answer = await app.refresh("kit", tokens["refresh_token"], client_secret="wrong")

    assert (answer.status, answer.json["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    "wrong", [{"client_id": "nobody"}, {"redirect_uri": "https://evil.example/callback/kit"}]
)
async def test_a_bad_client_or_redirect_uri_is_never_redirected(app: App, wrong: dict[str, Any]) -> None:
    """Such a request ends at a page for the person."""
    answer = await app.get("/kit/oauth/authorize", params=app.ask("kit", **wrong))

    assert answer.status == 400
    assert "Location" not in answer.headers


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"scope": "everything"}, "invalid_scope"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
    ],
)
async def test_other_mistakes_go_back_to_the_app(app: App, wrong: dict[str, Any], error: str) -> None:
    """The app gets the error and its state back."""
    answer = await app.get("/kit/oauth/authorize", params=app.ask("kit", **wrong))

    assert answer.status == 302
    assert (error, "st/at&e") == (answer.sent_to["error"], answer.sent_to["state"])


@pytest.mark.parametrize("path", ["/kit/oauth/authorize", "/kit/v4/oauth/authorize"])
async def test_the_consent_page_offers_a_choice(app: App, path: str) -> None:
    """The page names the app, escapes what the request holds, and posts the decision to itself."""
    asked = app.ask("kit", state='"><script>')

    answer = await app.get(path, params=asked)

    assert answer.status == 200
    assert "sandbox-kit" in answer.text
    assert "<script" not in answer.text
    assert 'value="allow"' in answer.text and 'value="deny"' in answer.text


async def test_allow_sends_code_and_state(app: App) -> None:
    """The way back is the redirect URI with code and state."""
    answer = await app.consent("kit")

    assert answer.headers["Location"].startswith("http://127.0.0.1:8081/callback/kit?code=sbx-kit-code-")
    assert {"code", "state"} == set(answer.sent_to)
    assert answer.sent_to["state"] == "st/at&e"


async def test_state_may_be_absent(app: App) -> None:
    """No state in, no state out."""
    answer = await app.consent("kit", state="")

    assert {"code"} == set(answer.sent_to)


async def test_deny_sends_access_denied(app: App) -> None:
    """The app hears of the refusal with its state."""
    answer = await app.consent("kit", "deny")

    assert (answer.sent_to["error"], answer.sent_to["state"]) == ("access_denied", "st/at&e")
    assert "code" not in answer.sent_to


async def test_a_free_account_ends_at_billing(app: App, sandbox: Sandbox) -> None:
    """With billing_dead_end no callback ever comes."""
    sandbox.faults.set("kit", billing_dead_end=True)

    answer = await app.consent("kit")

    assert (answer.status, "Location" in answer.headers) == (200, False)
    assert "Upgrade" in answer.text


async def test_deny_can_be_switched_on(app: App, sandbox: Sandbox) -> None:
    """With `deny` the person is sent back without being asked."""
    sandbox.faults.set("kit", deny=True)

    answer = await app.get("/kit/oauth/authorize", params=app.ask("kit"))

    assert answer.sent_to["error"] == "access_denied"


async def test_the_account_is_the_one_that_was_chosen(app: App) -> None:
    """Identity is account.id; the user's id is another number."""
    tokens = await app.connect("kit", account="77", name="Bakery", email="bread@bakery.example")

    document = (await app.use("kit", tokens["access_token"])).json

    account = document["account"]
    assert (
        account["id"],
        account["name"],
        account["primary_email_address"],
    ) == (77, "Bakery", "bread@bakery.example")
    assert document["user"]["id"] != 77


async def test_the_default_account_is_kit_greetings(app: App) -> None:
    """Who fills in nothing is account 29."""
    tokens = await app.connect("kit")

    account = (await app.use("kit", tokens["access_token"])).json["account"]

    assert (account["id"], account["name"]) == (29, "Kit Greetings")


async def test_an_account_that_is_no_number_is_refused(app: App) -> None:
    """Kit's ids are numbers."""
    answer = await app.consent("kit", account="bakery")

    assert answer.status == 400


async def test_the_account_document_can_be_odd(app: App, sandbox: Sandbox) -> None:
    """Empty name, missing user and missing id are switches."""
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", empty_account_name=True, missing_user=True, identity_without_id=True)

    document = (await app.use("kit", tokens["access_token"])).json

    assert list(document) == ["account"]
    assert document["account"]["name"] == ""
    assert "id" not in document["account"]


async def test_identity_can_fail(app: App, sandbox: Sandbox) -> None:
    """identity_status answers without a body, and the token does not count as used."""
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", identity_status=503)

    answer = await app.use("kit", tokens["access_token"])

    assert (answer.status, answer.text) == (503, "")
    assert (await app.record())["resource_uses"] == []


async def test_a_lapsed_plan_rejects_fresh_tokens(app: App, sandbox: Sandbox) -> None:
    """401, but none of the words that a renewal would mend."""
    tokens = await app.connect("kit")
    sandbox.faults.set("kit", plan_lapsed=True)

    answer = await app.use("kit", tokens["access_token"])

    assert answer.status == 401
    assert "plan" in answer.json["errors"][0]


async def test_each_bad_access_token_has_its_message(app: App, sandbox: Sandbox, clock: HandClock) -> None:
    """Missing, unknown, revoked and expired are told apart in the vendor's words."""
    revoked = await app.connect("kit", account="1")
    expired = await app.connect("kit", account="2")
    await app.post("/_sandbox/revoke", json={"provider": "kit", "external_id": "1"})
    await clock.advance(172_800)

    answers = [
        await app.get("/kit/v4/account"),
        await app.use("kit", "sbx-kit-at-unknown"),
        await app.use("kit", revoked["access_token"]),
        await app.use("kit", expired["access_token"]),
    ]

    assert {401} == {answer.status for answer in answers}
    assert [answer.json["errors"][0] for answer in answers] == [
        "Authentication Failed",
        "The access token is invalid",
        "The access token was revoked",
        "The access token expired",
    ]


@pytest.mark.parametrize("path", ["/kit/v4/oauth/revoke", "/kit/oauth/revoke"])
@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_revoking_either_token_ends_the_grant(app: App, path: str, kind: str) -> None:
    """RFC 7009 at both spellings: 200 with an empty body, and nothing of the grant works."""
    tokens = await app.connect("kit")
    form = {"client_id": "sandbox-kit", "client_secret": "sandbox-kit-secret", "token": tokens[kind]}

    answer = await app.post(path, data=form)

    assert (answer.status, answer.text) == (200, "")
    assert not await app.works("kit", tokens["access_token"])
    assert (await app.refresh("kit", tokens["refresh_token"])).status == 400


async def test_revoking_an_unknown_token_is_fine(app: App) -> None:
    """There is nothing to tell the caller."""
    form = {"client_id": "sandbox-kit", "client_secret": "sandbox-kit-secret", "token": "gone"}

    answer = await app.post("/kit/v4/oauth/revoke", data=form)

    assert answer.status == 200


async def test_another_client_may_not_revoke(app: App) -> None:
    """A wrong secret and somebody else's grant are both 403, and the grant lives on."""
    tokens = await app.connect("kit")
    await app.post("/_sandbox/clients", json={"provider": "kit", "client_id": "b", "client_secret": "bs"})

    wrong = {"client_id": "sandbox-kit", "client_secret": "x", "token": tokens["access_token"]}
    other = {"client_id": "b", "client_secret": "bs", "token": tokens["access_token"]}
    answers = [await app.post("/kit/v4/oauth/revoke", data=form) for form in (wrong, other)]

    assert [answer.status for answer in answers] == [403, 403]
    assert await app.works("kit", tokens["access_token"])


async def test_reused_access_tokens_are_shared(app: App, sandbox: Sandbox, clock: HandClock) -> None:
    """With reuse_access_token a second authorization gets the first one's tokens, aged; a tenant does not."""
    sandbox.faults.set("kit", reuse_access_token=True)
    first = await app.connect("kit")
    await clock.advance(100)

    second = await app.connect("kit")
    tenant = await app.connect("kit", tenant_name="shop-2")

    assert (first["access_token"], first["refresh_token"]) == (
        second["access_token"],
        second["refresh_token"],
    )
    assert (second["created_at"], second["expires_in"]) == (1_800_000_000, 172_700)
    assert first["access_token"] != tenant["access_token"]


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-authorization-server",
        "/kit/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/kit",
    ],
)
async def test_metadata_names_the_endpoints(app: App, path: str) -> None:
    """RFC 8414, with what `supplied_tables` tells the broker."""
    document = (await app.get(path)).json

    assert f"{app.base}/kit/oauth/authorize" == document["authorization_endpoint"]
    assert f"{app.base}/kit/oauth/token" == document["token_endpoint"]
    assert document["code_challenge_methods_supported"] == ["S256"]


async def test_the_app_store_links_to_the_broker_unencoded(app: App) -> None:
    """Install leads there with the redirect and its nested question mark, as Kit's own link does."""
    page, answer = [await app.get(f"/kit/apps/717/{name}") for name in ("install", "start")]

    link = f"http://127.0.0.1:8081/install/kit?redirect={app.base}/kit/apps/717?success=true"
    assert ('href="/kit/apps/717/start"' in page.text, link) == (True, answer.headers["Location"])
