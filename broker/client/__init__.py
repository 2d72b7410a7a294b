"""Tokens of the broker for Python programs: `Broker` for asyncio, `SyncBroker` for threads; nothing of the server.

    async with Broker("http://127.0.0.1:8080", key="tbk_…") as broker:
        token = await broker.token("acme")

`broker.client.httpx`, `.requests` and `.aiohttp` put the token into an API's requests, `.testing` plays the broker.
"""

from .clients import Broker, SyncBroker
from .errors import (
    AuditUnavailable,
    BrokerAway,
    BrokerError,
    Conflict,
    Forbidden,
    Frozen,
    Internal,
    InvalidRequest,
    KeyUnreadable,
    MethodNotAllowed,
    NeedsReauthorization,
    NotFound,
    Overloaded,
    ProviderRejectedClient,
    ProviderUnavailable,
    RateLimited,
    RefreshUncertain,
    StorageUnavailable,
    TokenUnusable,
    TooLarge,
    Unauthenticated,
    UnknownAccount,
)
from .tokens import Token

__all__ = [
    "AuditUnavailable",
    "Broker",
    "BrokerAway",
    "BrokerError",
    "Conflict",
    "Forbidden",
    "Frozen",
    "Internal",
    "InvalidRequest",
    "KeyUnreadable",
    "MethodNotAllowed",
    "NeedsReauthorization",
    "NotFound",
    "Overloaded",
    "ProviderRejectedClient",
    "ProviderUnavailable",
    "RateLimited",
    "RefreshUncertain",
    "StorageUnavailable",
    "SyncBroker",
    "Token",
    "TokenUnusable",
    "TooLarge",
    "Unauthenticated",
    "UnknownAccount",
]
