"""Who may ask whom, and what a yes or a no leads to."""

import asyncio
from urllib.parse import urlencode

import pytest

from tests.plugin.driving import APPS, CHALLENGE, INSTALL, OTHER, Person, Stand

pytestmark = pytest.mark.asyncio(loop_scope="module")
GOOD = {"client_id": "kit-client", "response_type": "code", "redirect_uri": INSTALL, "state": "s"}


async def connect_code(stand: Stand, subject: str = "user-42") -> str:
    answer = await stand.house.post("/plugin/connect-codes", {"subject": subject})
    assert 201 == answer.status
    return str(answer.json["connect_code"])


async def test_yes_goes_back_with_a_code_the_state_and_who_we_are(stand: Stand, person: Person) -> None:
    """And nothing else; 303, so that the form stays here."""
    step = await person.decide(await person.question(state="a b&c=/~"))

    assert (303, INSTALL) == (step.status, step.location.partition("?")[0])
    assert {"code": step.told["code"], "state": "a b&c=/~", "iss": stand.house.public} == step.told
    assert "no-referrer" == step.headers["Referrer-Policy"]


async def test_no_goes_back_with_access_denied(stand: Stand, person: Person) -> None:
    """With state and issuer too."""
    step = await person.decide(await person.question(state="s"), "deny")

    assert ("access_denied", "s", stand.house.public) == (
        step.told["error"],
        step.told["state"],
        step.told["iss"],
    )


async def test_state_is_left_out_where_none_came(person: Person) -> None:
    """Kit sends none in its documents."""
    step = await person.decide(await person.question())

    assert {"code", "iss"} == set(step.told)


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "nobody"},
        {"client_id": None},
        {"client_id": ""},
        {"redirect_uri": "https://evil.example/apps/install"},
        {"redirect_uri": "https://app.kit.com/apps/install/"},
        {"redirect_uri": "https://app.kit.com/apps/install?x=1"},
        {"redirect_uri": "https://APP.kit.com/apps/install"},
        {"redirect_uri": "http://app.kit.com/apps/install"},
        {"redirect_uri": "https://app.kit.com/apps/../apps/install"},
        {"redirect_uri": "https://app.example.com/scoped?keep=1"},
        {"redirect_uri": None},
    ],
)
async def test_wrong_client_or_address_gets_a_page_and_no_redirect(
    person: Person, changes: dict[str, str | None]
) -> None:
    """Whoever wrote the address does not get the browser, and nobody is asked to sign in."""
    step = await person.authorize(**changes)

    assert (400, "") == (step.status, step.location)


@pytest.mark.parametrize("name", ["client_id", "redirect_uri"])
async def test_repeated_client_or_address_gets_a_page(person: Person, name: str) -> None:
    """Even where both are right."""
    step = await person.authorize(urlencode([*GOOD.items(), (name, GOOD[name])]))

    assert (400, "") == (step.status, step.location)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code token"}, "unsupported_response_type"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"code_challenge": CHALLENGE}, "invalid_request"),
        ({"code_challenge": CHALLENGE, "code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "short", "code_challenge_method": "S256"}, "invalid_request"),
        ({"code_challenge_method": "S256"}, "invalid_request"),
    ],
)
async def test_other_mistakes_are_told_to_the_client(
    stand: Stand, person: Person, changes: dict[str, str | None], error: str
) -> None:
    """By redirecting, with state and issuer, before anybody signs in."""
    step = await person.authorize(state="s", **changes)

    assert (303, error, "s", stand.house.public) == (
        step.status,
        step.told["error"],
        step.told["state"],
        step.told["iss"],
    )


@pytest.mark.parametrize("name", ["state", "response_type", "scope"])
async def test_repeated_parameter_is_told_to_the_client(person: Person, name: str) -> None:
    """RFC 6749 3.1; which of two states to echo cannot be known."""
    raw = urlencode([*GOOD.items(), (name, "x"), (name, "y")])

    step = await person.authorize(raw)

    assert ("invalid_request", False) == (step.told["error"], "state" in step.told)


