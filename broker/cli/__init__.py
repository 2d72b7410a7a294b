"""The command line, with one module per group of commands. Most commands only talk to the running broker."""

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
    """Keep OAuth connections to Kit and Kustomer alive and issue valid access tokens.

    Exit codes: 0 success, 1 failure (the reason is on standard error), 2 wrong usage.
    """


for command in chain(*COMMANDS):
    broker.add_command(command)
for command in (transfer.import_accounts, transfer.export_accounts):
    accounts.accounts.add_command(command)
