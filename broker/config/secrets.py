"""Secrets that stand elsewhere: `{ env = "NAME" }`, `{ file = "PATH" }`, `{ credential = "NAME" }`."""

import re
from collections.abc import Mapping
from pathlib import Path

from broker.files import exposure
from broker.model import Secret

FORMS = 'a string, { env = "NAME" }, { file = "PATH" } or { credential = "NAME" }'
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
CREDENTIAL = re.compile(r"[A-Za-z0-9_.-]{1,255}", re.ASCII)


class SecretMissing(Exception):
    """A secret cannot be had; the message says what was found and what to do, never the secret."""


class SecretReader:
    """Reads secrets from where the configuration says they are."""

    def __init__(self, *, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder, self._environ = folder, environ
        self.variables: set[str] = set()
        """Those of the environment that held a secret."""

    def read(self, value: object, *, private: bool = True) -> Secret:
        """The secret; raises SecretMissing. `private`: a file of it must not be open to others."""
        match value:
            case str() if value:
                return Secret(value)
            case {"env": str(name), **rest} if not rest:
                return self._from_environment(name)
            case {"file": str(path), **rest} if not rest:
                return self._from_file(self._folder / path, private)
            case {"credential": str(name), **rest} if not rest:
                return self._from_file(self.credential(name), private=False)
            case _:
                raise SecretMissing(f"a value that is no secret; expected {FORMS}")

    def credential(self, name: str) -> Path:
        """Where systemd put a credential; raises SecretMissing."""
        if not CREDENTIAL.fullmatch(name) or name.startswith("."):
            raise SecretMissing("a credential's name with odd characters; expected letters, digits and . _ -")
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise SecretMissing(
                f'{{ credential = "{name}" }} without $CREDENTIALS_DIRECTORY; expected to run under systemd'
                " with LoadCredential="
            )
        return Path(folder) / name

    def _from_environment(self, name: str) -> Secret:
        if not VARIABLE.fullmatch(name):
            raise SecretMissing("{ env = … } without a variable's name; expected letters, digits and _")
        value = self._environ.get(name, "")
        if not value:
            raise SecretMissing(f'{{ env = "{name}" }}, which is not set; expected a value in ${name}')
        self.variables.add(name)
        return Secret(value)

    def _from_file(self, path: Path, private: bool) -> Secret:
        try:
            exposed = exposure(path)
            text = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as exc:
            # Not UTF-8, or a path that holds a NUL.
            why = exc.strerror if isinstance(exc, OSError) else "not text"
            raise SecretMissing(
                f"the file {path}, which cannot be read ({why}); expected one that holds it"
            ) from None
        if private and exposed:
            raise SecretMissing(
                f"the file {path}, open to others (mode {exposed.mode:o}); expected {exposed.command}"
            )
        if not text:
            raise SecretMissing(f"the file {path}, which is empty; expected one that holds it")
        return Secret(text)
