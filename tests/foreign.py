"""What another system holds when grants are moved: refresh tokens that the sandbox issued to our client."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker.clock import SystemClock
from broker.sandbox.faults import Provider
from broker.sandbox.issued import Consent, Holder, Issued, Pair
from broker.sandbox.store import SandboxStore
from tests.house import House
from tests.process import Process

LIFE = 172800.0


def issued_elsewhere(house: House | Process, count: int, *, provider: Provider = "kit") -> list[Pair]:
    """So many grants, as installs that a home-grown system completed left them."""
    now = house.clock.now() if isinstance(house, House) else SystemClock().now()
    store = SandboxStore(house.folder / "sandbox.db")
    try:
        with store.transaction():
            return [_issue(Issued(store), provider, number, now) for number in range(count)]
    finally:
        store.close()


def _issue(issued: Issued, provider: Provider, number: int, now: float) -> Pair:
    consent = Consent(
        provider=provider,
        client_id=f"sandbox-{provider}",
        redirect_uri="https://old.example.com/callback",
        challenge=None,
        scope="public",
        tenant=None,
        holder=Holder(f"9{number:06}", f"Creator {number}", f"{number}@example.com"),
    )
    grant = issued.redeem(issued.new_code(consent, now), consent, now)
    return issued.issue(grant, parent=None, life=LIFE, now=now)


def line(name: str, pair: Pair, **members: object) -> dict[str, Any]:
    """One account in the form that an import takes."""
    return {"name": name, "provider": "kit", "refresh_token": pair.refresh, **members}


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    """A file of them, one a line, that nobody else may read."""
    path.touch(mode=0o600)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path