async def test_address_may_be_left_out_where_there_is_one(person: Person) -> None:
    """What it holds already is kept."""
    step = await person.decide(await person.question(client_id="other:client", redirect_uri=None))

    assert step.location.startswith("https://app.example.com/scoped?keep=1&code=")


async def test_page_says_who_asks_for_what_as_whom(person: Person) -> None:
    """Escaped; all scopes where none are named."""
    page = await person.question("user-<i>7", client_id="other:client", redirect_uri=None)

    assert "Allow Other &lt;b&gt;app&lt;/b&gt; to act for you here?" in page.text
    assert [True, True] == [
        f"<code>{word}</code>" in page.text for word in ("read:products", "write:products")
    ]
    assert "user-&lt;i&gt;7" in page.text
    assert "app.example.com" in page.text


async def test_page_cannot_be_framed_and_leads_to_the_client_only(stand: Stand, person: Person) -> None:
    """The headers of every page; the form leads here, then to the client, then to Kit's API consent."""
    page = await person.question()

    policy = page.headers["Content-Security-Policy"]
    assert "DENY" == page.headers["X-Frame-Options"]
    assert f"form-action 'self' https://app.kit.com {stand.house.sandbox.base_url};" in policy
    assert "frame-ancestors 'none'" in policy
    assert "no-store" == page.headers["Cache-Control"]


async def test_answer_from_another_site_does_not_count(stand: Stand, person: Person) -> None:
    """Nor one whose site cannot be known; our own page's does."""
    question = await person.question()

    foreign = await person.decide(question, headers={"Origin": "https://evil.example"})
    hidden = await person.decide(question, headers={"Origin": "null"})
    ours = await person.decide(question, headers={"Origin": stand.house.public})

    assert [403, 403, 303] == [foreign.status, hidden.status, ours.status]


async def test_answer_without_the_pages_token_does_not_count(person: Person) -> None:
    """A form that another site made does not hold it."""
    await person.question()

    step = await person.open(
        f"{person.house.public}/plugin/authorize", "POST", data={"decision": "allow", "consent": "x" * 43}
    )

    assert (410, "") == (step.status, step.location)


@pytest.mark.parametrize("why", ["cookies", "browser"])
async def test_answer_in_another_browser_does_not_count(stand: Stand, person: Person, why: str) -> None:
    """Nobody can be made to answer somebody else's question."""
    question, other = await person.question(), Person(stand.house)
    if why == "browser":
        await other.authorize()

    step = await other.decide(question)
    await other.close()

    assert (400, "") == (step.status, step.location)
    assert {"cookies": "Cookies are off", "browser": "another browser"}[why] in step.text


async def test_question_is_answered_once(person: Person) -> None:
    """Ten clicks issue one code."""
    question = await person.question()

    steps = await asyncio.gather(*[person.decide(question) for _ in range(10)])

    assert [303] + [410] * 9 == sorted(step.status for step in steps)


async def test_question_can_be_seen_again_until_it_is_answered(stand: Stand, person: Person) -> None:
    """A reload does no harm; ten minutes end it."""
    question = await person.question()

    again = await person.open(question.url)
    stand.house.clock.advance(600)
    late = await person.decide(again)

    assert (200, question.form) == (again.status, again.form)
    assert (410, "") == (late.status, late.location)


async def test_who_does_not_sign_in_is_not_asked(stand: Stand, person: Person) -> None:
    """The client hears nothing, as the person left."""
    step = await person.authorize()

    back = await person.open(
        f"{stand.house.public}/login/complete?login_challenge={step.told['login_challenge']}"
        "&login_error=access_denied"
    )

    assert (400, "") == (back.status, back.location)


