"""The child process: django-oauth-toolkit as its authors ship it, on a loopback port and a SQLite file.

Run by path. It prints `ready` once it listens, and ends when its standard input does, so that it never
outlives the test that started it.
"""

import argparse
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import include, path

LOGIN_PAGE = """<!DOCTYPE html><title>Sign in</title>
<form method="post">{% csrf_token %}{{ form }}<input type="submit" value="Sign in"></form>"""

urlpatterns: list[Any] = []


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("client-id", "client-secret", "redirect-uri", "username", "password"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--access-life", type=int, required=True)
    parser.add_argument("--pkce-required", action="store_true")
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--token-log", type=Path, required=True)
    return parser.parse_args()


def configure(given: argparse.Namespace) -> None:
    settings.configure(
        DEBUG=False,
        SECRET_KEY="known to everybody",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        LOGIN_URL="/login/",
        STATIC_URL="/static/",
        USE_TZ=True,
        LOGGING_CONFIG=None,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={"default": database(given.database)},
        # Django's own hash takes half a second of this machine for each client secret it checks.
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "oauth2_provider",
        ],
        MIDDLEWARE=[
            f"{__name__}.noting_token_requests",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        TEMPLATES=[templates()],
        OAUTH2_PROVIDER={
            "ROTATE_REFRESH_TOKEN": True,
            "REFRESH_TOKEN_REUSE_PROTECTION": True,
            "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": 0,
            "ACCESS_TOKEN_EXPIRE_SECONDS": given.access_life,
            "PKCE_REQUIRED": given.pkce_required,
        },
        TOKEN_LOG=given.token_log,
    )
    django.setup()


def database(path: Path) -> dict[str, object]:
    # Deferred transactions of several threads would fail with "database is locked" instead of waiting.
    options = {"timeout": 20, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"}
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": path, "OPTIONS": options}


def templates() -> dict[str, object]:
    loaders = [
        ("django.template.loaders.locmem.Loader", {"login.html": LOGIN_PAGE}),
        "django.template.loaders.app_directories.Loader",
    ]
    return {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {"loaders": loaders, "context_processors": ["django.template.context_processors.request"]},
    }


def noting_token_requests(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Middleware: one line, `grant_type status`, for each token request, before it is answered."""

    def handle(request: Any) -> Any:
        response = get_response(request)
        if request.path == "/o/token/":
            note(f"{request.POST.get('grant_type', '-')} {response.status_code}\n")
        return response

    return handle


def note(line: str) -> None:
    # One write to a file opened for appending, so that threads do not mix their lines.
    log = os.open(settings.TOKEN_LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(log, line.encode())
    finally:
        os.close(log)


def me(request: Any) -> Any:
    owner = request.resource_owner
    return JsonResponse({"id": str(owner.pk), "name": owner.get_username()})


def routes() -> list[Any]:
    from django.contrib.auth.views import LoginView  # noqa: PLC0415 - needs the models, which django.setup() loads
    from oauth2_provider.decorators import protected_resource  # noqa: PLC0415 - likewise

    return [
        path("login/", LoginView.as_view(template_name="login.html")),
        path("me", protected_resource(advertise_metadata=True)(me)),
        path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    ]


def populate(given: argparse.Namespace) -> None:
    """Bring the database up to date, and add the person and the client where they are missing."""
    call_command("migrate", verbosity=0, interactive=False)
    client, people = apps.get_model("oauth2_provider", "Application"), get_user_model()
    if not people.objects.filter(username=given.username).exists():
        people.objects.create_user(given.username, password=given.password)
    # A copied database has the client of another test.
    if not client.objects.filter(client_id=given.client_id).update(redirect_uris=given.redirect_uri):
        client.objects.create(
            name="token-broker",
            client_id=given.client_id,
            client_secret=given.client_secret,
            client_type=client.CLIENT_CONFIDENTIAL,
            authorization_grant_type=client.GRANT_AUTHORIZATION_CODE,
            redirect_uris=given.redirect_uri,
        )


def serve(port: int) -> None:
    server = ThreadedWSGIServer(("127.0.0.1", port), WSGIRequestHandler)
    server.set_app(get_wsgi_application())
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    print("ready", flush=True)
    server.serve_forever()


def end_with_standard_input() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    given = arguments()
    configure(given)
    urlpatterns.extend(routes())
    populate(given)
    serve(given.port)


if __name__ == "__main__":
    main()
