"""The only door: the ACL is asked and the decision is audited in one step, before any account is looked up."""

from collections.abc import Awaitable

from broker.audit.audit import Audit
from broker.audit.lines import AuditRecord, Stakes, token_body
from broker.callers.acl import may, why_not
from broker.errors import Forbidden
from broker.model import Caller, Permission

READS = frozenset({Permission.TOKEN, Permission.ACCOUNTS})
"""What goes on for a while when the audit cannot be written; everything else changes something."""


class Gate:
    """Lets a caller through, or refuses; either is written down first."""

    def __init__(self, *, audit: Audit) -> None:
        self._audit = audit

    async def require(
        self,
        caller: Caller,
        permission: Permission,
        account: str | None,
        *,
        request_id: str,
        action: str | None = None,
        detail: str | None = None,
        reads: bool = False,
    ) -> None:
        """Return if the caller may; raises Forbidden, the same whether or not the account exists.

        `action` says what is done more closely than the permission; `reads`: nothing is changed by it. An allowed
        read of a token is audited by `handed_out`, when it is known which token it was; everything else here.
        Raises AuditUnavailable.
        """
        allowed = may(caller, permission, account)
        if allowed and permission is Permission.TOKEN:
            return
        record = _record(caller, action or permission, account, request_id, detail=detail, allowed=allowed)
        changes = allowed and not reads and permission not in READS
        await self._audit.record(record, Stakes.CHANGE if changes else Stakes.READ)
        if not allowed:
            raise Forbidden(why_not(caller, permission, account))

    def handed_out(
        self,
        caller: Caller,
        account: str,
        generation: int,
        fingerprint: str,
        *,
        request_id: str,
        client: str | None,
    ) -> Awaitable[None]:
        """Write down that this token is about to leave; raises AuditUnavailable, and then it must not."""
        body = token_body(
            caller,
            account,
            self._audit.now(),
            request_id=request_id,
            generation=generation,
            fingerprint=fingerprint,
            client=client,
        )
        return self._audit.put(body, Stakes.READ)

    async def announce(
        self, caller: Caller, action: str, account: str | None, detail: str, *, request_id: str
    ) -> None:
        """Write down something that is about to be done; raises AuditUnavailable, and then it must not."""
        await self._audit.record(_record(caller, action, account, request_id, detail=detail), Stakes.CHANGE)

    async def note(
        self, caller: Caller, action: str, account: str | None, detail: str, *, request_id: str
    ) -> None:
        """Write down something that was done for the caller; never refused, since it has happened."""
        await self._audit.record(_record(caller, action, account, request_id, detail=detail), Stakes.DONE)


def _record(
    caller: Caller,
    action: str,
    account: str | None,
    request_id: str,
    *,
    detail: str | None,
    allowed: bool = True,
) -> AuditRecord:
    return AuditRecord(
        caller=caller.name,
        credential=caller.credential,
        action=action,
        account=account,
        decision="allowed" if allowed else "denied",
        request_id=request_id,
        detail=detail,
        client=caller.address,
    )
