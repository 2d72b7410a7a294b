"""The configured providers: a mapping that stays the same object when a reload replaces its content."""

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from contextlib import AsyncExitStack

from broker.clock import Clock
from broker.config.settings import NetworkSettings, ProviderSettings
from broker.providers.client import ProviderClient
from broker.providers.oauth2 import OAuth2Provider


class Providers(Mapping[str, OAuth2Provider]):
    """The current providers by name. Services read through it and never copy it, so a reload reaches them all."""

    def __init__(
        self,
        settings: Mapping[str, ProviderSettings],
        *,
        clock: Clock,
        timeout: float,
        closing: AsyncExitStack,
    ) -> None:
        self._clock, self._timeout, self._closing = clock, timeout, closing
        self._clients: dict[str, tuple[NetworkSettings, ProviderClient]] = {}
        """One client for each provider, so that one's dead name server delays no other. A replaced client stays open
        for the requests under way. Settings are compared, not hashed: a proxy is a secret."""
        self.use(settings)

    def use(self, settings: Mapping[str, ProviderSettings]) -> None:
        """Replace all providers at once."""
        self._by_name = {name: self._build(one) for name, one in settings.items()}

    def __getitem__(self, name: str) -> OAuth2Provider:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def values(self) -> ValuesView[OAuth2Provider]:
        """Return the providers of one reading of the file, also if a reload comes while they are walked through."""
        return self._by_name.values()

    def items(self) -> ItemsView[str, OAuth2Provider]:
        """Return the same with their names."""
        return self._by_name.items()

    def _build(self, settings: ProviderSettings) -> OAuth2Provider:
        network, client = self._clients.get(settings.name, (None, None))
        if client is None or network != settings.network:
            client = ProviderClient(network=settings.network)
            self._clients[settings.name] = settings.network, client
            self._closing.push_async_callback(client.close)
        return OAuth2Provider(settings=settings, http=client, clock=self._clock, timeout=self._timeout)
