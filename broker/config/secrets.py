"""Reads secrets from the environment, files and systemd's credentials. Only this module reads the environment."""

import codecs
import ctypes
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from broker.files import Exposure, exposure, read_regular
from broker.model import Secret

FORMS = 'a string, { env = "NAME" }, { file = "PATH" } or { credential = "NAME" }'
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
CREDENTIAL = re.compile(r"[A-Za-z0-9_.-]{1,255}", re.ASCII)


class SecretMissing(Exception):
    """A secret cannot be read; the message says what was found and what is expected, never the secret."""


def environment() -> Mapping[str, str]:
    """Return a copy of the present environment."""
    return dict(os.environ)  # noqa: TID251 - this is the one place


def wipe_variables(names: Iterable[str]) -> None:
    """Remove variables, so that children do not inherit them and `/proc/PID/environ` does not show their values.

    Copies elsewhere remain: in the parent process, `docker inspect`, `systemctl show`.
    """
    wanted = {os.fsencode(name) for name in names}
    # A platform without `environ` can only remove them.
    with suppress(ValueError):
        # Overwrite the values where the kernel put them, because `/proc/PID/environ` shows that (proc(5)).
        entries = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
        index = 0
        while address := entries[index]:
            name, _, value = ctypes.string_at(address).partition(b"=")
            if name in wanted:
                ctypes.memset(address + len(name) + 1, 0, len(value))
            index += 1
    for name in wanted:
        os.environb.pop(name, None)


def text_of(raw: bytes) -> str:
    """Return the text of a file without a byte order mark; raises UnicodeError."""
    # UTF-32 first, because its mark begins like that of UTF-16.
    if raw.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return raw.decode("utf-32")
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16")
    return raw.decode("utf-8-sig")


def is_read_only(path: Path) -> bool:
    """Return whether the file is on a read-only mount, as Kubernetes and Docker mount secrets."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def mode_problem(
    path: Path, is_read_only: Callable[[Path], bool] = is_read_only
) -> tuple[Exposure, bool] | None:
    """Return the exposure of a file with a secret to others, and whether to refuse it; None if it is protected.

    Its group may read it, because a secret is shared with a service like that (Kubernetes makes 0400 into 0440).
    """
    exposed = exposure(path)
    if exposed is None or not exposed.mode & 0o027:
        return None
    return exposed, not is_read_only(path)


class SecretReader:
    """Reads the secrets that the values of a configuration name."""

    def __init__(
        self,
        *,
        folder: Path,
        environ: Mapping[str, str],
        is_read_only: Callable[[Path], bool] = is_read_only,
    ) -> None:
        self.folder, self.environ, self._is_read_only = folder, environ, is_read_only
        self.variables: set[str] = set()
        """The environment variables that a secret was read from."""
        self.warnings: list[str] = []

    def read(self, value: object, *, private: bool = True, ascii_only: bool = False) -> Secret:
        """Return the secret that a value is or names; raises SecretMissing.

        A byte order mark before it and line ends around it are removed. A `private` one is on one line, without the
        traces of editors and shells, and others must not be able to read its file. `ascii_only`: RFC 6749 appendix A.2.
        """
        match value:
            case str() if value:
                text, where = value, "a secret"
            case {"env": str(name), **rest} if not rest:
                text, where = self._from_environment(name), f"${name}"
            case {"file": str(path), **rest} if not rest:
                where = f"the file {self.folder / path}"
                text = self._from_file(self.folder / path, private)
            case {"credential": str(name), **rest} if not rest:
                where = f"the credential {name}"
                text = self._from_file(self.credential(name), private=False)
            case _:
                raise SecretMissing(f"a value that is not a secret; expected {FORMS}")
        text = text.removeprefix("\ufeff").strip("\r\n")
        if not text:
            raise SecretMissing(f"{where}, which is empty; expected one that holds it")
        if private and (odd := _oddity(text, ascii_only=ascii_only)):
            raise SecretMissing(f"{where} {odd}")
        return Secret(text)

    def credential(self, name: str) -> Path:
        """Return the path of a credential of systemd; raises SecretMissing."""
        if not CREDENTIAL.fullmatch(name) or name.startswith("."):
            raise SecretMissing("a credential's name with odd characters; expected letters, digits and . _ -")
        folder = self.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            found = f'{{ credential = "{name}" }} without $CREDENTIALS_DIRECTORY'
            raise SecretMissing(f"{found}; expected to run under systemd with LoadCredential=")
        path = Path(folder) / name
        # The target of a link, so that an error names the file to correct.
        return path.parent / path.readlink() if path.is_symlink() else path

    def _from_environment(self, name: str) -> str:
        if not VARIABLE.fullmatch(name):
            raise SecretMissing("{ env = … } without a variable's name; expected letters, digits and _")
        value = self.environ.get(name, "")
        if not value:
            raise SecretMissing(f'{{ env = "{name}" }}, which is not set; expected a value in ${name}')
        self.variables.add(name)
        return value

    def _from_file(self, path: Path, private: bool) -> str:
        try:
            text = text_of(read_regular(path))
            problem = mode_problem(path, self._is_read_only) if private else None
        except (OSError, ValueError) as exc:
            # Not UTF-8, or a path that holds a NUL.
            why = exc.strerror if isinstance(exc, OSError) else "not text"
            found = f"the file {path}, which cannot be read ({why})"
            raise SecretMissing(f"{found}; expected one that holds it") from None
        if problem is not None:
            exposed, is_refused = problem
            found = f"open to others (mode {exposed.mode:o})"
            if is_refused:
                raise SecretMissing(f"the file {path}, {found}; expected {exposed.command}")
            self.warnings.append(f"the file {path} is {found}; mount it so that only the broker can read it")
        return text


def _oddity(text: str, *, ascii_only: bool) -> str | None:
    """Return what is odd about a secret and what is expected, never the secret; None if nothing is."""
    if text[0] == text[-1] and text[0] in "\"'`" and len(text) > 1:
        return "in quotes; expected the secret without them"
    if text != text.strip():
        return "with a blank at its begin or end; expected the secret alone"
    kind = "ASCII" if ascii_only else "text"
    for place, letter in enumerate(text, 1):
        if not letter.isprintable() or (ascii_only and not letter.isascii()):
            return f"whose character {place} is U+{ord(letter):04X}; expected printable {kind} on one line"
    return None