async def test_connect_code_says_who_it_is(codes: Stand) -> None:
    """However it is typed; once."""
    typed = (await connect_code(codes, "user-7")).lower().replace("-", " ")
    page = await codes.person.question()

    step = await codes.person.decide(page, typed={"connect_code": typed})
    tokens = (await codes.client.redeem(step.told["code"])).json
    again = await codes.person.decide(await codes.person.question(), typed={"connect_code": typed})

    assert "user-7" == (await codes.client.introspect(tokens["access_token"]))["sub"]
    assert (400, True) == (again.status, "connect code is not valid" in again.text)


async def test_connect_code_has_enough_bits_and_letters_that_are_not_misread(codes: Stand) -> None:
    """Forty at least are not used for finding it."""
    found = [await connect_code(codes) for _ in range(20)]

    assert 20 == len(set(found))
    assert {14} == {len(code) for code in found}
    assert not set("".join(found)) & set("ILOU")


async def test_connect_code_ends_after_ten_minutes(codes: Stand) -> None:
    """The answer says when."""
    answer = await codes.house.post("/plugin/connect-codes", {"subject": "user-8"})
    codes.house.clock.advance(600)

    step = await codes.person.decide(
        await codes.person.question(), typed={"connect_code": answer.json["connect_code"]}
    )

    assert 400 == step.status


async def test_connect_code_ends_after_five_wrong_tries(codes: Stand) -> None:
    """Counted against the code, over all pages."""
    code = await connect_code(codes, "user-9")
    wrong = code[:-4] + ("0000" if not code.endswith("0000") else "1111")
    for _ in range(5):
        await codes.person.decide(await codes.person.question(), typed={"connect_code": wrong})

    step = await codes.person.decide(await codes.person.question(), typed={"connect_code": code})

    assert 400 == step.status


async def test_page_ends_after_five_wrong_tries(codes: Stand) -> None:
    """Who guesses has to begin again, and the right code is not harmed."""
    code, page = await connect_code(codes, "user-10"), await codes.person.question()
    tries = [
        await codes.person.decide(page, typed={"connect_code": word})
        for word in ("", "x", "0000-0000-0000", "ZZZZ-ZZZZ-ZZZZ", "YYYY-YYYY-YYYY")
    ]

    over = await codes.person.decide(page, typed={"connect_code": code})
    good = await codes.person.decide(await codes.person.question(), typed={"connect_code": code})

    assert [400, 400, 400, 400, 410] == [step.status for step in tries]
    assert (410, 303) == (over.status, good.status)


async def test_no_needs_no_connect_code(codes: Stand) -> None:
    """Whoever it is may say no, and no code is spent."""
    step = await codes.person.decide(await codes.person.question(), "deny")

    assert "access_denied" == step.told["error"]


async def test_connect_codes_need_the_permission(codes: Stand) -> None:
    """And a subject; 400 before 403."""
    key = await codes.house.caller("*", permissions=("token", "manage"), name="tokens-only")

    refused = await codes.house.post("/plugin/connect-codes", {"subject": "x"}, key=key)
    nobody = await codes.house.post("/plugin/connect-codes", {"subject": " "})

    assert (403, 400) == (refused.status, nobody.status)


async def test_store_holds_no_secret_in_clear(codes: Stand) -> None:
    """Not a code, a handle, a cookie, a connect code or a token; the row of a connect code is keyed."""
    code = await connect_code(codes, "canary")
    page = await codes.person.question()
    step = await codes.person.decide(page, typed={"connect_code": code})
    first = (await codes.client.redeem(step.told["code"])).json
    second = (await codes.client.renew(first["refresh_token"])).json
    unspent = await connect_code(codes, "canary")
    cookies = {cookie.value for cookie in codes.person.session.cookie_jar}

    await codes.house.close()
    held = b"".join(path.read_bytes() for path in codes.house.folder.glob("var/broker.db*"))
    await codes.house.open()

    secrets = {
        *(one.replace("-", "") for one in (code, unspent)),
        page.form["consent"],
        step.told["code"],
        *cookies,
        *(answer[name] for answer in (first, second) for name in ("access_token", "refresh_token")),
    }
    assert b"canary" in held
    assert [] == [secret for secret in secrets if secret.encode() in held]


