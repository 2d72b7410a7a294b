"""The parts that all commands share: their context, `--config`, `--json`, `--yes` and the example in the help."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from broker.cli.admin_socket import AdminSocket, Object
from broker.cli.output import Failed, show_json, show_table
from broker.clock import Clock, SystemClock
from broker.config import ConfigError, Settings, admin_socket_of, environment, load, locate
from broker.systemd.unit import ServiceState, run_command, service_state, service_variables


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The first argument of every command: what was given for all commands, and the ways to the broker."""

    config: str | None = None
    as_json: bool = False
    environ: Mapping[str, str] = field(default_factory=environment)
    clock: Clock = field(default_factory=SystemClock)
    systemd: Callable[..., bytes | None] = run_command
    """Runs a command of systemd."""

    @property
    def config_path(self) -> Path:
        """The path of the configuration file."""
        return locate(self.config, self.environ)

    @property
    def service(self) -> ServiceState | None:
        """The systemd service that runs with this configuration, if there is one."""
        return service_state(self.config_path, self.systemd)

    @property
    def broker(self) -> AdminSocket:
        """The running broker; raises ConfigError if the configuration does not name its socket."""
        return AdminSocket(admin_socket_of(self.config_path, self.environ))

    @contextmanager
    def as_service(self) -> Iterator[Mapping[str, str]]:
        """Yield the environment of the service, with the variables that systemd sets for it."""
        if "CREDENTIALS_DIRECTORY" in self.environ or self.service is None:
            yield self.environ
            return
        with service_variables(self.systemd) as variables:
            yield {**self.environ, **variables}

    @contextmanager
    def offline_settings(self) -> Iterator[Settings]:
        """Yield the settings of the broker, for a command that opens the store itself; raises ConfigError."""
        from broker.observe import logs  # noqa: PLC0415 - few commands need it

        with self.as_service() as environ:
            settings = load(self.config_path, environ=environ)
            logs.configure(settings.log)
            yield settings

    def say(self, sentence: str, value: Mapping[str, Any]) -> None:
        """Print the sentence, or the value as JSON with `--json`."""
        if self.as_json:
            show_json(value)
        else:
            click.echo(sentence)

    def show_list(
        self,
        answer: Mapping[str, Any],
        member: str,
        columns: Mapping[str, bool],
        row: Callable[[Object, float], Sequence[object]],
        *,
        none: str | None = None,
    ) -> None:
        """Print a listing as a table, or as the sentence `none` if it is empty; with `--json` the whole answer.

        `row` makes the cells of one member at a time in epoch seconds.
        """
        if self.as_json:
            show_json(answer)
        elif answer[member] or none is None:
            now = self.clock.now()
            show_table(columns, (row(one, now) for one in answer[member]))
        else:
            click.echo(none)


class Command(click.Command):
    """A command that takes `--config`, mostly `--json` too, and has an example in its help.

    It gets a CommandContext. A mistake in the configuration becomes its failure.
    """

    def __init__(self, *args: Any, example: str, json: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if json:
            self.params.append(
                _context_option("--json", "as_json", is_flag=True, default=None, help=JSON_HELP)
            )
        self.params.append(_config_option())
        self.example = example

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return self.callback and ctx.invoke(self.callback, ctx.obj, **ctx.params)
        except ConfigError as exc:
            raise Failed(exc.problems[0]) from None

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"  {line}\n")


class Group(click.Group):
    """A group of commands, which takes `--config` too."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, former: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        """`former` maps old names of commands, which still work but are not listed, to the new ones."""
        super().__init__(*args, **kwargs)
        self.params.append(_config_option())
        self._former = former or {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, self._former.get(cmd_name, cmd_name))


JSON_HELP = "Print JSON with the members of the HTTP API."
CONFIG_HELP = "The configuration file. Default: $BROKER_CONFIG, else /etc/token-broker/config.toml."

yes = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask the user, unless `yes`; raises click.Abort on a no, and UsageError without a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask on: confirm it with --yes.")
    click.confirm(question, abort=True, err=True)


def _config_option() -> click.Option:
    path = click.Path(dir_okay=False, path_type=str)
    return _context_option("--config", "config", type=path, metavar="PATH", help=CONFIG_HELP)


def _context_option(option: str, member: str, **kwargs: Any) -> click.Option:
    """Return an option whose value goes into the CommandContext; given twice, the last value counts."""

    def take(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        context = ctx.ensure_object(CommandContext)
        if value is not None:
            ctx.obj = replace(context, **{member: value})

    return click.Option([option, member], expose_value=False, callback=take, **kwargs)
