"""`broker token` and `broker install-link` print one value and nothing else."""

import json

import pytest

from .conftest import Run
from .stub import ACCESS_TOKEN, LINK, Asked, Stub, account, provider


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], f"{ACCESS_TOKEN}\n"),
        (["--format", "token"], f"{ACCESS_TOKEN}\n"),
        (["--format", "header"], f"Authorization: Bearer {ACCESS_TOKEN}\n"),
    ],
)
async def test_a_token_is_printed_alone_and_unwrapped(
    run: Run, stub: Stub, options: list[str], expected: str
) -> None:
    """However long it is, it stays on one line."""
    stub.accounts = {"acme": account("acme")}

    result = await run("token", "acme", *options)

    assert (0, expected, "") == (result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize("options", [["--format", "json"], ["--json"], ["--json", "--format", "JSON"]])
async def test_a_token_as_json_is_the_apis_answer(run: Run, stub: Stub, options: list[str]) -> None:
    """Scripts that want more than the token get everything."""
    stub.accounts = {"acme": account("acme")}

    result = await run("token", "acme", *options)

    answer = json.loads(result.stdout)
    assert (ACCESS_TOKEN, 11700, 17) == (answer["access_token"], answer["expires_in"], answer["generation"])


@pytest.mark.parametrize(("options", "query"), [([], {}), (["--min-ttl", "600"], {"min_ttl": "600"})])
async def test_min_ttl_is_asked_for_only_when_typed(
    run: Run, stub: Stub, options: list[str], query: dict[str, str]
) -> None:
    """It has no default, so looking never renews."""
    stub.accounts = {"acme": account("acme")}

    await run("token", "acme", *options)

    assert Asked("GET /token/acme", query) == stub.last


async def test_a_warning_goes_to_standard_error(run: Run, stub: Stub) -> None:
    """The token is still alone on standard output."""
    stub.accounts, stub.warning = {"acme": account("acme")}, "Kit cannot be reached"

    result = await run("token", "acme")

    assert (f"{ACCESS_TOKEN}\n", "Warning: Kit cannot be reached\n") == (result.stdout, result.stderr)


async def test_an_unknown_account_prints_no_token(run: Run) -> None:
    """A script that forgets the exit code gets an empty string, never a message as a token."""
    result = await run("token", "nobody")

    assert (1, "", "There is no account 'nobody'.\n") == (result.exit_code, result.stdout, result.stderr)


async def test_an_error_of_ours_names_the_request(run: Run, stub: Stub) -> None:
    """What the person reports can be found in the log."""
    stub.accounts, stub.crashes = {"acme": account("acme")}, True

    result = await run("token", "acme")

    assert 1 == result.exit_code
    assert "(request id 0123456789abcdef)" in result.stderr


async def test_an_install_link_is_printed_alone_and_unwrapped(run: Run, stub: Stub) -> None:
    """The link can be pasted as it is; without options the provider's id names the account."""
    stub.providers = {"kit": provider("kit")}

    result = await run("install-link", "kit")

    assert (0, f"{LINK}\n", "") == (result.exit_code, result.stdout, result.stderr)
    body = {"provider": "kit", "account": None, "org": None, "return_to": None, "replace": False}
    assert Asked("POST /installs", {}, body) == stub.last


async def test_an_install_link_carries_what_was_typed(run: Run, stub: Stub) -> None:
    """Every option reaches the broker."""
    stub.providers = {"kustomer": provider("kustomer")}
    options = [
        "--account",
        "acme",
        "--org",
        "acme-inc",
        "--return-to",
        "https://app.example.com/",
        "--replace",
    ]

    await run("install-link", "kustomer", *options)

    body = {
        "provider": "kustomer",
        "account": "acme",
        "org": "acme-inc",
        "return_to": "https://app.example.com/",
        "replace": True,
    }
    assert Asked("POST /installs", {}, body) == stub.last


async def test_a_link_for_an_unknown_provider_fails(run: Run) -> None:
    """The broker's sentence is the message."""
    result = await run("install-link", "kit")

    assert (1, "There is no provider 'kit'; there are: none.\n") == (result.exit_code, result.stderr)
