"""Commands about the broker as a whole, from `serve` and `check` to `systemd` and `completion`."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from broker import __version__
from broker.cli import arguments
from broker.cli.admin_socket import NoBroker, NotStarted, Object
from broker.cli.arguments import defaulted
from broker.cli.command import Command, CommandContext, Group
from broker.cli.output import FOLDED, WHOLE, Cell, Failed, counted, plain, show_json
from broker.config import ConfigError, store_of
from broker.config.values import TcpListen
from broker.systemd.unit import ServiceState, alert_rules, install
from broker.times import relative

HIGHEST_PORT = 65533
"""`public` and the sandbox use the next two ports."""
CHECK_COLUMNS = {"WHAT": FOLDED, "LEVEL": WHOLE, "DETAIL AND NEXT STEP": FOLDED}
EVENT_COLUMNS = {"ID": WHOLE, "WHEN": WHOLE, "EVENT": WHOLE, "ABOUT": FOLDED}
SESSIONS = {"SESSION": "id", "WHO": "actor", "SIGNED IN": "signed_in_at", "ENDS": "expires_at"}
"""The columns of the dashboard's sessions, and the member that each shows."""


@click.command("serve", cls=Command, json=False, example="broker --config config.toml serve")
@click.option(
    "--port",
    type=click.IntRange(1, HIGHEST_PORT),
    help="Listen on loopback: internal on PORT, public and the sandbox on the next two.",
)
def serve(context: CommandContext, port: int | None) -> None:
    """Run the broker until SIGTERM or Ctrl-C.

    `broker reload` or SIGHUP makes it reload its configuration.
    """
    from broker.serve import run  # noqa: PLC0415 - all of the server, which no other command needs

    click.get_current_context().exit(run(context.config_path, context.environ, port))


@click.command("reload", cls=Command, example="broker reload")
def reload(context: CommandContext) -> None:
    """Reload the configuration file.

    The broker takes over providers, callers, alerts, log and renewed certificates. Other changed keys need a restart
    and are named. A file with mistakes changes nothing; the command fails and lists them.
    """
    result = context.broker.ask("POST", "/reload")
    if context.as_json:
        show_json(result)
    if result["problems"]:
        raise Failed(f"Nothing was reloaded from {result['config']}: {'; '.join(result['problems'])}")
    if not context.as_json:
        click.echo(f"Reloaded {plain(result['config'])}.")
        for key in result["needs_restart"]:
            click.echo(f"{plain(key)} has changed and needs a restart: systemctl restart token-broker")


@click.command("version", cls=Command, example="broker version")
def version(context: CommandContext) -> None:
    """Print the version of this program and of the running broker.

    The second line is missing if no broker answers, and says why if one cannot start.
    """
    running, why = None, None
    try:
        running = context.broker.ask("GET", "/version")
    except NotStarted as exc:
        why = exc.message
    except NoBroker:
        why = _lock_holder(context)
    except (Failed, ConfigError):
        pass
    told = f"token-broker {__version__}"
    if running:
        started = relative(running["started_at"], context.clock.now())
        told += f"\nrunning {plain(running['version'])}, started {started}"
    elif why:
        told += f"\nnot running: {why}"
    context.say(told, {"version": __version__, "running": running} | ({"why_not": why} if why else {}))


@click.command("check", cls=Command, example="broker check")
def check(context: CommandContext) -> None:
    """Check everything and say what to do about each problem.

    It checks configuration, file modes, keys, store, audit, clock and providers. It asks the running broker, or opens
    everything itself if none runs. It fails if there is any problem.
    """
    try:
        checks: list[Object] = context.broker.ask("GET", "/check")["checks"]
    except NotStarted as exc:
        checks = [_line("broker", "problem", exc.message, "journalctl -u token-broker -p warning")]
    except NoBroker as exc:
        if holder := _lock_holder(context):
            checks = [_line("broker", "problem", holder, "wait for it, or see its log")]
        else:
            checks = [_line("broker", "warning", f"Not running. {exc.message}")]
            # Only where no broker runs does a command open what a broker opens.
            from broker.app.offline import check_offline  # noqa: PLC0415 - all of the server, only needed here

            try:
                with context.offline_settings() as settings:
                    checks += [one.json() for one in asyncio.run(check_offline(settings))]
            except ConfigError as wrong:
                checks += [_line("configuration", "problem", line) for line in wrong.problems]
    if (state := context.service) is not None:
        checks.append(_service_check(state))
    context.show_list({"checks": checks}, "checks", CHECK_COLUMNS, _check_row)
    problems = sum(one["level"] == "problem" for one in checks)
    if problems:
        raise Failed(f"{counted(problems, 'problem')} found.")


