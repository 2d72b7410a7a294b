"""The parts that all commands share: what they work with, `--config`, `--json`, `--yes` and the example."""

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
    """What a command works with; every command gets one as its first argument."""

    config: str | None = None
    """As given with `--config`."""
    as_json: bool = False
    """Whether `--json` was given."""
    environ: Mapping[str, str] = field(default_factory=environment)
    clock: Clock = field(default_factory=SystemClock)
    systemd: Callable[..., bytes | None] = run_command
    """Runs `systemctl` and its like."""

    @property
    def config_path(self) -> Path:
        return locate(self.config, self.environ)

    @property
    def service(self) -> ServiceState | None:
        """The systemd service that runs with this configuration, if there is one."""
        return service_state(self.config_path, self.systemd)

    @property
    def broker(self) -> AdminSocket:
        """The running broker; raises Failed where the configuration does not say where it answers."""
        with failing():
            return AdminSocket(admin_socket_of(self.config_path, self.environ))

    @contextmanager
    def as_service(self) -> Iterator[Mapping[str, str]]:
        """Yield the environment in which the service opens its store, with what systemd sets for that."""
        if "CREDENTIALS_DIRECTORY" in self.environ or self.service is None:
            yield self.environ
            return
        with service_variables(self.systemd) as variables:
            yield {**self.environ, **variables}

    @contextmanager
    def offline_settings(self) -> Iterator[Settings]:
        """Yield what the broker would run with, for a command that opens the store itself; raises ConfigError."""
        from broker.observe import logs  # noqa: PLC0415 - few commands need it

        with self.as_service() as environ:
            settings = load(self.config_path, environ=environ)
            logs.configure(settings.log)
            yield settings

    def say(self, sentence: str, value: Mapping[str, Any]) -> None:
        """Print what was done: the sentence for people, the value for programs."""
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
        """Print a listing: its rows at this moment for people, or the sentence `none`; the answer as JSON."""
        if self.as_json:
            show_json(answer)
        elif answer[member] or none is None:
            now = self.clock.now()
            show_table(columns, (row(one, now) for one in answer[member]))
        else:
            click.echo(none)


@contextmanager
def failing() -> Iterator[None]:
    """Turn a mistake in the configuration into the command's failure."""
    try:
        yield
    except ConfigError as exc:
        raise Failed(exc.problems[0]) from None


class Command(click.Command):
    """A command that takes `--json` and `--config`, shows an example in its help and gets a CommandContext."""

    def __init__(self, *args: Any, example: str, json: bool = True, **kwargs: Any) -> None:
        """`json`: whether it prints something that programs read."""
        super().__init__(*args, **kwargs)
        if json:
            self.params.append(
                _context_option("--json", "as_json", is_flag=True, default=None, help=JSON_HELP)
            )
        self.params.append(_config_option())
        self.example = example

    def invoke(self, ctx: click.Context) -> Any:
        return self.callback and ctx.invoke(self.callback, ctx.obj, **ctx.params)

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


JSON_HELP = "Print JSON, in the API's shapes."
CONFIG_HELP = "The config.toml; else $BROKER_CONFIG, else /etc/token-broker/config.toml."

yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless the answer is known; raises click.Abort on a no, UsageError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked without a terminal: add --yes to say so.")
    click.confirm(question, abort=True, err=True)


def _config_option() -> click.Option:
    path = click.Path(dir_okay=False, path_type=str)
    return _context_option("--config", "config", type=path, metavar="PATH", help=CONFIG_HELP)


def _context_option(option: str, member: str, **kwargs: Any) -> click.Option:
    """Return an option whose value goes into the CommandContext; on either side of a name, the last one counts."""

    def take(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        context = ctx.ensure_object(CommandContext)
        if value is not None:
            ctx.obj = replace(context, **{member: value})

    return click.Option([option, member], expose_value=False, callback=take, **kwargs)
