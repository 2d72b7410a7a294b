"""Wires what takes grants over from another system and hands them over to one."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from broker.accounts.exporting import ExportService
from broker.accounts.importing import ImportService
from broker.admin.checks import LOOPBACK
from broker.app.foundation import Foundation
from broker.model import Secret
from broker.providers.oauth2 import OAuth2Provider
from broker.sandbox.issued import PREFIXES
from broker.tokens.flight import Flights


@dataclass(frozen=True, slots=True)
class MovingRoom:
    """Coming and going."""

    imports: ImportService
    exports: ExportService

    def use(self, providers: Mapping[str, OAuth2Provider]) -> None:
        """Go on with other providers: the configuration was reloaded."""
        self.imports.use(providers)


class SandboxBorder:
    """What the sandbox issued is never sent elsewhere, and no other grant is ever sent to it."""

    def __init__(self, base: Foundation) -> None:
        self._base = base

    def refusal(self, provider: str, token: Secret) -> str | None:
        """Why that provider must not be sent that refresh token; None where it may."""
        is_played = self._base.settings.sandbox.enabled and provider in PREFIXES
        is_its_own = token.reveal().startswith(tuple(PREFIXES.values()))
        if is_played and not is_its_own:
            return (
                f"the sandbox plays {provider} here and takes nothing but its own grants;"
                " import real ones where [sandbox] is off"
            )
        if is_its_own and not is_played and not self._is_near(provider):
            return f"a sandbox issued this grant, and {provider} is none"
        return None

    def _is_near(self, provider: str) -> bool:
        """A sandbox of its own runs on this machine."""
        return urlsplit(self._base.providers.token_urls[provider]).hostname in LOOPBACK


def build_moving(base: Foundation, flights: Flights) -> MovingRoom:
    imports = ImportService(
        accounts=base.stores.accounts,
        imports=base.stores.imports,
        flights=flights,
        encryption=base.encryption,
        keyring=base.keyring,
        authorizer=base.authorizer,
        clock=base.steady,
        providers=base.providers.by_name,
        refresh=base.settings.refresh,
        refusal=SandboxBorder(base).refusal,
    )
    exports = ExportService(
        accounts=base.stores.accounts,
        imports=base.stores.imports,
        flights=flights,
        encryption=base.encryption,
        authorizer=base.authorizer,
        clock=base.steady,
    )
    return MovingRoom(imports, exports)
