"""`broker kustomer`: registers an app at Kustomer and makes its secret; the API key is never kept."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import click

from broker.cli import words
from broker.cli.command import Group, as_json, say
from broker.cli.failed import Failed
from broker.cli.tables import show_facts, show_json
from broker.files import write_own

API = "https://api.kustomerapp.com"
PATIENCE = aiohttp.ClientTimeout(total=60)
MOST = 1 << 20
ROLES = "org.admin.apps and org.permission.apps"

api_url = click.option(
    "--api-url",
    type=words.page,
    default=API,
    show_default=True,
    metavar="URL",
    help="Another region's, your organisation's, or the sandbox's.",
)


@click.group("kustomer", cls=Group)
def kustomer() -> None:
    """Register the app that Kustomer connects, and make its secret."""


@kustomer.command(
    "register-app",
    example=(
        "broker kustomer register-app tokenbroker \\\n"
        "      --redirect-uri https://broker.example.com/callback/kustomer"
    ),
)
@click.argument("app", type=words.kustomer_app)
@click.option(
    "--redirect-uri",
    "redirect_uris",
    type=words.page,
    multiple=True,
    required=True,
    metavar="URL",
    help="public_url with /callback/kustomer; repeatable.",
)
@click.option(
    "--title", default="Token broker", show_default=True, help="What people read when they allow it."
)
@click.option("--app-version", "number", default="0.0.1", show_default=True, type=words.version)
@click.option(
    "--visibility",
    type=click.Choice(["private", "public"]),
    default="private",
    show_default=True,
    help="A private app is for your own organisation only.",
)
@api_url
@as_json
def register_app(
    *,
    app: str,
    redirect_uris: tuple[str, ...],
    title: str,
    number: str,
    visibility: str,
    api_url: str,
    as_json: bool,
) -> None:
    """Register APP at Kustomer and print its client id.

    Asks for an API key with the roles org.admin.apps and org.permission.apps, on the terminal or on standard
    input. A version that was registered stays for ever; change something, and raise --app-version.
    """
    definition = {
        "app": app,
        "version": number,
        "title": title,
        "visibility": visibility,
        "redirectUris": list(redirect_uris),
    }
    status, answer = _post(f"{api_url}/v1/apps/available", _key(), definition)
    found = _attributes(status, answer)
    shown = {"app": found["name"], "version": number, "client_id": found["clientId"]}
    if as_json:
        show_json(shown)
        return
    show_facts(shown.items())
    click.echo(
        "\nNext: install it from Kustomer's App Directory (before that Kustomer answers “Invalid Client”), then\n"
        f"broker kustomer create-secret {found['name']} --app-version {number} --secret-file PATH"
    )


@kustomer.command(
    "create-secret", example="broker kustomer create-secret tokenbroker_5f0c --secret-file kustomer-secret"
)
@click.argument("app", type=words.kustomer_app)
@click.option("--app-version", "number", default="0.0.1", show_default=True, type=words.version)
@click.option(
    "--secret-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it there, 0600, for client_secret = { file = … }; else it is printed alone.",
)
@api_url
@as_json
def create_secret(*, app: str, number: str, secret_file: Path | None, api_url: str, as_json: bool) -> None:
    """Make a new client secret for APP, the full name that register-app printed.

    It is shown once; the one before stops working. Asks for an API key as register-app does.
    """
    key = _key()
    status, answer = _post(f"{api_url}/v1/apps/available/{app}/secret", key, {})
    if status == 404:
        # Kustomer's newer documents write the version behind the name.
        status, answer = _post(f"{api_url}/v1/apps/available/{app}-{number}/secret", key, {})
    found = _attributes(status, answer)
    secret = found.get("clientSecret")
    if not isinstance(secret, str) or not secret:
        raise Failed("Kustomer's answer holds no secret; is the app installed in the organisation?")
    if secret_file is None:
        say(secret, {"client_id": found.get("clientId"), "client_secret": secret}, as_json=as_json)
        return
    _write(secret_file, secret)
    shown = {"client_id": found.get("clientId"), "secret_file": str(secret_file)}
    say(f"The secret of client {found.get('clientId')} is in {secret_file}.", shown, as_json=as_json)


def _key() -> str:
    """The API key, from the terminal or from standard input; it stays in this process."""
    asked = sys.stdin.isatty()
    typed = click.prompt("Kustomer API key", hide_input=True, err=True) if asked else sys.stdin.readline()
    key = str(typed).strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise Failed(f"No API key was given; one with the roles {ROLES} is needed, on one line.")
    return key


def _post(url: str, key: str, body: Mapping[str, object]) -> tuple[int, Any]:
    return asyncio.run(_posted(url, key, body))


async def _posted(url: str, key: str, body: Mapping[str, object]) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=PATIENCE) as session,
            # Never followed: the key must not travel elsewhere.
            session.post(url, json=body, headers=headers, allow_redirects=False) as response,
        ):
            return response.status, await _json(response)
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise Failed(f"Kustomer cannot be reached at {url}: {type(exc).__name__}.") from None


async def _json(response: aiohttp.ClientResponse) -> Any:
    """The answer's JSON, None where it is none, or more than any such answer is."""
    raw = b""
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > MOST:
            return None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _attributes(status: int, answer: Any) -> dict[str, Any]:
    """`data.attributes` of a good answer; raises Failed with Kustomer's sentence and what to do."""
    if status in (200, 201):
        try:
            found = answer["data"]["attributes"]
            return {**found, "name": str(found["name"]), "clientId": str(found["clientId"])}
        except (KeyError, TypeError):
            raise Failed("Kustomer's answer names no app and client id.") from None
    told = _told(answer)
    match status:
        case 401 | 403:
            raise Failed(f"Kustomer refuses the API key{told}; it needs the roles {ROLES}.")
        case 404:
            raise Failed(f"Kustomer knows no such app{told}; give the full name that register-app printed.")
        case 409:
            raise Failed(
                f"Kustomer has that version already{told}; versions are permanent, so raise --app-version."
            )
        case _:
            raise Failed(f"Kustomer answered {status}{told}.")


def _told(answer: Any) -> str:
    try:
        return f" (“{str(answer['errors'][0]['message'])[:200]}”)"
    except (KeyError, TypeError, IndexError):
        return ""


def _write(path: Path, secret: str) -> None:
    """0600 from the first moment, and whole or not at all."""
    try:
        write_own(path, f"{secret}\n".encode())
    except OSError as exc:
        raise Failed(f"{path} cannot be written: {exc.strerror}. The secret is lost; make another.") from None
