"""Telling of what happened: the hooks that the configuration names, and what watches for them."""

from contextlib import AsyncExitStack

from broker.alerts.dispatch import Dispatcher
from broker.alerts.hooks import Command, Webhook, WebhookClient
from broker.alerts.routes import Feed
from broker.alerts.service import Alerts, Forecaster, StandingTroubles
from broker.app.foundation import Foundation
from broker.config.settings import Settings
from broker.tokens.permit import Permit


class AlertRoom:
    """The alerts, and their hooks built anew when the configuration is reloaded."""

    def __init__(self, base: Foundation, permit: Permit, closing: AsyncExitStack) -> None:
        self._base, self._client, self._settings = base, WebhookClient(base.settings.network), base.settings
        closing.push_async_callback(self._client.close)
        stores, steady = base.stores, base.steady
        webhook, command = (
            Dispatcher(name, store=stores.alerts, events=stores.events, health=base.health, clock=steady)
            for name in ("webhook", "command")
        )
        self.service = Alerts(
            webhook=webhook,
            command=command,
            standing=StandingTroubles(
                replica=base.replica,
                health=base.health,
                mass_refused=permit.mass_refused,
                store=stores.alerts,
                clock=steady,
            ),
            forecaster=Forecaster(
                store=stores.alerts,
                clock=steady,
                refresh=base.settings.refresh,
                types=lambda: {name: one.type for name, one in self._settings.providers.items()},
            ),
            feed=Feed(events=stores.events, clock=steady),
            clock=steady,
        )
        self.use(base.settings)

    def use(self, settings: Settings, *, resume: bool = False) -> None:
        """Tell whom these settings name; `resume` lifts pauses."""
        self._settings = settings
        base, argv, webhook = self._base, settings.alerts.command, settings.alerts.webhook
        self.service.use(
            # The machine's clock: receivers compare the timestamp with their own.
            None if webhook is None else Webhook(webhook, client=self._client, clock=base.clock),
            Command(argv, clock=base.steady) if argv else None,
            resume=resume,
        )
