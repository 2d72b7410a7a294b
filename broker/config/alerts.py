"""Reads `[alerts]`: whom to tell of events, and the key that signs what is sent."""

import base64
import binascii
from pathlib import Path

from broker.config.read import Table, checked
from broker.config.settings import AlertSettings, WebhookSettings
from broker.config.urls import page_problem
from broker.model import Secret

PREFIX = "whsec_"
COMMAND = 'a list as in ["/usr/local/bin/page"]: a program and its arguments, no shell'


def read_alerts(table: Table, folder: Path) -> AlertSettings:
    url = checked(table, "webhook_url", table.text("webhook_url", None), page_problem)
    given = table.secrets("webhook_secret", most=2, ascii_only=False)
    command = _command(table, folder)
    if table.has("webhook_url") and not table.has("webhook_secret"):
        table.wrong("webhook_secret", "nothing", "the secret that signs what webhook_url is sent")
    if table.has("webhook_secret") and not table.has("webhook_url"):
        table.wrong("webhook_url", "nothing", "the address that webhook_secret is for")
    keys = tuple(key for secret in given if (key := _key(table, secret)) is not None)
    table.done()
    return AlertSettings(WebhookSettings(Secret(url), keys) if url and keys else None, command)


def _key(table: Table, secret: Secret) -> bytes | None:
    """The bytes to sign with: base64 behind `whsec_` as Standard Webhooks has it, else the text itself."""
    text = secret.reveal()
    if not text.startswith(PREFIX):
        return text.encode()
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        table.wrong("webhook_secret", "whsec_ before what is no base64", "whsec_<base64>, or plain text")
    return key or None


def _command(table: Table, folder: Path) -> tuple[str, ...]:
    if not table.has("command"):
        table.raw("command")
        return ()
    words = table.texts("command", ())
    program = words[0] if words else ""
    if not program or any("\0" in word for word in words):
        table.wrong("command", "an empty program, or a NUL", COMMAND)
        return ()
    # As for every path in the file; a bare name is looked up in the usual folders.
    return (str(folder / program), *words[1:]) if "/" in program else words
