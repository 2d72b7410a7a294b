"""`broker accounts import` and `export`: grants that come from another system, and those that go to one."""

import json
import os
import stat
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Literal

import click

from broker.cli import arguments
from broker.cli.admin_socket import AdminSocket, Object, sentence
from broker.cli.command import Command, CommandContext, confirm, yes
from broker.cli.output import SHOWN, Failed, counted, one_line, plain, progress
from broker.files import exposure, new_file
from broker.model import is_account_name

AT_ONCE = 4
"""Imports under way; each may be a renewal at the provider."""
ONE_AT_A_TIME = "The old system must have stopped: two systems that renew one grant kill it."

Kind = Literal["imported", "stored", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one line."""

    line: int
    account: str | None
    outcome: Kind
    """`stored`: it is safe here, but no renewal has proved it."""
    status: str | None
    detail: str | None


@click.command(
    "import",
    cls=Command,
    example="broker accounts import grants.jsonl\nold-table-to-json | broker accounts import -",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@yes
def import_accounts(context: CommandContext, file: Path, yes: bool) -> None:
    """Take over the grants in FILE, which another system held.

    Stop that system first: two systems that renew one grant kill it. FILE holds JSON, one object a
    line or a list of them: {"name", "provider", "refresh_token"}, and where there are any
    "access_token" with "expires_in", "org", "scope". Each is stored, then renewed once, which proves
    it; "verify": false leaves that out. `-` is standard input. What is there already is skipped, so
    an import that was broken off goes on when it is typed again.
    """
    grants = _read_objects(file)
    if not grants:
        raise Failed(f"{file} holds no account.")
    click.echo(ONE_AT_A_TIME, err=True)
    confirm(
        f"Has it stopped, and shall {counted(len(grants), 'account')} be imported?",
        yes=yes or not sys.stdin.isatty(),
    )
    outcomes: list[Outcome] = []
    with progress("Importing", len(grants)) as advance:
        try:
            for outcome in _imported(context.broker, grants):
                outcomes.append(outcome)
                advance(1, None)
                if not context.as_json:
                    name = outcome.account or f"line {outcome.line}"
                    proved = ", not proved" if outcome.outcome == "stored" else ""
                    status = f", {outcome.status}" if outcome.status else ""
                    detail = f": {plain(outcome.detail)}" if outcome.detail else ""
                    click.echo(f"{name}: {outcome.outcome}{proved}{status}{detail}")
        except Failed as exc:
            done = f"{len(outcomes)} of {len(grants)} were done"
            raise type(exc)(f"{exc.message} {done}; type it again, what is there is skipped.") from None
    outcomes.sort(key=lambda outcome: outcome.line)
    counts = Counter(outcome.outcome for outcome in outcomes)
    context.say(
        f"{counts['imported']} imported, {counts['skipped']} skipped, there already.",
        {"accounts": [asdict(outcome) for outcome in outcomes]},
    )
    words: dict[Kind, str] = {"stored": "stored but not proved", "failed": "failed"}
    if wrong := [f"{counts[kind]} {word}" for kind, word in words.items() if counts[kind]]:
        raise Failed(f"{' and '.join(wrong)} of {counted(len(outcomes), 'account')}; see each above.")


def _imported(broker: AdminSocket, grants: list[tuple[int, Object]]) -> Iterator[Outcome]:
    """Import several at once and yield what became of each; raises Failed where the broker goes away."""
    waiting, heard = iter(grants), SimpleQueue[Outcome | Exception | None]()

    def work() -> None:
        try:
            for line, grant in waiting:
                heard.put(_import_one(broker, line, grant))
        except Exception as exc:  # noqa: BLE001 - raised by the command itself
            # The others have no more luck: nothing is begun any more.
            deque(waiting, maxlen=0)
            heard.put(exc)
        heard.put(None)

    # Daemons, so that Ctrl-C need not wait for answers.
    workers = [Thread(target=work, daemon=True) for _ in range(AT_ONCE)]
    for worker in workers:
        worker.start()
    errors = list[Exception]()
    while workers:
        match heard.get():
            case Outcome() as outcome:
                yield outcome
            case None:
                workers.pop()
            case error:
                errors.append(error)
    if errors:
        raise errors[0]


def _import_one(broker: AdminSocket, line: int, grant: Object) -> Outcome:
    status, answer = broker.attempt("POST", "/accounts", body=grant)
    name = grant.get("name")
    shown = name if isinstance(name, str) and is_account_name(name) else None
    if status == 201:
        kind: Kind = "stored" if "warning" in answer else "imported"
        return Outcome(line, shown, kind, answer["status"], answer.get("warning"))
    if status != 409 or not answer.get("same_grant") or shown is None:
        return Outcome(line, shown, "failed", None, one_line(sentence(answer)))
    if answer.get("proved") or grant.get("verify") is False:
        return Outcome(line, shown, "skipped", None, "there already")
    # It was stored by an import that was broken off before its renewal.
    status, answer = broker.attempt("POST", f"/token/{shown}/refresh", body={})
    if status == 200:
        return Outcome(line, shown, "skipped", None, "there already, proved now")
    return Outcome(line, shown, "stored", None, one_line(sentence(answer)))


@click.command("export", cls=Command, example="broker accounts export --account 'kit-*' grants.jsonl")
@click.option(
    "--account",
    "globs",
    multiple=True,
    metavar="GLOB",
    shell_complete=arguments.complete_accounts,
    help="Which ones; repeatable. Default: all.",
)
@click.argument("file", type=click.Path(path_type=Path))
@yes
def export_accounts(context: CommandContext, globs: tuple[str, ...], *, file: Path, yes: bool) -> None:
    """Write the refresh tokens of accounts to the new FILE, for another system.

    Each account is frozen here first, so that never two systems renew it; its living token is still
    handed out. FILE is 0600 and in the form that `broker accounts import` takes. Accounts that are
    uncertain are left out.
    """
    if str(file) == "-":
        raise click.UsageError("refresh tokens go to a new file only, never to standard output")
    if file.exists() or file.is_symlink():
        raise Failed(f"{file} exists, and an export never overwrites; name another file.")
    confirm(f"Freeze {' '.join(globs) or 'all accounts'} and export the refresh tokens?", yes=yes)
    exported, left_out, clients = 0, dict[str, str](), set[str]()
    try:
        with new_file(file) as (_, opened), progress("Exporting") as advance:
            for line in context.broker.lines("/exports", body={"accounts": list(globs)}):
                if "total" in line:
                    advance(0, line["total"])
                    continue
                if "grant" in line:
                    opened.write(json.dumps(line["grant"]).encode() + b"\n")
                    clients.add(line["client_id"])
                    exported += 1
                else:
                    left_out[line["left_out"]] = line["why"]
                advance(1, None)
            if not exported:
                raise Failed(f"Nothing was exported: {_listed(left_out) or 'no account matches.'}")
    except OSError as exc:
        raise Failed(f"{file} cannot be written: {exc.strerror or exc}.") from None
    context.say(
        f"{file} holds {counted(exported, 'account')}, frozen here.",
        {"file": str(file), "accounts": exported, "left_out": left_out, "clients": sorted(clients)},
    )
    if len(clients) > 1 and not context.as_json:
        click.echo(f"They are of several OAuth clients: {', '.join(map(plain, sorted(clients)))}.")
    if left_out:
        raise Failed(f"{counted(len(left_out), 'account')} left out: {_listed(left_out)}")


def _listed(left_out: dict[str, str]) -> str:
    more = len(left_out) - SHOWN
    named = "; ".join(f"{plain(name)} ({plain(why)})" for name, why in islice(left_out.items(), SHOWN))
    return named + (f"; and {more} more" if more > 0 else "")


def _read_objects(file: Path) -> list[tuple[int, Object]]:
    """Read JSON lines or a JSON list of objects, each with its number; `-` is standard input. Raises Failed."""
    name = "standard input" if str(file) == "-" else str(file)
    try:
        text = (sys.stdin.buffer.read() if str(file) == "-" else _read_private(file)).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Failed(f"{name} is not UTF-8 text.") from None
    except OSError as exc:
        raise Failed(f"{name} cannot be read: {exc.strerror}.") from None
    if is_list := text.lstrip().startswith("["):
        whole = _parsed(text)
        found = list(enumerate(whole if isinstance(whole, list) else [None], 1))
    else:
        lines = enumerate(text.split("\n"), 1)
        found = [(number, _parsed(line)) for number, line in lines if line.strip()]
    for number, value in found:
        if not isinstance(value, dict):
            place = f"{'entry' if is_list else 'line'} {number}"
            raise Failed(f"{name}: {place} is not a JSON object with unique members; nothing was sent.")
    return found


def _read_private(file: Path) -> bytes:
    with file.open("rb") as opened:
        # A pipe has no readers but its own; a file has those of its mode.
        is_file = stat.S_ISREG(os.fstat(opened.fileno()).st_mode)
        if is_file and (exposed := exposure(file, opened.fileno())):
            raise Failed(f"{file} holds secrets and others may read it; type: {exposed.command}")
        return opened.read()


def _parsed(text: str) -> Any:
    """Return None for what is not JSON, since the error would quote it, and for an object with a member twice."""

    def unique(pairs: list[tuple[str, Any]]) -> Object | None:
        members = dict(pairs)
        return members if len(members) == len(pairs) else None

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return None
