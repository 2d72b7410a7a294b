"""The HTTP routes of accounts and their grants, on the internal listener and the admin socket."""

import json
from typing import Any

from aiohttp import web

from broker.accounts.moving import ForeignGrant, GrantTransfer
from broker.accounts.service import AccountService
from broker.clock import Clock
from broker.errors import BrokerError, InvalidRequest
from broker.http import schema
from broker.http.bodies import SHAPES, account_json, answers_shape
from broker.http.edge import CALLER, REQUEST_ID, answer
from broker.http.operations import Operation, check_query, query_number, read_object
from broker.model import Account, Caller, Permission, Secret, Status
from broker.store.account_queries import AccountQuery

PAGE = 100
LONGEST_TOKEN = 8192
ACCOUNT = answers_shape("The account", "Account")
FLAG = {"type": "integer", "enum": [0, 1]}


def _change(action: str, summary: str) -> Operation:
    return Operation(
        "POST",
        f"/accounts/{{account}}/{action}",
        summary,
        ACCOUNT,
        permission=Permission.MANAGE,
        problems=("unknown_account", "conflict"),
    )


class AccountRoutes:
    """The routes `/accounts` and below."""

    def __init__(self, *, service: AccountService, transfer: GrantTransfer, clock: Clock) -> None:
        self._service, self._transfer, self._clock = service, transfer, clock

    @Operation(
        "GET",
        "/accounts",
        "List the accounts that the caller may see, a page at a time",
        schema.answers_json(
            "A page of accounts",
            schema.record(
                {
                    "accounts": {"type": "array", "items": schema.ref("Account")},
                    "next_cursor": schema.TEXT_OR_NULL,
                }
            ),
            {"accounts": [SHAPES["Account"][1]], "next_cursor": None},
        ),
        permission=Permission.ACCOUNTS,
        query={
            "provider": ("Only accounts of this provider", schema.TEXT),
            "status": ("Only accounts with this status", {"type": "string", "enum": [*map(str, Status)]}),
            "subject": ("Only accounts with this subject", schema.TEXT),
            "expiring_within": (
                "Only accounts whose token expires within so many seconds",
                {**schema.COUNT, "maximum": schema.YEAR},
            ),
            "removed": (
                "1: removed accounts that can be restored, instead",
                {"type": "string", "enum": ["0", "1"]},
            ),
            "cursor": ("`next_cursor` of the previous page", schema.TEXT),
            "limit": ("How many at most", schema.LIMIT),
        },
    )
    async def find(self, request: web.Request) -> web.StreamResponse:
        """Answer with a page of accounts."""
        check_query(request)
        status, within = request.query.get("status"), query_number(request, "expiring_within")
        if status is not None and status not in set(Status):
            raise InvalidRequest(f"status is one of: {', '.join(Status)}")
        query = AccountQuery(
            provider=request.query.get("provider"),
            status=Status.stored(status) if status else None,
            subject=request.query.get("subject"),
            expiring_before=None if within is None else self._clock.now() + within,
            removed=_flag(request, "removed"),
            after=request.query.get("cursor", ""),
            limit=query_number(request, "limit") or PAGE,
        )
        accounts, cursor = await self._service.find(
            request[CALLER],
            query,
            request_id=request[REQUEST_ID],
            is_gone=lambda: request.transport is None,
        )
        return answer({"accounts": [self._json(account) for account in accounts], "next_cursor": cursor})

    @Operation(
        "POST",
        "/accounts",
        "Import a grant from another system, which must no longer renew it",
        answers_shape(
            "The account. It is stored, and renewed once unless `verify` is false", "Account", status="201"
        ),
        permission=Permission.MANAGE,
        body=schema.json_body(
            {
                "name": schema.NAME,
                "provider": schema.ref("Provider"),
                "refresh_token": {"type": "string", "pattern": "^[!-~]{1,4096}$"},
                "access_token": {"type": ["string", "null"], "pattern": "^[!-~]{1,4096}$"},
                "expires_in": {"type": ["number", "null"], "minimum": 0, "maximum": schema.YEAR},
                "org": schema.TEXT_OR_NULL,
                "scope": schema.PRINTABLE_OR_NULL,
                "verify": schema.FLAG_OR_NULL,
            },
            {"name": "acme", "provider": "kit", "refresh_token": "of-the-old-system"},
        ),
        problems=("conflict", "provider_rejected_client", "provider_unavailable", "refresh_uncertain"),
    )
    async def add(self, request: web.Request) -> web.StreamResponse:
        """Import a grant of another system."""
        body = await read_object(request, longest=LONGEST_TOKEN)
        for name in ("name", "provider", "refresh_token"):
            if name not in body:
                raise InvalidRequest(f"{name} is missing; name, provider and refresh_token are needed")
        access = body.get("access_token")
        grant = ForeignGrant(
            name=body["name"],
            provider=body["provider"],
            refresh_token=Secret(body["refresh_token"]),
            access_token=None if access is None else Secret(access),
            expires_in=body.get("expires_in"),
            org=body.get("org"),
            scope=body.get("scope", ""),
            verify=body.get("verify", True),
        )
        account, warning = await self._transfer.add(request[CALLER], grant, request_id=request[REQUEST_ID])
        warned = {} if warning is None else {"warning": warning}
        return answer({**self._json(account), **warned}, status=201)

    @Operation(
        "GET",
        "/accounts/{account}",
        "Show one account with its status, the reason and what to do; never a token",
        ACCOUNT,
        permission=Permission.ACCOUNTS,
        problems=("unknown_account",),
    )
    async def show(self, request: web.Request) -> web.StreamResponse:
        """Answer with one account."""
        return self._answer(await self._service.show(*_who(request), request_id=request[REQUEST_ID]))

    @Operation(
        "PATCH",
        "/accounts/{account}",
        "Change `label`, `subject` or `name`: all that are given, or nothing. `null` empties the first two",
        ACCOUNT,
        permission=Permission.MANAGE,
        body=schema.json_body(
            {"label": schema.PRINTABLE_OR_NULL, "subject": schema.PRINTABLE_OR_NULL, "name": schema.NAME},
            {"label": "the main newsletter"},
            "name",
            minProperties=1,
        ),
        problems=("unknown_account", "conflict"),
    )
    async def change(self, request: web.Request) -> web.StreamResponse:
        """Change an account's label, subject or name."""
        body = await read_object(request, keep_null=True)
        if not body:
            raise InvalidRequest("say what to change: label, subject or name")
        return self._answer(await self._service.change(*_who(request), body, request_id=request[REQUEST_ID]))

    @Operation(
        "DELETE",
        "/accounts/{account}",
        "Remove the account. `restore` undoes that for 30 days",
        schema.nothing("The account is removed"),
        permission=Permission.MANAGE,
        query={
            "revoke": ("1: revoke the grant at the provider too; at Kit that uninstalls the app", FLAG),
            "purge": ("1: delete the account immediately; it cannot be restored", FLAG),
        },
        problems=("unknown_account", "conflict"),
    )
    async def remove(self, request: web.Request) -> web.StreamResponse:
        """Remove an account; on request revoke or purge it too."""
        purge, revoke = _flag(request, "purge"), _flag(request, "revoke")
        caller, name = _who(request)
        await self._service.remove(caller, name, purge=purge, revoke=revoke, request_id=request[REQUEST_ID])
        return web.Response(status=204)

    @_change("freeze", "Freeze the account: it is not renewed until it is unfrozen")
    async def freeze(self, request: web.Request) -> web.StreamResponse:
        """Freeze an account."""
        return self._answer(await self._service.freeze(*_who(request), request_id=request[REQUEST_ID]))

    @_change("unfreeze", "Unfreeze the account: it is renewed again")
    async def unfreeze(self, request: web.Request) -> web.StreamResponse:
        """Unfreeze an account."""
        return self._answer(await self._service.unfreeze(*_who(request), request_id=request[REQUEST_ID]))

    @_change("restore", "Undo a removal of the last 30 days")
    async def restore(self, request: web.Request) -> web.StreamResponse:
        """Restore a removed account."""
        return self._answer(await self._service.restore(*_who(request), request_id=request[REQUEST_ID]))

    def _answer(self, account: Account) -> web.StreamResponse:
        return answer(self._json(account))

    def _json(self, account: Account) -> dict[str, object]:
        return account_json(account, next_renewal_at=self._service.next_renewal_at(account))


