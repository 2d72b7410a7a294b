"""Wires what takes grants over from another system and hands them over to one."""

from collections.abc import Mapping
from dataclasses import dataclass

from broker.accounts.exporting import ExportService
from broker.accounts.importing import ImportService
from broker.app.foundation import Foundation
from broker.providers.interface import Provider
from broker.tokens.flight import Flights


@dataclass(frozen=True, slots=True)
class MovingRoom:
    """Coming and going."""

    imports: ImportService
    exports: ExportService

    def use(self, providers: Mapping[str, Provider]) -> None:
        """Go on with other providers: the configuration was reloaded."""
        self.imports.use(providers)


def build_moving(base: Foundation, flights: Flights) -> MovingRoom:
    imports = ImportService(
        accounts=base.stores.accounts,
        imports=base.stores.imports,
        flights=flights,
        seals=base.seals,
        keyring=base.keyring,
        gate=base.gate,
        clock=base.steady,
        providers=base.providers.by_name,
        refresh=base.settings.refresh,
    )
    exports = ExportService(
        accounts=base.stores.accounts,
        imports=base.stores.imports,
        flights=flights,
        seals=base.seals,
        gate=base.gate,
        clock=base.steady,
    )
    return MovingRoom(imports, exports)
