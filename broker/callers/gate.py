"""The only door: the ACL is asked and the decision is audited in one step, before any account is looked up."""

from dataclasses import replace

from broker.callers.acl import may
from broker.errors import Forbidden
from broker.keyring import Keyring
from broker.model import Account, Caller, Permission, Secret
from broker.observe.audit import Audit, AuditRecord


class Gate:
    """Lets a caller through, or refuses; either is written down first."""

    def __init__(self, *, audit: Audit, keyring: Keyring) -> None:
        self._audit, self._keyring = audit, keyring

    async def require(
        self, caller: Caller, permission: Permission, account: str | None, *, request_id: str
    ) -> None:
        """Return if the caller may; raises Forbidden, the same whether or not the account exists.

        An allowed read of a token is audited by `handed_out`, when it is known which token it was; everything
        else here. Raises AuditUnavailable.
        """
        if not may(caller, permission, account):
            await self._audit.record(_record(caller, permission, account, "denied", request_id))
            raise Forbidden
        if permission is not Permission.TOKEN:
            await self._audit.record(_record(caller, permission, account, "allowed", request_id))

    async def handed_out(self, caller: Caller, account: Account, token: Secret, *, request_id: str) -> None:
        """Write down that this token is about to leave; raises AuditUnavailable, and then it must not."""
        await self._audit.record(
            AuditRecord(
                caller=caller.name,
                credential=caller.credential,
                action=Permission.TOKEN,
                account=account.name,
                decision="allowed",
                request_id=request_id,
                generation=account.generation,
                fingerprint=self._keyring.fingerprint("audit token", token.reveal()),
                client=caller.address,
            )
        )

    async def note(
        self, caller: Caller, action: str, account: str | None, detail: str, *, request_id: str
    ) -> None:
        """Write down something that was done for the caller."""
        await self._audit.record(
            replace(_record(caller, action, account, "allowed", request_id), detail=detail)
        )


def _record(caller: Caller, action: str, account: str | None, decision: str, request_id: str) -> AuditRecord:
    return AuditRecord(
        caller.name, caller.credential, action, account, decision, request_id, client=caller.address
    )
