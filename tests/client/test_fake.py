"""`FakeBroker` answers as the real broker does: one suite, both of them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from broker.client.testing import FakeBroker
from tests.fakes.clock import FakeClock
from tests.house import Answer, House, open_house


@dataclass(slots=True)
class Stage:
    """One of both, with a clock to turn and an account `acme` that is a minute old."""

    url: str
    key: str
    clock: FakeClock
    session: aiohttp.ClientSession
    fake: FakeBroker | None = None
    house: House | None = None
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def ask(
        self, method: str, path: str, *, key: str | None = None, body: object = None, **headers: str
    ) -> Answer:
        bearer = {"Authorization": f"Bearer {self.key if key is None else key}"}
        data = None if body is None else json.dumps(body).encode()
        async with self.session.request(
            method, self.url + path, headers={**bearer, **headers}, data=data
        ) as response:
            return Answer(response.status, CIMultiDict(response.headers), await response.read())

    async def get(self, path: str = "/token/acme", **headers: str) -> Answer:
        return await self.ask("GET", path, **headers)

    async def report(self, generation: object) -> Answer:
        return await self.ask("POST", "/token/acme/refresh", body={"rejected_generation": generation})

    async def renewed(self) -> None:
        """Let a renewal that was begun end."""
        if self.house is not None:
            await self.house.broker.tokens.flights.drain()


@pytest.fixture(name="stage", params=["fake", "real"])
async def _stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    clock = FakeClock()
    async with aiohttp.ClientSession() as session, AsyncExitStack() as closing:
        if request.param == "fake":
            fake = closing.enter_context(FakeBroker(now=clock.now))
            # Its first token is issued now, and not when it is first asked for.
            fake.access_token("acme")
            yield Stage(fake.url, fake.key, clock, session, fake=fake)
        else:
            house = await closing.enter_async_context(open_house(tmp_path / "house", clock=clock))
            await house.connect()
            clock.advance(60)
            yield Stage(house.internal, house.key, clock, session, house=house)


def shape(payload: dict[str, Any]) -> dict[str, str]:
    """The members, and of what kind each is."""
    return {name: type(value).__name__ for name, value in payload.items()}


TOKEN = {
    "account": "str",
    "provider": "str",
    "access_token": "str",
    "token_type": "str",
    "scope": "str",
    "expires_in": "int",
    "expires_at": "str",
    "provider_expires_at": "str",
    "generation": "int",
}
PROBLEM = {
    "type": "str",
    "title": "str",
    "status": "int",
    "detail": "str",
    "code": "str",
    "request_id": "str",
}


async def test_token_has_the_same_members(stage: Stage) -> None:
    """And the same headers; and what it says of time is the same."""
    answer = await stage.get()

    assert TOKEN == shape(answer.json)
    assert (200, '"1"', "no-store") == (
        answer.status,
        answer.headers["ETag"],
        answer.headers["Cache-Control"],
    )
    assert 172800 - 900 - 60 == answer.json["expires_in"]
    assert ("acme", "kit", 1) == tuple(answer.json[name] for name in ("account", "provider", "generation"))
    assert "application/json" == answer.headers["Content-Type"].partition(";")[0]
    assert 16 == len(answer.headers["X-Request-Id"])


async def test_bare_token(stage: Stage) -> None:
    """For scripts."""
    token = (await stage.get()).json["access_token"]

    bare = await stage.get(Accept="text/plain")

    assert f"{token}\n".encode() == bare.body


async def test_nothing_new(stage: Stage) -> None:
    """304 for the generation that one has, 200 for another."""
    answers = [await stage.get(**{"If-None-Match": etag}) for etag in ('"1"', '"7"')]

    assert [304, 200] == [answer.status for answer in answers]


async def test_in_its_window_a_token_is_for_now(stage: Stage) -> None:
    """`expires_in` 1, and the next ask has the next generation."""
    stage.clock.advance(172800 - 600)

    now = await stage.get()
    await stage.renewed()
    then = await stage.get()

    assert (1, 1) == (now.json["expires_in"], now.json["generation"])
    assert (172800 - 900, 2) == (then.json["expires_in"], then.json["generation"])


async def test_dead_token_is_renewed_first(stage: Stage) -> None:
    """Who asks then waits and gets the new one."""
    stage.clock.advance(172800)

    answer = await stage.get()

    assert (2, 172800 - 900) == (answer.json["generation"], answer.json["expires_in"])


async def test_more_life_is_had_by_renewing(stage: Stage) -> None:
    """`min_ttl` within half of the token's life."""
    stage.clock.advance(100_000)

    answers = [await stage.get(f"/token/acme?min_ttl={seconds}") for seconds in (60_000, 80_000, 90_000)]

    assert [1, 2] == [answer.json["generation"] for answer in answers[:2]]
    assert (400, "invalid_request") == (answers[2].status, answers[2].json["code"])


async def test_report_renews_once(stage: Stage) -> None:
    """Whoever reports the same generation again gets what there is."""
    answers = [await stage.report(generation) for generation in (1, 1)]

    assert [2, 2] == [answer.json["generation"] for answer in answers]
    assert TOKEN == shape(answers[0].json)


async def test_whole_number_may_be_written_with_a_point(stage: Stage) -> None:
    """17.0 is an integer to JSON."""
    answers = [await stage.report(generation) for generation in (1.0, 1.5)]

    assert [200, 400] == [answer.status for answer in answers]
    assert 2 == answers[0].json["generation"]