class ExportRoutes:
    """The route `POST /exports`, on the admin socket alone, because it reveals refresh tokens."""

    def __init__(self, transfer: GrantTransfer) -> None:
        self._transfer = transfer

    @Operation(
        "POST",
        "/exports",
        permission=Permission.MANAGE,
        body=schema.json_body({"accounts": schema.TEXTS}),
    )
    async def export(self, request: web.Request) -> web.StreamResponse:
        """Answer with lines of JSON: the number of accounts, then each grant, or why it was left out."""
        globs = (await read_object(request)).get("accounts", [])
        caller, request_id = request[CALLER], request[REQUEST_ID]
        if not all(isinstance(glob, str) for glob in globs):
            raise InvalidRequest("accounts is a list of globs")
        # Before the answer begins, so that a refusal has its own status.
        names = await self._transfer.begin_export(caller, globs, request_id=request_id)
        response = web.StreamResponse(
            headers={"Content-Type": "application/jsonl", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        await response.write(_line({"total": len(names)}))
        for name in names:
            try:
                exported = await self._transfer.export(caller, name, request_id=request_id)
            except BrokerError as exc:
                exported = exc.detail
            if isinstance(exported, str):
                await response.write(_line({"left_out": name, "why": exported}))
                continue
            account, token = exported
            # In the form that an import accepts.
            grant = {"name": name, "provider": account.provider, "refresh_token": token.reveal()}
            optional = {"org": account.org, "scope": account.scope or None}
            grant |= {member: value for member, value in optional.items() if value is not None}
            await response.write(_line({"grant": grant, "client_id": account.client_id}))
        return response


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _who(request: web.Request) -> tuple[Caller, str]:
    """Return the caller and the account's name, and refuse parameters that are not declared."""
    check_query(request)
    return request[CALLER], request.match_info["account"]


def _flag(request: web.Request, name: str) -> bool:
    value = request.query.get(name, "0")
    if value not in ("0", "1"):
        raise InvalidRequest(f"{name} is 1 or 0")
    return value == "1"
