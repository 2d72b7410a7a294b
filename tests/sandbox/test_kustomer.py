"""Kustomer's shapes and rules, over the wire."""

import json
from base64 import urlsafe_b64decode

import pytest

from broker.sandbox import Sandbox

from .app import App, HandClock


def claims(access_token: str) -> dict[str, object]:
    payload = access_token.split(".")[1]
    decoded: dict[str, object] = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return decoded


async def test_tokens_have_kustomers_members(app: App) -> None:
    """Lower-case bearer, a day, no created_at, no org."""
    answer = await app.exchange("kustomer", await app.code("kustomer"))

    tokens = answer.json
    assert list(tokens) == ["scope", "token_type", "access_token", "expires_in", "refresh_token"]
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 86400)
    assert tokens["scope"] == "org.permission.customer offline_access"
    assert tokens["refresh_token"].startswith("sbx-kus-rt-")
    assert answer.headers["Cache-Control"] == "no-store"


async def test_the_access_token_looks_like_a_jwt(app: App) -> None:
    """Its payload names the org, its signature carries a prefix that a search finds."""
    tokens = await app.connect("kustomer", org="globex")

    parts = tokens["access_token"].split(".")

    assert len(parts) == 3
    assert claims(tokens["access_token"])["orgName"] == "globex"
    assert parts[2].startswith("sbx-kus-at-")


async def test_without_offline_access_there_is_no_refresh_token(app: App) -> None:
    """The member is absent, and the grant is not renewable."""
    tokens = await app.connect("kustomer", scope="org.permission.customer")

    assert "refresh_token" not in tokens
    assert await app.works("kustomer", tokens["access_token"])
    assert [grant["live"] for grant in (await app.record())["grants"]] == [False]


async def test_json_is_refused(app: App) -> None:
    """The token endpoint takes forms only."""
    answer = await app.post("/kustomer/oauth/token", json={"grant_type": "refresh_token"})

    assert answer.status == 400
    assert "errors" in answer.json


async def test_a_refresh_needs_the_secret(app: App) -> None:
    """The vendor's page lists it."""
    tokens = await app.connect("kustomer")

    answer = await app.refresh("kustomer", tokens["refresh_token"], client_secret="")

    assert (answer.status, answer.json["error"]) == (401, "invalid_client")


async def test_a_second_redemption_spares_the_first(app: App) -> None:
    """Nothing says that Kustomer takes back what a code gave."""
    code = await app.code("kustomer")
    tokens = (await app.exchange("kustomer", code)).json

    again = await app.exchange("kustomer", code)

    assert (again.status, again.json["error"]) == (400, "invalid_grant")
    assert await app.works("kustomer", tokens["access_token"])


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        ("errors", '{"errors": [{"code": "bad_request", "message": "Invalid Client", "meta": {}}]}'),
        ("oauth", '{"error": "invalid_client", "error_description": "Invalid Client"}'),
        ("text", "Invalid Client"),
    ],
)
async def test_an_org_without_the_app_is_an_invalid_client(
    app: App, sandbox: Sandbox, shape: str, body: str | bytes
) -> None:
    """400 in three shapes, at the token endpoint and in the browser, for that org only."""
    acme = await app.connect("kustomer", org="acme")
    globex = await app.connect("kustomer", org="globex")
    sandbox.faults.set("kustomer", app_not_installed=["acme"], invalid_client_shape=shape)

    refused = await app.refresh("kustomer", acme["refresh_token"])
    seen = await app.consent("kustomer", org="acme")

    assert (400, body) == (refused.status, refused.text)
    assert (400, body) == (seen.status, seen.text)
    assert (await app.refresh("kustomer", globex["refresh_token"])).status == 200


async def test_an_org_has_hosts_of_its_own(app: App) -> None:
    """Under /kustomer/{org} consent is for that org, and another org's host does not know its tokens."""
    form = {**app.ask("kustomer"), "decision": "allow"}
    code = (await app.post("/kustomer/globex/oauth/authorize", data=form)).sent_to["code"]
    exchange = {
        "client_id": "sandbox-kustomer",
        "client_secret": "sandbox-kustomer-secret",
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": form["redirect_uri"],
        "code_verifier": "v" * 43,
    }

    elsewhere = await app.post("/kustomer/acme/oauth/token", data=exchange)
    tokens = (await app.post("/kustomer/globex/oauth/token", data=exchange)).json

    assert (elsewhere.status, elsewhere.json["error"]) == (400, "invalid_grant")
    assert claims(tokens["access_token"])["orgName"] == "globex"


async def test_the_consent_page_of_an_org_is_filled_in(app: App) -> None:
    """The org of the path stands in the field."""
    page = await app.get("/kustomer/globex/oauth/authorize", params=app.ask("kustomer"))

    assert 'name="org" value="globex"' in page.text


async def test_the_current_user_names_the_org(app: App) -> None:
    """JSON:API with the org's id, which is not its slug, and the same one as in the token."""
    tokens = await app.connect("kustomer", org="globex")

    data = (await app.use("kustomer", tokens["access_token"])).json["data"]

    org = data["relationships"]["org"]["data"]
    assert (data["type"], org["type"]) == ("user", "org")
    assert claims(tokens["access_token"])["org"] == org["id"] != "globex"
    assert data["id"] != org["id"]


