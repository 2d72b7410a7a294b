"""Wires what takes grants over from another system and hands them over to one."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from broker.accounts.exporting import ExportService
from broker.accounts.importing import ImportService
from broker.admin.checks import LOOPBACK
from broker.context import Context
from broker.model import Secret
from broker.sandbox.issued import PREFIXES
from broker.tokens.flight import Flights


@dataclass(frozen=True, slots=True)
class MovingRoom:
    """Coming and going."""

    imports: ImportService
    exports: ExportService


class SandboxBorder:
    """What the sandbox issued is never sent elsewhere, and no other grant is ever sent to it."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def refusal(self, provider: str, token: Secret) -> str | None:
        """Why that provider must not be sent that refresh token; None where it may."""
        is_played = self._context.settings.sandbox.enabled and provider in PREFIXES
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
        return urlsplit(self._context.providers[provider].token_url).hostname in LOOPBACK


def build_moving(context: Context, flights: Flights) -> MovingRoom:
    imports = ImportService(
        accounts=context.stores.accounts,
        imports=context.stores.imports,
        flights=flights,
        encryption=context.encryption,
        keyring=context.keyring,
        authorizer=context.authorizer,
        clock=context.steady,
        providers=context.providers,
        refresh=context.settings.refresh,
        refusal=SandboxBorder(context).refusal,
    )
    exports = ExportService(
        accounts=context.stores.accounts,
        imports=context.stores.imports,
        flights=flights,
        encryption=context.encryption,
        authorizer=context.authorizer,
        clock=context.steady,
    )
    return MovingRoom(imports, exports)
