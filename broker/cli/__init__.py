"""The command line, one module per group of commands; all but a few only talk to the running broker."""

from itertools import chain

import click

from broker import __version__
from broker.cli import access, accounts, providers, service, setup, store, transfer
from broker.cli.command import Group

COMMANDS = (
    (access.audit, access.callers, access.plugin),
    (accounts.accounts, accounts.install_link, accounts.token),
    (providers.kustomer, providers.providers),
    (service.check, service.dashboard, service.events, service.reload, service.serve, service.version),
    (service.completion, service.sandbox, service.systemd),
    (setup.config, setup.init),
    (store.adopt, store.backup, store.keys, store.migrate, store.restore),
)


@click.version_option(__version__, prog_name="token-broker", message="%(prog)s %(version)s")
@click.group("broker", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def broker() -> None:
    """Keeps OAuth connections to Kit and Kustomer alive and hands out fresh tokens.

    Every command ends with 0 when done, 1 when it failed, 2 when it was used wrongly.
    """


for command in chain(*COMMANDS):
    broker.add_command(command)
for command in (transfer.import_accounts, transfer.export_accounts):
    accounts.accounts.add_command(command)
