"""`broker accounts import` and `export`: grants that move here from another system, and away."""

import json
import os
import stat
import sys
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import click

from broker.cli import arguments
from broker.cli.admin_socket import AdminSocket, Object, sentence
from broker.cli.command import Command, CommandContext, confirm, yes
from broker.cli.output import SHOWN, Failed, counted, one_line, plain, progress
from broker.files import exposure, new_file
from broker.model import is_account_name

AT_ONCE = 4
"""Imports in parallel; each may be a renewal at the provider."""
ONE_AT_A_TIME = "The old system must have stopped, because two systems that renew one grant can end it."
WRONG = {"stored": "stored but not proved", "failed": "failed"}
"""The outcomes with which the command fails; a `stored` grant is safe, but no renewal has proved it."""


@click.command(
    "import",
    cls=Command,
    example="broker accounts import grants.jsonl\nold-table-to-json | broker accounts import -",
)
@click.argument("file", type=arguments.file_or_stdin)
@yes
def import_accounts(context: CommandContext, file: Path, yes: bool) -> None:
    """Import the grants in FILE from another system.

    Stop that system first, because two systems that renew one grant can end it. FILE holds JSON, one object on a line
    or a list of them: {"name", "provider", "refresh_token"}, and optionally "access_token" with "expires_in", "org" and
    "scope". Each grant is stored, then renewed once, which proves it; "verify": false leaves that out. `-` is standard
    input. Grants that are here already are skipped, so an interrupted import continues when it is repeated.
    """
    grants = _read_objects(file)
    if not grants:
        raise Failed(f"There is no account in {file}.")
    click.echo(ONE_AT_A_TIME, err=True)
    confirm(
        f"Has it stopped, and shall {counted(len(grants), 'account')} be imported?",
        yes=yes or not sys.stdin.isatty(),
    )
    outcomes = list[Object]()
    with progress("Importing", len(grants)) as advance:
        try:
            for one in _imported(context.broker, grants):
                outcomes.append(one)
                advance(1, None)
                if not context.as_json:
                    proved = ", not proved" if one["outcome"] == "stored" else ""
                    status = f", {one['status']}" if one["status"] else ""
                    detail = f": {plain(one['detail'])}" if one["detail"] else ""
                    name = one["account"] or f"line {one['line']}"
                    click.echo(f"{name}: {one['outcome']}{proved}{status}{detail}")
        except Failed as exc:
            done = f"{len(outcomes)} of {len(grants)} were imported"
            raise type(exc)(f"{exc.message} {done}. Repeat the command: it skips these.") from None
    outcomes.sort(key=lambda one: one["line"])
    counts = Counter(one["outcome"] for one in outcomes)
    told = f"{counts['imported']} imported, {counts['skipped']} skipped because they exist already."
    context.say(told, {"accounts": outcomes})
    if wrong := [f"{counts[kind]} {words}" for kind, words in WRONG.items() if counts[kind]]:
        raise Failed(f"{' and '.join(wrong)} of {counted(len(outcomes), 'account')}; see each above.")


def _imported(broker: AdminSocket, grants: list[tuple[int, Object]]) -> Iterator[Object]:
    """Import several grants in parallel and yield the outcome of each; raises Failed if the broker goes away."""
    waiting, heard = iter(grants), SimpleQueue[Object | Exception | None]()

    def work() -> None:
        try:
            for line, grant in waiting:
                heard.put(_import_one(broker, line, grant))
        except Exception as exc:  # noqa: BLE001 - raised by the command itself
            # The other grants would fail too, so none is begun any more.
            deque(waiting, maxlen=0)
            heard.put(exc)
        heard.put(None)

    # Daemons, so that Ctrl-C does not wait for answers.
    workers = [Thread(target=work, daemon=True) for _ in range(AT_ONCE)]
    for worker in workers:
        worker.start()
    errors = list[Exception]()
    while workers:
        match heard.get():
            case dict() as outcome:
                yield outcome
            case None:
                workers.pop()
            case error:
                errors.append(error)
    if errors:
        raise errors[0]


def _import_one(broker: AdminSocket, line: int, grant: Object) -> Object:
    status, answer = broker.attempt("POST", "/accounts", body=grant)
    name = grant.get("name")
    shown = name if isinstance(name, str) and is_account_name(name) else None

    def became(outcome: str, detail: str | None, status: str | None = None) -> Object:
        return {"line": line, "account": shown, "outcome": outcome, "status": status, "detail": detail}

    if status == 201:
        return became(
            "stored" if "warning" in answer else "imported", answer.get("warning"), answer["status"]
        )
    if status != 409 or not answer.get("same_grant") or shown is None:
        return became("failed", one_line(sentence(answer)))
    if answer.get("proved") or grant.get("verify") is False:
        return became("skipped", "exists already")
    # An earlier import stored it, and was interrupted before its renewal.
    status, answer = broker.attempt("POST", f"/token/{shown}/refresh", body={})
    if status == 200:
        return became("skipped", "exists already, proved now")
    return became("stored", one_line(sentence(answer)))


@click.command("export", cls=Command, example="broker accounts export --account 'kit-*' grants.jsonl")
@click.option(
    "--account",
    "globs",
    multiple=True,
    metavar="GLOB",
    shell_complete=arguments.complete_accounts,
    help="The accounts to export; repeatable. Default: all.",
)
@click.argument("file", type=arguments.path)
@yes
def export_accounts(context: CommandContext, globs: tuple[str, ...], *, file: Path, yes: bool) -> None:
    """Write the refresh tokens of accounts to the new FILE, for another system.

    Each account is frozen here first, so that two systems never renew it; its access token is still issued while it is
    valid. FILE has mode 0600 and the form that `broker accounts import` reads. Accounts that are uncertain are left
    out.
    """
    if str(file) == "-":
        raise click.UsageError("refresh tokens are written to a new file only, never to standard output")
    if file.exists() or file.is_symlink():
        raise Failed(f"{file} exists, and an export never overwrites. Name another file.")
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
        click.echo(f"They belong to several OAuth clients: {', '.join(map(plain, sorted(clients)))}.")
    if left_out:
        raise Failed(f"{counted(len(left_out), 'account')} left out: {_listed(left_out)}")


def _listed(left_out: dict[str, str]) -> str:
    more = len(left_out) - SHOWN
    named = "; ".join(f"{plain(name)} ({plain(why)})" for name, why in islice(left_out.items(), SHOWN))
    return named + (f"; and {more} more" if more > 0 else "")


def _read_objects(file: Path) -> list[tuple[int, Object]]:
    """Return the objects of a file of JSON lines, or of a JSON list, each with its number; raises Failed."""
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
        # A pipe has no readers but its own; a file can be read by those whom its mode allows.
        is_file = stat.S_ISREG(os.fstat(opened.fileno()).st_mode)
        if is_file and (exposed := exposure(file, opened.fileno())):
            raise Failed(f"{file} holds secrets, and others may read it. Protect it with: {exposed.command}")
        return opened.read()


def _parsed(text: str) -> Any:
    """Return the JSON value, or None if it is invalid (the error would quote it) or has a member twice."""

    def unique(pairs: list[tuple[str, Any]]) -> Object | None:
        members = dict(pairs)
        return members if len(members) == len(pairs) else None

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return None
