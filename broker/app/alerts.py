"""Telling of what happened: the hooks that the configuration names, and what watches for them."""

from contextlib import AsyncExitStack

from broker.alerts.dispatch import Dispatcher
from broker.alerts.hooks import Command, Webhook, WebhookClient
from broker.alerts.routes import Feed
from broker.alerts.service import Alerts, Forecaster, StandingTroubles
from broker.config.settings import Settings
from broker.context import Context
from broker.tokens.permit import Permit


class AlertRoom:
    """The alerts, and their hooks built anew when the configuration is reloaded."""

    def __init__(self, context: Context, permit: Permit, closing: AsyncExitStack) -> None:
        self._context, self._client = context, WebhookClient(context.settings.network)
        closing.push_async_callback(self._client.close)
        stores, steady = context.stores, context.steady
        webhook, command = (
            Dispatcher(name, store=stores.alerts, events=stores.events, health=context.health, clock=steady)
            for name in ("webhook", "command")
        )
        self.service = Alerts(
            webhook=webhook,
            command=command,
            standing=StandingTroubles(
                replica=context.replica,
                health=context.health,
                mass_refused=permit.mass_refused,
                store=stores.alerts,
                clock=steady,
            ),
            forecaster=Forecaster(
                store=stores.alerts,
                clock=steady,
                refresh=context.settings.refresh,
                types=lambda: {name: one.type for name, one in context.settings.providers.items()},
            ),
            feed=Feed(events=stores.events, clock=steady),
            clock=steady,
        )
        self.use(context.settings)

    def use(self, settings: Settings, *, resume: bool = False) -> None:
        """Tell whom these settings name; `resume` lifts pauses."""
        context, argv, webhook = self._context, settings.alerts.command, settings.alerts.webhook
        self.service.use(
            # The machine's clock: receivers compare the timestamp with their own.
            None if webhook is None else Webhook(webhook, client=self._client, clock=context.clock),
            Command(argv, clock=context.steady) if argv else None,
            resume=resume,
        )