def _check_row(one: Object, _: float) -> tuple[object, ...]:
    advice = f" → {one['next']}" if one["next"] else ""
    return one["what"], Cell(one["level"]), one["detail"] + advice


def _lock_holder(context: CommandContext) -> str | None:
    """Return a sentence about the process that has locked the store, or None if there is none."""
    from broker.store.sqlite import lock_holder  # noqa: PLC0415 - the store, which few commands need

    with suppress(ConfigError):
        store = store_of(context.config_path, context.environ)
        holder = lock_holder(store.path) if store.postgres is None else None
        if holder is not None:
            what = "a broker that starts or stops, or a command"
            return f"Process {holder} has locked the store {store.path}: {what}."
    return None


def _service_check(state: ServiceState) -> Object:
    told = f"token-broker.service is {state.active}"
    if state.restarts and state.active != "inactive":
        told += f"; systemd has restarted it {counted(state.restarts, 'time')}"
    if state.last_end and state.active != "active":
        told += f"; its last process {state.last_end}"
    if state.active.startswith("activ") and not state.restarts:
        return _line("systemd", "ok", told)
    if state.active == "inactive":
        return _line("systemd", "warning", told, "systemctl start token-broker.socket token-broker.service")
    mend = "journalctl -u token-broker -p warning; `systemctl reset-failed token-broker` sets the count to 0"
    return _line("systemd", "warning" if state.active == "active" else "problem", told, mend)


def _line(what: str, level: str, detail: str, advice: str | None = None) -> Object:
    return {"what": what, "level": level, "detail": detail, "next": advice}


@click.command("events", cls=Command, example="broker events --follow")
@click.option("--follow", is_flag=True, help="Keep printing events as they happen, until Ctrl-C.")
@click.option("--after", type=click.IntRange(min=0), metavar="ID", help="Print only events after this one.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), help="The most events. Default: 100. Not with --follow."
)
@arguments.account_option(help="Print only events of this account.")
def events(context: CommandContext, *, follow: bool, **query: str | int | None) -> None:
    """Print events, oldest first.

    With --follow and --json each line is one object.
    """
    if follow and query["limit"] is not None:
        raise click.UsageError("--limit and --follow contradict each other: leave one of them out")
    if not follow:
        query["limit"] = query["limit"] or 100
        answer = context.broker.ask("GET", "/events", query=query)
        context.show_list(answer, "events", EVENT_COLUMNS, _event_row, none="No events.")
        return
    # Ctrl-C is the ordinary end of --follow, so it is not a failure.
    with suppress(KeyboardInterrupt):
        for event in context.broker.follow("/events", query=query):
            if context.as_json:
                click.echo(json.dumps(event))
            elif event["event"] == "gap":
                click.echo(f"Events up to {event['resumed_after']} are no longer stored.", err=True)
            else:
                # An absolute time, because a line that stays on the screen must stay true.
                about = event["account"] or event["provider"] or "-"
                words = (event["at"], event["event"], about, event["reason"], _actor(event))
                click.echo("  ".join(plain(word) for word in words if word is not None))


def _event_row(event: Object, now: float) -> tuple[object, ...]:
    what = Cell(event["event"], [event["reason"], _actor(event)])
    return event["id"], relative(event["at"], now), what, event["account"] or event["provider"]


def _actor(event: Object) -> str | None:
    return f"by {event['actor']}" if event.get("actor") else None


