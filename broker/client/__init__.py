"""Tokens of the broker for Python programs: `Broker` for asyncio, `SyncBroker` for threads.

    async with Broker("http://127.0.0.1:8080", key="tbk_…") as broker:
        token = await broker.token("acme")

`broker.client.httpx`, `.requests` and `.aiohttp` add the token to the requests of an API; `.testing` has a fake broker.
The package imports nothing of the broker itself.
"""

from .clients import Broker as Broker
from .clients import SyncBroker as SyncBroker
from .errors import AuditUnavailable as AuditUnavailable
from .errors import BrokerAway as BrokerAway
from .errors import BrokerError as BrokerError
from .errors import Conflict as Conflict
from .errors import Forbidden as Forbidden
from .errors import Frozen as Frozen
from .errors import Internal as Internal
from .errors import InvalidRequest as InvalidRequest
from .errors import KeyUnreadable as KeyUnreadable
from .errors import MethodNotAllowed as MethodNotAllowed
from .errors import NeedsReauthorization as NeedsReauthorization
from .errors import NotFound as NotFound
from .errors import Overloaded as Overloaded
from .errors import ProviderRejectedClient as ProviderRejectedClient
from .errors import ProviderUnavailable as ProviderUnavailable
from .errors import RateLimited as RateLimited
from .errors import RefreshUncertain as RefreshUncertain
from .errors import StorageUnavailable as StorageUnavailable
from .errors import TokenUnusable as TokenUnusable
from .errors import TooLarge as TooLarge
from .errors import Unauthenticated as Unauthenticated
from .errors import UnknownAccount as UnknownAccount
from .tokens import Token as Token
