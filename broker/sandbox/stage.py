"""What every party the sandbox plays shares: its store, its switches, its record and its clock."""

from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web

from broker.clock import Clock
from broker.sandbox.clients import Clients
from broker.sandbox.exchange import use
from broker.sandbox.faults import Faults, Provider
from broker.sandbox.issued import AccessToken, Grant, Issued
from broker.sandbox.record import Record
from broker.sandbox.store import SandboxStore


@dataclass(frozen=True, slots=True)
class Stage:
    store: SandboxStore
    clients: Clients
    issued: Issued
    faults: Faults
    record: Record
    clock: Clock
    broker_public_url: str


class Complaint(StrEnum):
    """Why a resource does not take an access token."""

    MISSING = "missing"
    INVALID = "invalid"
    REVOKED = "revoked"
    EXPIRED = "expired"


def bearer(request: web.Request) -> str | None:
    """The token of the Authorization header (RFC 6750, 2.1)."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def examine(stage: Stage, provider: Provider, request: web.Request) -> Grant | Complaint:
    """Whose data the request may see; the access token counts as used from now on."""
    presented = bearer(request)
    token = stage.issued.access_token(presented) if presented else None
    if token is None:
        return Complaint.INVALID if presented else Complaint.MISSING
    grant = stage.issued.grant(token.grant_id)
    complaint = _complaint(token, grant, provider, stage.clock.now())
    with stage.store.transaction():
        stage.record.used(provider, token.sha256, 200 if complaint is None else 401, stage.clock.now())
        if complaint is None:
            use(stage.issued, token, stage.faults.switches(provider))
    return complaint or grant


def _complaint(token: AccessToken, grant: Grant, provider: Provider, now: float) -> Complaint | None:
    if grant.provider != provider:
        return Complaint.INVALID
    if token.revoked:
        return Complaint.REVOKED
    return Complaint.EXPIRED if now >= token.expires_at else None
