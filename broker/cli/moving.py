"""`broker accounts import` and `export`: grants that come from another system, and those that go to one."""

import asyncio
import json
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click

from broker.cli import complete
from broker.cli.admin_socket import Ask, sentence
from broker.cli.command import Command, as_json, confirm, say, yes
from broker.cli.desk import Desk
from broker.cli.failed import Failed
from broker.cli.files import read_objects
from broker.cli.progress import progress
from broker.cli.tables import show_json
from broker.cli.text import counted, one_line, plain
from broker.files import new_file
from broker.model import is_account_name

AT_ONCE = 4
"""Imports under way; each may be a renewal at the provider."""
ONE_AT_A_TIME = "The old system must have stopped: two systems that renew one grant kill it."
SHOWN = 10

Object = dict[str, Any]
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
@as_json
@click.pass_obj
def import_accounts(desk: Desk, file: Path, yes: bool, as_json: bool) -> None:
    """Take over the grants in FILE, which another system held.

    Stop that system first: two systems that renew one grant kill it. FILE holds JSON, one object a
    line or a list of them: {"name", "provider", "refresh_token"}, and where there are any
    "access_token" with "expires_in", "org", "scope". Each is stored, then renewed once, which proves
    it; "verify": false leaves that out. `-` is standard input. What is there already is skipped, so
    an import that was broken off goes on when it is typed again.
    """
    grants = read_objects(file)
    if not grants:
        raise Failed(f"{file} holds no account.")
    click.echo(ONE_AT_A_TIME, err=True)
    confirm(
        f"Has it stopped, and shall {counted(len(grants), 'account')} be imported?",
        yes=yes or not sys.stdin.isatty(),
    )
    outcomes: list[Outcome] = []
    with progress("Importing", len(grants)) as advance:

        def told(outcome: Outcome) -> None:
            outcomes.append(outcome)
            advance(1, None)
            if not as_json:
                click.echo(_told(outcome))

        _import_all(desk, grants, told, done=lambda: len(outcomes))
    _sum_up(sorted(outcomes, key=lambda outcome: outcome.line), as_json=as_json)


@click.command("export", cls=Command, example="broker accounts export --account 'kit-*' grants.jsonl")
@click.option(
    "--account",
    "globs",
    multiple=True,
    metavar="GLOB",
    shell_complete=complete.accounts,
    help="Which ones; repeatable. Default: all.",
)
@click.argument("file", type=click.Path(path_type=Path))
@yes
@as_json
@click.pass_obj
def export_accounts(desk: Desk, globs: tuple[str, ...], *, file: Path, yes: bool, as_json: bool) -> None:
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
    try:
        exported, left_out, clients = _export_to(desk, globs, file)
    except OSError as exc:
        raise Failed(f"{file} cannot be written: {exc.strerror or exc}.") from None
    say(
        f"{file} holds {counted(exported, 'account')}, frozen here.",
        {"file": str(file), "accounts": exported, "left_out": dict(left_out), "clients": sorted(clients)},
        as_json=as_json,
    )
    if len(clients) > 1 and not as_json:
        click.echo(f"They are of several OAuth clients: {', '.join(map(plain, sorted(clients)))}.")
    if left_out:
        raise Failed(f"{counted(len(left_out), 'account')} left out: {_listed(left_out)}")


def _import_all(
    desk: Desk, grants: list[tuple[int, Object]], told: Callable[[Outcome], None], *, done: Callable[[], int]
) -> None:
    """Several at once; raises Failed where the broker goes away, and then some of them are done."""
    waiting = iter(grants)

    async def talk(ask: Ask) -> None:
        ended = await asyncio.gather(
            *(_work(ask, waiting, told) for _ in range(AT_ONCE)), return_exceptions=True
        )
        for error in ended:
            if error is not None:
                raise error

    try:
        desk.broker.converse(talk)
    except Failed as exc:
        raise type(exc)(
            f"{exc.message} {done()} of {len(grants)} were done; type it again, what is there is skipped."
        ) from None


async def _work(ask: Ask, waiting: Iterator[tuple[int, Object]], told: Callable[[Outcome], None]) -> None:
    try:
        for line, grant in waiting:
            told(await _import_one(ask, line, grant))
    except BaseException:
        # The others have no more luck: nothing is begun any more.
        deque(waiting, maxlen=0)
        raise


async def _import_one(ask: Ask, line: int, grant: Object) -> Outcome:
    status, answer = await ask("POST", "/accounts", grant)
    name = grant.get("name")
    shown = name if isinstance(name, str) and is_account_name(name) else None
    if status == 201:
        kind: Kind = "stored" if "warning" in answer else "imported"
        return Outcome(line, shown, kind, answer["status"], answer.get("warning"))
    if status == 409 and answer.get("same_grant") and shown is not None:
        if answer.get("proved") or grant.get("verify") is False:
            return Outcome(line, shown, "skipped", None, "there already")
        return await _prove(ask, line, shown)
    return Outcome(line, shown, "failed", None, one_line(sentence(answer)))


async def _prove(ask: Ask, line: int, name: str) -> Outcome:
    """It was stored by an import that was broken off before its renewal."""
    status, answer = await ask("POST", f"/token/{name}/refresh", {})
    if status == 200:
        return Outcome(line, name, "skipped", None, "there already, proved now")
    return Outcome(line, name, "stored", None, one_line(sentence(answer)))


def _told(outcome: Outcome) -> str:
    name = outcome.account or f"line {outcome.line}"
    what = {"stored": "stored, not proved"}.get(outcome.outcome, outcome.outcome)
    status = f", {outcome.status}" if outcome.status else ""
    detail = f": {plain(outcome.detail)}" if outcome.detail else ""
    return f"{name}: {what}{status}{detail}"


def _sum_up(outcomes: list[Outcome], *, as_json: bool) -> None:
    counts = Counter(outcome.outcome for outcome in outcomes)
    if as_json:
        show_json({"accounts": [asdict(outcome) for outcome in outcomes]})
    else:
        click.echo(f"{counts['imported']} imported, {counts['skipped']} skipped, there already.")
    wrong = [f"{counts[kind]} {word}" for kind, word in WRONG if counts[kind]]
    if wrong:
        raise Failed(f"{' and '.join(wrong)} of {counted(len(outcomes), 'account')}; see each above.")


WRONG: tuple[tuple[Kind, str], ...] = (("stored", "stored but not proved"), ("failed", "failed"))


def _export_to(desk: Desk, globs: tuple[str, ...], file: Path) -> tuple[int, list[tuple[str, str]], set[str]]:
    """How many are in the file, which were left out and why, and whose clients' grants they are."""
    exported, left_out, clients = 0, list[tuple[str, str]](), set[str]()
    with new_file(file) as (_, opened), progress("Exporting") as advance:

        def take(line: Object) -> None:
            nonlocal exported
            if "total" in line:
                advance(0, line["total"])
                return
            if "grant" in line:
                opened.write(json.dumps(line["grant"]).encode() + b"\n")
                clients.add(line["client_id"])
                exported += 1
            else:
                left_out.append((line["left_out"], line["why"]))
            advance(1, None)

        desk.broker.lines("/exports", body={"accounts": list(globs)}, show=take)
        if not exported:
            raise Failed(f"Nothing was exported: {_listed(left_out) or 'no account matches.'}")
    return exported, left_out, clients


def _listed(left_out: list[tuple[str, str]]) -> str:
    more = len(left_out) - SHOWN
    named = "; ".join(f"{plain(name)} ({plain(why)})" for name, why in left_out[:SHOWN])
    return named + (f"; and {more} more" if more > 0 else "")
