"""What all commands have in common: `--config` on either side of the name, an example in the help."""

import sys
from collections.abc import Mapping
from typing import Any

import click

from broker.cli.desk import Desk
from broker.cli.tables import show_json


def _take_config(context: click.Context, _: click.Parameter, value: str | None) -> None:
    desk = context.ensure_object(Desk)
    if value is not None:
        context.obj = desk.configured_by(value)


def _config_option() -> click.Option:
    return click.Option(
        ["--config"],
        type=click.Path(dir_okay=False, path_type=str),
        metavar="PATH",
        expose_value=False,
        callback=_take_config,
        help="The config.toml; else $BROKER_CONFIG, else /etc/token-broker/config.toml.",
    )


class Command(click.Command):
    """A command that takes `--config` and shows an example in its help."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_config_option())
        self.example = example

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"  {line}\n")


class Group(click.Group):
    """A group of commands, which takes `--config` as well."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, former: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        """`former`: names that commands had before, which still work and are not shown."""
        super().__init__(*args, **kwargs)
        self.params.append(_config_option())
        self._former = former or {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, self._former.get(cmd_name, cmd_name))


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, in the API's shapes.")


def say(sentence: str, value: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what was done, for people or for programs."""
    if as_json:
        show_json(value)
    else:
        click.echo(sentence)


yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless the answer is known; raises click.Abort on a no, UsageError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked without a terminal: add --yes to say so.")
    click.confirm(question, abort=True, err=True)
