"""Verifies the audit for `broker audit verify`, in the broker, because the key of its chains never leaves it."""

from aiohttp import web

from broker.audit.verify import Report, Verifier, read_files, read_stream
from broker.context import Context, audit_key
from broker.errors import Conflict
from broker.http import schema
from broker.http.edge import CALLER, REQUEST_ID, answer
from broker.http.operations import Operation, query_number
from broker.model import Caller, Permission

IN_THE_JOURNAL = (
    "the audit goes to the journal; type:"
    " journalctl -u token-broker TOKEN_BROKER_AUDIT=1 -o cat | broker audit verify -"
)
BLOCK = 64 * 1024


class AuditService:
    """Verifies the audit of a running broker."""

    def __init__(self, context: Context) -> None:
        self._context, self._key_of = context, audit_key(context.keyring)

    async def own_files(self, caller: Caller, *, request_id: str) -> Report:
        """Verify the broker's own files, up to the line that was written last; raises Conflict."""
        await self._context.authorizer.require_look(caller, "audit.verify", request_id=request_id)
        files, head = await self._context.audit.snapshot()
        if not files:
            raise Conflict(IN_THE_JOURNAL)
        verifier = Verifier(self._key_of)
        try:
            await read_files(verifier, files)
        except OSError as exc:
            raise Conflict(f"{exc.filename} cannot be read: {exc.strerror}") from None
        finally:
            for file in files:
                file.close()
        return verifier.finish([head])

    @Operation("GET", "/audit/verify", permission=Permission.ADMIN)
    async def _verify_files(self, request: web.Request) -> web.StreamResponse:
        """Verify the broker's own audit files."""
        return answer((await self.own_files(request[CALLER], request_id=request[REQUEST_ID])).json())

    @Operation(
        "POST",
        "/audit/verify",
        permission=Permission.ADMIN,
        query={"part": ("1: the lines are an excerpt of the audit", schema.COUNT | {"maximum": 1})},
    )
    async def _verify_lines(self, request: web.Request) -> web.StreamResponse:
        """Verify the lines in the body, which may be of any number and length."""
        # The query is read first, because a malformed question is not audited.
        is_part = query_number(request, "part") == 1
        await self._context.authorizer.require_look(
            request[CALLER], "audit.verify", request_id=request[REQUEST_ID]
        )
        head = None if is_part else self._context.audit.settled_head
        verifier = Verifier(self._key_of, whole=False, mixed=True)
        await read_stream(verifier, request.content.iter_chunked(BLOCK))
        return answer(verifier.finish([] if head is None else [head]).json())
