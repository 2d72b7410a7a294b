"""The HTTP of grants that come from another system, and of those that go to one."""

import json
from typing import Any

from aiohttp import web

from broker.accounts.exporting import Exported, ExportService, LeftOut
from broker.accounts.importing import ForeignGrant, ImportService
from broker.accounts.service import AccountService
from broker.errors import BrokerError, InvalidRequest
from broker.http import schema
from broker.http.bodies import account_json, answers_shape
from broker.http.edge import CALLER, REQUEST_ID, answer
from broker.http.operations import Operation, read_object
from broker.model import Caller, Permission, Secret

LONGEST_TOKEN = 8192


class ImportRoutes:
    """`POST /accounts`, on the internal listener and the admin socket."""

    def __init__(self, *, imports: ImportService, accounts: AccountService) -> None:
        self._imports, self._accounts = imports, accounts

    @Operation(
        "POST",
        "/accounts",
        "Take over a grant of another system, which must not renew it any more",
        answers_shape(
            "The account; stored, and renewed once unless `verify` is false", "Account", status="201"
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
        body = await read_object(request, longest=LONGEST_TOKEN)
        imported = await self._imports.add(request[CALLER], _grant(body), request_id=request[REQUEST_ID])
        account = imported.account
        shown = account_json(account, next_renewal_at=self._accounts.next_renewal_at(account))
        warned = {} if imported.warning is None else {"warning": imported.warning}
        return answer({**shown, **warned}, status=201)


class ExportRoutes:
    """`POST /exports`, on the admin socket alone: refresh tokens leave by no other door."""

    def __init__(self, *, exports: ExportService) -> None:
        self._exports = exports

    @Operation(
        "POST",
        "/exports",
        permission=Permission.MANAGE,
        body=schema.json_body({"accounts": schema.TEXTS}),
    )
    async def export(self, request: web.Request) -> web.StreamResponse:
        """Lines of JSON: how many there are, then each grant, or why it was left out."""
        body = await read_object(request)
        caller, request_id = request[CALLER], request[REQUEST_ID]
        # Before the answer begins, so that a refusal is one.
        names = await self._exports.begin(caller, _texts(body.get("accounts", [])), request_id=request_id)
        response = web.StreamResponse(
            headers={"Content-Type": "application/jsonl", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        await response.write(_line({"total": len(names)}))
        for name in names:
            await response.write(_line(await self._one(caller, name, request_id)))
        return response

    async def _one(self, caller: Caller, name: str, request_id: str) -> dict[str, Any]:
        try:
            taken = await self._exports.take(caller, name, request_id=request_id)
        except BrokerError as exc:
            taken = LeftOut(name, exc.detail)
        return _grant_json(taken) if isinstance(taken, Exported) else {"left_out": name, "why": taken.why}


def _grant(body: dict[str, Any]) -> ForeignGrant:
    for name in ("name", "provider", "refresh_token"):
        if name not in body:
            raise InvalidRequest(f"{name} is missing; name, provider and refresh_token are needed")
    access = body.get("access_token")
    return ForeignGrant(
        name=body["name"],
        provider=body["provider"],
        refresh_token=Secret(body["refresh_token"]),
        access_token=None if access is None else Secret(access),
        expires_in=body.get("expires_in"),
        org=body.get("org"),
        scope=body.get("scope", ""),
        verify=body.get("verify", True),
    )


def _grant_json(exported: Exported) -> dict[str, Any]:
    """In the form that an import takes."""
    account = exported.account
    grant = {
        "name": account.name,
        "provider": account.provider,
        "refresh_token": exported.refresh_token.reveal(),
        "org": account.org,
        "scope": account.scope or None,
    }
    return {
        "grant": {name: value for name, value in grant.items() if value is not None},
        "client_id": account.client_id,
    }


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _texts(values: list[object]) -> list[str]:
    if not all(isinstance(value, str) for value in values):
        raise InvalidRequest("accounts is a list of globs")
    return [str(value) for value in values]