async def test_third_report_within_ten_minutes_renews_nothing(stage: Stage) -> None:
    """The provider rejects what is fresh, and says when to ask again."""
    for generation in (1, 2):
        await stage.report(generation)
        stage.clock.advance(61)

    answer = await stage.report(3)

    assert {**PROBLEM, "reason": "str"} == shape(answer.json)
    assert (429, "rate_limited", "rejected_by_provider") == (
        answer.status,
        answer.json["code"],
        answer.json["reason"],
    )
    assert 1 <= int(answer.headers["Retry-After"]) <= 600


async def test_report_of_a_young_token_renews_nothing(stage: Stage) -> None:
    """A provider that rejects what was just issued rejects the next one too."""
    await stage.report(1)

    answer = await stage.report(2)

    assert 429 == answer.status


MISTAKES: list[tuple[str, str, object, int, str]] = [
    ("GET", "/token/ACME", None, 400, "invalid_request"),
    ("GET", "/token/acme?min_ttl=soon", None, 400, "invalid_request"),
    ("GET", "/token", None, 404, "not_found"),
    ("DELETE", "/token/acme", None, 405, "method_not_allowed"),
    ("POST", "/token/acme/refresh", {"generation": 1}, 400, "invalid_request"),
    ("POST", "/token/acme/refresh", {"rejected_generation": "1"}, 400, "invalid_request"),
    ("POST", "/token/acme/refresh", {"rejected_generation": True}, 400, "invalid_request"),
    ("POST", "/token/acme/refresh", [], 400, "invalid_request"),
]


async def test_mistakes_are_told_alike(stage: Stage) -> None:
    """As problem documents."""
    answers = [await stage.ask(method, path, body=body) for method, path, body, _, _ in MISTAKES]

    assert [(status, code) for *_, status, code in MISTAKES] == [
        (answer.status, answer.json["code"]) for answer in answers
    ]
    assert [PROBLEM] * len(MISTAKES) == [shape(answer.json) for answer in answers]
    assert {"application/problem+json"} == {
        answer.headers["Content-Type"].partition(";")[0] for answer in answers
    }
    assert ["GET"] == [answer.headers["Allow"] for answer in answers if answer.status == 405]


async def test_wrong_key_is_refused_first(stage: Stage) -> None:
    """Before anything else is looked at."""
    answers = [
        await stage.ask("GET", path, key="tbk_wrong") for path in ("/token/acme", "/token/ACME", "/nowhere")
    ]

    assert {(401, "unauthenticated", "Bearer")} == {
        (answer.status, answer.json["code"], answer.headers["WWW-Authenticate"]) for answer in answers
    }


async def test_refused_accounts_look_alike(stage: Stage) -> None:
    """A dead grant says since when and where to connect again; an unknown account says nothing more."""
    if stage.house is not None:
        await _kill_the_grant(stage.house)
    else:
        assert stage.fake is not None
        stage.fake.refuse("acme", "needs_reauthorization")
        stage.fake.refuse("nobody", "unknown_account")

    dead, unknown = await stage.get(), await stage.get("/token/nobody")

    assert {**PROBLEM, "reason": "str", "since": "str", "reconnect_url": "str"} == shape(dead.json)
    assert (409, "revoked_or_expired") == (dead.status, dead.json["reason"])
    assert (404, "unknown_account", PROBLEM) == (unknown.status, unknown.json["code"], shape(unknown.json))


async def _kill_the_grant(house: House) -> None:
    """The person uninstalls, and the broker hears of it twice."""
    account = await house.account()
    uninstalled = {"provider": "kit", "external_id": account.external_id}
    await house.session.post(f"{house.sandbox.base_url}/_sandbox/revoke", json=uninstalled)
    house.clock.advance(172800)
    asked = asyncio.create_task(house.get("/token/acme"))
    while not asked.done():
        await house.clock.settle()
        house.clock.advance(house.clock.next_wake or 0.0)


async def test_passing_refusal_says_when_to_ask_again(stage: Stage) -> None:
    """A 503 carries Retry-After."""
    stage.clock.advance(172800)
    if stage.house is not None:
        stage.house.sandbox.faults.set("kit", status=503, headers={"Retry-After": "20"})
    else:
        assert stage.fake is not None
        stage.fake.refuse("acme", "provider_unavailable", retry_after=20)

    answer = await stage.get()

    assert (503, "provider_unavailable") == (answer.status, answer.json["code"])
    assert 1 <= int(answer.headers["Retry-After"]) <= 30


def test_fake_is_told_only_what_the_broker_could_say() -> None:
    """A code that does not exist is a mistake of the test's."""
    with FakeBroker() as fake, pytest.raises(ValueError, match="not a code of the broker"):
        fake.refuse("acme", "teapot")

    with pytest.raises(RuntimeError, match="not started"):
        _ = FakeBroker().url


def test_fixture_is_one_line_away(fake_broker: FakeBroker) -> None:
    """This suite has it as callers do: `pytest_plugins = ["broker.client.testing.fixtures"]`."""
    conftest = (Path(__file__).parent.parent / "conftest.py").read_text()

    assert fake_broker.url.startswith("http://127.0.0.1:")
    assert 'pytest_plugins = ["broker.client.testing.fixtures"]' in conftest


def test_fake_judges_for_the_api_that_a_test_plays(fake_broker: FakeBroker) -> None:
    """It knows which tokens live."""
    living = f"Bearer {fake_broker.access_token('acme')}"
    before = fake_broker.accepts(living)

    fake_broker.expire("acme")

    assert (True, False, False) == (before, fake_broker.accepts(living), fake_broker.accepts(None))
