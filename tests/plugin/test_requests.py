"""What the endpoints for clients make of garbage, of other methods, and of clients that prove themselves oddly."""

import json

import pytest

from tests.plugin.driving import APPS, KIT, SECRET, Stand, basic

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("path", ["/plugin/token", "/plugin/refresh", "/plugin/revoke"])
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
async def test_only_post(stand: Stand, path: str, method: str) -> None:
    """RFC 6749 3.2: 405 that says what is allowed, as JSON."""
    async with stand.house.session.request(method, stand.house.public + path) as answer:
        text = await answer.text()

    assert (405, "POST") == (answer.status, answer.headers["Allow"])
    assert method == "HEAD" or "invalid_request" == json.loads(text)["error"]


GARBAGE = (
    b"",
    b"[1]",
    b"{",
    b'{"grant_type": "refresh_token", "grant_type": "refresh_token"}',
    b'{"grant_type": {"a": 1}}',
    b"[" * 5000,
    b'{"a": ' + b"[" * 5000,
    b'{"client_id": ' + b"9" * 5000 + b"}",
    b'{"client_id": NaN}',
    b'{"client_id": "\\ud800"}',
    b"\xff\xfe\x00",
    b"grant_type=%ff&client_id=%ff",
    b"client_id=a&client_id=b",
    b"&".join(b"a%d=1" % number for number in range(40)),
    b"client_id=" + b"x" * 5000,
    b"client_id=a%00b",
    b"--boundary\r\nContent-Disposition: form-data; name=client_id\r\n\r\nx\r\n--boundary--",
    b"\x00" * 100,
)


@pytest.mark.parametrize("path", ["/plugin/token", "/plugin/refresh", "/plugin/revoke"])
async def test_garbage_is_told_in_json(stand: Stand, path: str) -> None:
    """Never a page, a traceback, or a word of what was sent."""
    for body in GARBAGE:
        answer = await stand.client.post(path, body, body="form")

        assert answer.json["error"] in ("invalid_request", "invalid_client"), body
        assert answer.status in (400, 401), body
        assert ["error", "error_description"] == list(answer.json), body
        assert "no-store" == answer.headers["Cache-Control"]


async def test_large_body_is_refused_in_json(stand: Stand) -> None:
    """Sixteen kilobytes are plenty."""
    answer = await stand.client.post("/plugin/token", b"a=" + b"x" * 20_000)

    assert (413, "invalid_request") == (answer.status, answer.json["error"])


@pytest.mark.parametrize("name", ["client_secret", "code", "refresh_token", "token", "client_id"])
async def test_parameters_in_the_address_are_refused(stand: Stand, name: str) -> None:
    """RFC 6749 2.3.1: they would end up in logs. Other parameters there are nobody's business."""
    tokens = await stand.tokens()
    asked = {
        "client_id": "kit-client",
        "grant_type": "refresh_token",
        "refresh_token": tokens["refresh_token"],
    }

    refused = await stand.client.post(f"/plugin/refresh?{name}=x", asked)
    taken = await stand.client.post("/plugin/refresh?tenant=1", asked)

    assert (400, "invalid_request", 200) == (refused.status, refused.json["error"], taken.status)


@pytest.mark.parametrize(
    ("headers", "changes", "error"),
    [
        (basic("kit-client", SECRET), KIT, "invalid_request"),
        (basic("kit-client", SECRET), {"client_id": "other:client"}, "invalid_request"),
        (basic("kit-client", "wrong"), {}, "invalid_client"),
        (basic("nobody", "wrong"), {}, "invalid_client"),
        (basic("kit-client", ""), {}, "invalid_client"),
        ({"Authorization": "Basic !!!"}, {}, "invalid_client"),
        ({"Authorization": "Basic a2l0"}, {}, "invalid_client"),
        ({"Authorization": "Basic /w=="}, {}, "invalid_client"),
        ({"Authorization": "Digest x"}, KIT, "invalid_client"),
    ],
)
async def test_one_way_of_proving_who_it_is(
    stand: Stand, headers: dict[str, str], changes: dict[str, str], error: str
) -> None:
    """RFC 6749 2.3 and 5.2: never two; the challenge comes with the header only."""
    asked = {"grant_type": "authorization_code", "code": "x", "redirect_uri": APPS, **changes}

    answer = await stand.client.post("/plugin/token", asked, headers=headers)

    assert error == answer.json["error"]
    assert (error == "invalid_client") == ("WWW-Authenticate" in answer.headers)


async def test_challenge_is_not_sent_to_who_used_the_body(stand: Stand) -> None:
    """401 without it; a Bearer header is no attempt."""
    answers = [
        await stand.client.redeem("x", client_secret="wrong"),
        await stand.client.post(
            "/plugin/token", {"grant_type": "refresh_token"}, headers={"Authorization": "Bearer x"}
        ),
    ]

    assert [401, 401] == [answer.status for answer in answers]
    assert [] == [answer for answer in answers if "WWW-Authenticate" in answer.headers]


async def test_id_may_stand_beside_the_header(stand: Stand) -> None:
    """Some libraries send it in both places; that is no second way of proving it."""
    tokens = await stand.tokens()
    asked = {
        "grant_type": "refresh_token",
        "refresh_token": tokens["refresh_token"],
        "client_id": "kit-client",
    }

    answer = await stand.client.post("/plugin/token", asked, headers=basic("kit-client", SECRET))

    assert 200 == answer.status