async def test_scopes_are_divided_by_spaces_or_commas(stand: Stand, person: Person) -> None:
    """Kit's documents say both; nobody gets more than was asked for."""
    for scope in ("read:products", "read:products,", " read:products  read:products"):
        code = await person.code(client_id="other:client", redirect_uri=None, scope=scope)
        answer = await stand.client.redeem(code, **OTHER, redirect_uri=None)

        assert "read:products" == answer.json["scope"]


async def test_either_registered_address_may_be_asked_with(stand: Stand, person: Person) -> None:
    """The answer goes to the one that was named."""
    step = await person.decide(await person.question(redirect_uri=APPS))

    assert APPS == step.location.partition("?")[0]


@pytest.mark.parametrize("more", ["&utm_source=x", "&ck_subscriber_id=1&x=1&x=2", "&consent=x&login_hint=me"])
async def test_unknown_parameters_are_ignored(stand: Stand, person: Person, more: str) -> None:
    """RFC 6749 3.1: where the client asks, on the way back from the sign-in, and where the question is shown."""
    asked = await person.authorize(urlencode(GOOD) + more)
    signed = await person.open(
        asked.location, "POST", data={"login_challenge": asked.told["login_challenge"], "login_as": "u"}
    )
    back = await person.open(signed.location + more.replace("&consent=x", ""))
    question = await person.open(f"{stand.house.public}{back.location}{more.replace('&consent=x', '')}")
    step = await person.decide(question)

    assert [303, 303, 200, 303] == [asked.status, back.status, question.status, step.status]
    assert "s" == step.told["state"]


async def test_sign_in_counts_once(stand: Stand, person: Person) -> None:
    """Ten loads of the way back open one question; another browser opens none."""
    asked, other = await person.authorize(), Person(stand.house)
    signed = await person.open(
        asked.location, "POST", data={"login_challenge": asked.told["login_challenge"], "login_as": "u"}
    )
    await other.authorize()

    foreign = await other.open(signed.location)
    steps = await asyncio.gather(*[person.open(signed.location) for _ in range(10)])
    await other.close()

    assert (400, True) == (foreign.status, "another browser" in foreign.text)
    assert [303] + [400] * 9 == sorted(step.status for step in steps)
    assert 9 == sum("was used already" in step.text for step in steps)


@pytest.mark.parametrize("decision", ["deny", "allow"])
async def test_question_to_a_stranger_counts_once(codes: Stand, decision: str) -> None:
    """A no, too: ten clicks are one line in the audit, and the question is over afterwards."""
    page, code = await codes.person.question(), await connect_code(codes, "user-11")
    before = len(codes.audited())

    steps = await asyncio.gather(
        *[codes.person.decide(page, decision, typed={"connect_code": code}) for _ in range(10)]
    )
    again = await codes.person.open(page.url)

    assert [303] + [410] * 9 == sorted(step.status for step in steps)
    assert (1, 200) == (len(codes.audited()) - before, again.status)


@pytest.mark.parametrize("host", ["localhost", "[::1]", "plugin.lan"])
async def test_browser_that_came_by_another_name_is_sent_on(stand: Stand, person: Person, host: str) -> None:
    """To the public address, with all that the client asked; a wrong client is told here."""
    url = f"{stand.house.public}/plugin/authorize?"
    headers = {"Host": f"{host}:{stand.house.public_port}"}

    step = await person.open(url + urlencode(GOOD), headers=headers)
    wrong = await person.open(url + urlencode({**GOOD, "client_id": "nobody"}), headers=headers)

    assert (302, f"{url}moved=1&{urlencode(GOOD)}") == (step.status, step.location)
    assert (400, "") == (wrong.status, wrong.location)
