"""`broker providers` and `broker kustomer`: the state of the providers, and the registration of an app at Kustomer."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from broker.cli import arguments
from broker.cli.admin_socket import Object
from broker.cli.arguments import defaulted, provider_argument
from broker.cli.command import CommandContext, Group
from broker.cli.output import FOLDED, WHOLE, Cell, Failed, plain, show_facts, show_json
from broker.files import write_own
from broker.times import relative

COLUMNS = {"PROVIDER": FOLDED, "TYPE": WHOLE, "BREAKER": WHOLE, "ACCOUNTS": WHOLE}
KUSTOMER_API = "https://api.kustomerapp.com"
TIMEOUT = 60.0
LARGEST_ANSWER = 1 << 20
ROLES = "org.admin.apps and org.permission.apps"


@click.group("providers", cls=Group)
def providers() -> None:
    """List the providers and resume them."""


@providers.command("list", example="broker providers list")
def list_providers(context: CommandContext) -> None:
    """List the providers with their circuit breakers and accounts."""
    none = "No providers yet. Add [providers.kit] or [providers.kustomer] to the configuration."
    answer = context.broker.ask("GET", "/providers")
    context.show_list(answer, "providers", COLUMNS, _row, none=none)
    for provider in answer["providers"]:
        if provider["what_to_do"] and not context.as_json:
            click.echo(f"{plain(provider['name'])}: {plain(provider['what_to_do'])}")


def _row(provider: Object, now: float) -> tuple[object, ...]:
    since, until = provider["since"], provider["paused_until"]
    why = [
        provider["reason"],
        since and f"since {relative(since, now)}",
        until and f"retried {relative(until, now)}",
    ]
    counts = [f"{count} {status}" for status, count in provider["accounts"].items()]
    return provider["name"], provider["type"], Cell(provider["breaker"], why), counts or ["none"]


@providers.command("resume", example="broker providers resume kit")
@provider_argument
def resume_provider(context: CommandContext, provider: str) -> None:
    """Close the circuit breaker of PROVIDER, so that requests are sent again."""
    found = context.broker.ask("POST", f"/providers/{provider}/resume")
    context.say(f"Provider {provider} is resumed.", found)


app_version = defaulted("--app-version", "version", default="0.0.1", type=arguments.version)
api_url = defaulted(
    "--api-url",
    type=arguments.page,
    default=KUSTOMER_API,
    metavar="URL",
    help="The API's address: of another region, of your organisation, or of the sandbox.",
)


@click.group("kustomer", cls=Group)
def kustomer() -> None:
    """Register the app at Kustomer, and make its client secret."""


@kustomer.command(
    "register-app",
    example=(
        "broker kustomer register-app tokenbroker \\\n"
        "      --redirect-uri https://broker.example.com/callback/kustomer"
    ),
)
@click.argument("app", type=arguments.kustomer_app)
@click.option(
    "--redirect-uri",
    "redirect_uris",
    type=arguments.page,
    multiple=True,
    required=True,
    metavar="URL",
    help="Your public_url with /callback/kustomer; repeatable.",
)
@defaulted("--title", default="Token broker", help="The app's name on the consent page.")
@app_version
@defaulted(
    "--visibility",
    type=click.Choice(["private", "public"]),
    default="private",
    help="A private app works only for your own organisation.",
)
@api_url
def register_app(
    context: CommandContext, *, redirect_uris: tuple[str, ...], api_url: str, **about: str
) -> None:
    """Register APP at Kustomer and print its client id.

    It asks for an API key with the roles org.admin.apps and org.permission.apps, on the terminal or on standard input;
    the key is not stored. A registered version is permanent: after a change, raise --app-version.
    """
    definition = {**about, "redirectUris": redirect_uris}
    found = _attributes(*asyncio.run(_post(f"{api_url}/v1/apps/available", _key(), definition)))
    shown = {"app": found["name"], "version": about["version"], "client_id": found["clientId"]}
    if context.as_json:
        show_json(shown)
        return
    show_facts(shown.items())
    click.echo(
        "\nNext: install it from Kustomer's App Directory (before that Kustomer answers “Invalid Client”), then\n"
        f"broker kustomer create-secret {found['name']} --app-version {about['version']} --secret-file PATH"
    )


@kustomer.command(
    "create-secret", example="broker kustomer create-secret tokenbroker_5f0c --secret-file kustomer-secret"
)
@click.argument("app", type=arguments.kustomer_app)
@app_version
@click.option(
    "--secret-file",
    type=arguments.file,
    help="Write it to this file (0600), for client_secret = { file = … }. Default: print it.",
)
@api_url
def create_secret(
    context: CommandContext, *, app: str, version: str, secret_file: Path | None, api_url: str
) -> None:
    """Make a new client secret for APP, the full name that register-app printed.

    It is shown once, and the former secret stops working. It asks for an API key as register-app does.
    """
    key, apps = _key(), f"{api_url}/v1/apps/available"
    status, answer = asyncio.run(_post(f"{apps}/{app}/secret", key, {}))
    if status == 404:
        # Kustomer's newer documents write the version behind the name.
        status, answer = asyncio.run(_post(f"{apps}/{app}-{version}/secret", key, {}))
    found = _attributes(status, answer)
    secret = found.get("clientSecret")
    if not isinstance(secret, str) or not secret:
        raise Failed("Kustomer's answer holds no secret; is the app installed in the organisation?")
    if secret_file is None:
        context.say(secret, {"client_id": found.get("clientId"), "client_secret": secret})
        return
    try:
        # 0600 from the first moment, and whole or not at all.
        write_own(secret_file, f"{secret}\n".encode())
    except OSError as exc:
        why = f"{secret_file} cannot be written: {exc.strerror}"
        raise Failed(f"{why}. The new secret is lost: make another one.") from None
    shown = {"client_id": found.get("clientId"), "secret_file": str(secret_file)}
    context.say(f"The secret of client {found.get('clientId')} is in {secret_file}.", shown)


def _key() -> str:
    """Return the API key, read from the terminal or from standard input."""
    asked = sys.stdin.isatty()
    typed = click.prompt("Kustomer API key", hide_input=True, err=True) if asked else sys.stdin.readline()
    key = str(typed).strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise Failed(f"No API key was given; one with the roles {ROLES} is needed, on one line.")
    return key


async def _post(url: str, key: str, body: Mapping[str, object]) -> tuple[int, Any]:
    """Return the status and the answer's JSON, or None in its place if it is invalid or too large."""
    import aiohttp  # noqa: PLC0415 - slow to import, and only these two commands need it

    headers, raw = {"Authorization": f"Bearer {key}"}, b""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session,
            # No redirect is followed, because the key must not be sent elsewhere.
            session.post(url, json=body, headers=headers, allow_redirects=False) as response,
        ):
            async for chunk in response.content.iter_any():
                raw += chunk
                if len(raw) > LARGEST_ANSWER:
                    return response.status, None
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise Failed(f"Kustomer cannot be reached at {url}: {type(exc).__name__}.") from None
    try:
        return response.status, json.loads(raw)
    except (ValueError, RecursionError):
        return response.status, None


def _attributes(status: int, answer: Any) -> dict[str, Any]:
    """Return `data.attributes` of the answer; raises Failed with Kustomer's sentence and what to do."""
    if status in (200, 201):
        try:
            found = answer["data"]["attributes"]
            return {**found, "name": str(found["name"]), "clientId": str(found["clientId"])}
        except (KeyError, TypeError):
            raise Failed("Kustomer's answer names no app and client id.") from None
    try:
        told = f" (“{str(answer['errors'][0]['message'])[:200]}”)"
    except (KeyError, TypeError, IndexError):
        told = ""
    match status:
        case 401 | 403:
            raise Failed(f"Kustomer refuses the API key{told}. It needs the roles {ROLES}.")
        case 404:
            raise Failed(f"Kustomer knows no such app{told}. Give the full name that register-app printed.")
        case 409:
            raise Failed(
                f"Kustomer has that version already{told}. Versions are permanent: raise --app-version."
            )
        case _:
            raise Failed(f"Kustomer answered {status}{told}.")
