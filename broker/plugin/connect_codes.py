"""Connect codes: who a person is, where no app of the company can say so."""

import re
import secrets
from dataclasses import dataclass

from broker.callers.authorization import Authorizer
from broker.clock import Clock
from broker.errors import InvalidRequest, Overloaded
from broker.keyring import Keyring
from broker.model import Caller, ConnectCode, Permission, Secret
from broker.store.plugin import PluginStore

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's: nothing in it is taken for something else."""
MISREAD = str.maketrans({"O": "0", "I": "1", "L": "1"})
LIFE = 600.0
HANDLE = 4
LENGTH = 12
"""Twelve characters of five bits; the first four find the code, the other forty bits prove it."""
ATTEMPTS = 5
SUBJECT = re.compile(r"\S(.{0,253}\S)?")


@dataclass(frozen=True, slots=True)
class Typed:
    """A connect code as a person typed it."""

    handle: str
    digest: str


class ConnectCodes:
    """Makes them, and reads what people type."""

    def __init__(self, *, store: PluginStore, authorizer: Authorizer, keyring: Keyring, clock: Clock) -> None:
        self._store, self._authorizer, self._keyring, self._clock = store, authorizer, keyring, clock

    async def create(self, caller: Caller, subject: str, *, request_id: str) -> tuple[Secret, float]:
        """A code that says who one person is, and when it ends. Raises InvalidRequest, Forbidden."""
        if not SUBJECT.fullmatch(subject) or not subject.isprintable():
            raise InvalidRequest("subject is who the person is to you, 1 to 255 printable characters")
        await self._authorizer.require(caller, Permission.PLUGIN, None, request_id=request_id)
        expires_at = self._clock.now() + LIFE
        for _ in range(ATTEMPTS):
            text = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
            code = ConnectCode(text[:HANDLE], self._digest(text), subject, caller.name, expires_at)
            if await self._store.add_connect_code(code):
                detail = f"subject {subject}"
                await self._authorizer.note(
                    caller, "plugin.connect_code", None, detail, request_id=request_id
                )
                return Secret("-".join(text[at : at + 4] for at in range(0, LENGTH, 4))), expires_at
        raise Overloaded("too many connect codes are open at once; try again", retry_after=60)

    def read(self, typed: str) -> Typed | None:
        """None where that is no connect code at all."""
        text = re.sub(r"[\s-]", "", typed[:64]).upper().translate(MISREAD)
        if len(text) != LENGTH or not set(text) <= set(ALPHABET):
            return None
        return Typed(text[:HANDLE], self._digest(text))

    def _digest(self, text: str) -> str:
        """Keyed, since whoever reads the store could search through what is left of sixty bits."""
        return self._keyring.derive("connect code", text.encode()).hex()