@click.command("dashboard", cls=Command, example="broker dashboard")
@click.option("--sessions", is_flag=True, help="List the browsers that are signed in, instead.")
@click.option("--sign-out", is_flag=True, help="Sign out all browsers, instead.")
def dashboard(context: CommandContext, *, sessions: bool, sign_out: bool) -> None:
    """Print a link that opens the dashboard once, within a minute.

    The browser that opens it is signed in for twelve hours, in your name.
    """
    if sessions and sign_out:
        raise click.UsageError("--sessions and --sign-out contradict each other: leave one of them out")
    if sessions:
        found = context.broker.ask("GET", "/dashboard-sessions")
        columns = dict.fromkeys(SESSIONS, WHOLE)
        context.show_list(found, "sessions", columns, lambda one, _: [one[key] for key in SESSIONS.values()])
    elif sign_out:
        ended = context.broker.ask("DELETE", "/dashboard-sessions")
        context.say(f"Signed out: {ended['ended']}.", ended)
    else:
        link = context.broker.ask("POST", "/dashboard-links")
        context.say(link["url"], link)


@click.command("sandbox", cls=Command, example="broker sandbox --listen 127.0.0.1:8089")
@defaulted("--listen", type=arguments.address, default="127.0.0.1:8089", help="The address to listen on.")
@defaulted("--database", type=arguments.file, default="var/sandbox.db", help="The file of its issued tokens.")
@defaulted(
    "--broker-url", default="http://127.0.0.1:8081", metavar="URL", help="The public_url of the broker."
)
def sandbox(context: CommandContext, listen: TcpListen, database: Path, broker_url: str) -> None:
    """Play Kit and Kustomer, for trying things out.

    It plays your own app for sign-in as well, until SIGTERM or Ctrl-C. Nothing in it is real.
    """
    from broker.sandbox import Sandbox, run_alone  # noqa: PLC0415 - a server of its own

    def ready(running: Sandbox) -> None:
        where = f"{running.base_url}/"
        context.say(f"Kit and Kustomer are played at {where} (Ctrl-C stops it).", {"sandbox": where})

    try:
        asyncio.run(run_alone(listen, database, broker_url, ready=ready))
    except OSError as exc:
        # Only an error about its file names one.
        what, option = f"listen on {listen}", "listen"
        if exc.filename:
            what, option = f"open {exc.filename}", "database"
        why = f"The sandbox cannot {what}: {exc.strerror or exc}"
        raise Failed(f"{why}. Choose another with --{option}.") from None


@click.group("systemd", cls=Group)
def systemd() -> None:
    """Install the broker as a systemd service."""


@systemd.command("install", example="sudo broker systemd install")
@click.option(
    "--root", type=arguments.folder, default="/", metavar="DIR", help="Write below DIR. Default: /."
)
@click.option(
    "--exec",
    "command",
    type=arguments.path,
    help="The program that the service runs. Default: this one; with --root /usr/local/bin/broker.",
)
def install_unit(context: CommandContext, root: Path, command: Path | None) -> None:
    """Write the systemd units and print what to do next.

    Units of these names that exist are kept as .bak.
    """
    if command is not None and not command.is_absolute():
        raise click.BadParameter(f"systemd needs an absolute path, not {command}", param_hint="--exec")
    try:
        lines = install(root, command)
    except OSError as exc:
        raise Failed(f"{exc.filename or root} cannot be written: {exc.strerror}; are you root?") from None
    heading = lines.index("Next:")
    value = {"done": lines[:heading], "next": [line.strip() for line in lines[heading + 1 :]]}
    context.say("\n".join(lines), value)


@systemd.command(
    "alerts", json=False, example="broker systemd alerts > /etc/prometheus/rules/token-broker.yaml"
)
def print_rules(_: CommandContext) -> None:
    """Print alert rules for Prometheus as a YAML file."""
    click.echo(alert_rules(), nl=False)


@click.command(
    "completion",
    cls=Command,
    json=False,
    example='eval "$(broker completion bash)"\nbroker completion fish | source',
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(_: CommandContext, shell: str) -> None:
    """Print the script that completes commands with the Tab key in SHELL.

    Put the line of the example into ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish.
    """
    found = get_completion_class(shell)
    if found is None:
        raise Failed(f"There is no completion for {shell}.")
    # Not source(), which starts bash to find out its version.
    root = click.get_current_context().find_root().command
    script = found(root, {}, "broker", "_BROKER_COMPLETE")
    click.echo(script.source_template % script.source_vars())