async def test_bad_access_tokens_are_unauthorized(app: App, clock: HandClock) -> None:
    """Expired and unknown ones have the vendor's error shape."""
    tokens = await app.connect("kustomer")
    await clock.advance(86_400)

    expired = await app.use("kustomer", tokens["access_token"])
    unknown = await app.use("kustomer", "a.b.c")

    assert [expired.status, unknown.status] == [401, 401]
    assert expired.json["errors"][0] == {"code": "unauthorized", "message": "Expired token", "meta": {}}


async def test_kits_token_is_nothing_at_kustomer(app: App) -> None:
    """The providers do not know each other's tokens."""
    tokens = await app.connect("kit")

    answer = await app.use("kustomer", tokens["access_token"])
    refresh = await app.refresh("kustomer", tokens["refresh_token"])

    assert [answer.status, refresh.status] == [401, 400]


async def test_identity_faults(app: App, sandbox: Sandbox) -> None:
    """Status, wrong pod, lapsed plan and a missing id."""
    tokens = await app.connect("kustomer")

    seen = []
    for switch in ({"identity_status": 503}, {"pod_mismatch": True}, {"plan_lapsed": True}):
        sandbox.faults.set("kustomer", **switch)
        seen.append((await app.use("kustomer", tokens["access_token"])).status)
        sandbox.faults.reset()
    sandbox.faults.set("kustomer", identity_without_id=True)
    bare = (await app.use("kustomer", tokens["access_token"])).json

    assert seen == [503, 401, 403]
    assert {"type", "attributes"} == set(bare["data"])


async def test_every_answer_counts_the_rate(app: App, clock: HandClock) -> None:
    """x-ratelimit headers: limit, what is left in this minute, and when it starts again."""
    first = await app.use("kustomer", "x")
    second = await app.refresh("kustomer", "x")

    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("1000", "999")
    assert second.headers["x-ratelimit-remaining"] == "998"
    assert clock.now() < int(second.headers["x-ratelimit-reset"]) <= clock.now() + 60


async def test_there_is_no_revocation(app: App) -> None:
    """Kustomer has no such endpoint."""
    answer = await app.post("/kustomer/oauth/revoke", data={"token": "x"})

    assert answer.status == 404


DEFINITION = {
    "app": "myoauthapp",
    "version": "0.0.1",
    "title": "My OAuth App",
    "visibility": "private",
    "redirectUris": ["https://broker.example/callback/kustomer"],
}
KEY = {"Authorization": "Bearer an-api-key"}


async def test_an_app_is_registered(app: App) -> None:
    """Its name gets the org's id, the answer holds a client id and the redirect URIs."""
    answer = await app.post("/kustomer/v1/apps/available", json=DEFINITION, headers=KEY)

    data = answer.json["data"]
    attributes = data["attributes"]
    assert ("available_app", f"{attributes['name']}-0.0.1") == (data["type"], data["id"])
    assert attributes["name"].startswith("myoauthapp_")
    assert DEFINITION["redirectUris"] == attributes["redirectUris"]
    listed = (await app.get("/kustomer/v1/apps/available", headers=KEY)).json["data"]
    assert [data["id"]] == [item["id"] for item in listed]


@pytest.mark.parametrize(
    ("headers", "changes", "status"),
    [({}, {}, 401), (KEY, {"version": "one"}, 400), (KEY, {"visibility": "secret"}, 400), (KEY, {}, 409)],
)
async def test_a_wrong_registration_creates_nothing(
    app: App, headers: dict[str, str], changes: dict[str, str], status: int
) -> None:
    """No key, a malformed definition, and a version that exists."""
    await app.post("/kustomer/v1/apps/available", json=DEFINITION, headers=KEY)

    answer = await app.post("/kustomer/v1/apps/available", json={**DEFINITION, **changes}, headers=headers)

    assert status == answer.status
    assert len((await app.get("/kustomer/v1/apps/available", headers=KEY)).json["data"]) == 1


@pytest.mark.parametrize("spelling", ["name", "id"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_registered_app_can_connect(app: App, spelling: str, slash: str) -> None:
    """The secret of either spelling opens the token endpoint; only the registered redirect URI is taken."""
    uri = "https://broker.example/callback/kustomer"
    data = (await app.post("/kustomer/v1/apps/available", json=DEFINITION, headers=KEY)).json["data"]
    name = data["id"] if spelling == "id" else data["attributes"]["name"]
    made = await app.post(f"/kustomer/v1/apps/available/{name}/secret{slash}", json={}, headers=KEY)
    attributes = made.json["data"]["attributes"]
    client = {"client_id": attributes["clientId"], "redirect_uri": uri}

    code = await app.code("kustomer", **client)
    tokens = await app.exchange("kustomer", code, client_secret=attributes["clientSecret"], **client)
    default_uri = await app.consent("kustomer", client_id=attributes["clientId"])

    assert [tokens.status, default_uri.status] == [200, 400]


async def test_a_new_secret_replaces_the_old(app: App) -> None:
    """Asking again ends the one before."""
    data = (await app.post("/kustomer/v1/apps/available", json=DEFINITION, headers=KEY)).json["data"]
    path = f"/kustomer/v1/apps/available/{data['id']}/secret"
    first = (await app.post(path, json={}, headers=KEY)).json["data"]["attributes"]
    await app.post(path, json={}, headers=KEY)

    answer = await app.refresh(
        "kustomer", "x", client_id=first["clientId"], client_secret=first["clientSecret"]
    )

    assert (answer.status, answer.json["error"]) == (401, "invalid_client")
