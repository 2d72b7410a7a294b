"""What `?purge=1` leaves behind: a keyed hash of the name, and the audit; nothing of the person."""

import gc
import sqlite3
from dataclasses import replace
from pathlib import Path

from broker.model import Account, Event, EventKind, PendingGrant, Spare, Successor
from broker.sandbox import visitor
from broker.store.database import Transaction
from broker.store.events import insert_events
from broker.store.migrate import migrate
from broker.store.retained import grants_spool, renewals_spool
from broker.store.sqlite import SqliteDatabase
from broker.tokens.cache import Decrypted
from tests.house import OPERATOR, House
from tests.store import rows
from tests.store.rows import plain_stores

JANE = {
    "name": "jane-doe-shop",
    "first name": "kit-717001",
    "external id": "717001",
    "label": "Jane Doe's Bakery",
    "subject": "user-jane-42",
    "address": "jane-returns.example.com",
    "person who said no": "jane-said-no",
}
"""What tells of her, in words of its own."""


async def connect_jane(house: House) -> Account:
    """She installs, gets a name of her own, is renewed, says no once, and has two more links that she never used."""
    await walk(house, None, "allow")
    changes = {"name": JANE["name"], "label": JANE["label"], "subject": JANE["subject"]}
    assert 200 == (await house.ask("PATCH", f"/accounts/{JANE['first name']}", json=changes)).status
    house.clock.advance(172800 - 60)
    assert 200 == (await house.get(f"/token/{JANE['name']}")).status
    await walk(house, JANE["name"], "deny")
    await link(house, JANE["name"])
    await house.broker.tokens.uses.flush()
    await house.broker.context.stores.database.write(allow_plugin)
    account = await house.account(JANE["name"])
    await house.broker.context.stores.accounts.add_spare(
        Spare("spare-of-jane", account.name, account.epoch, account.generation, "sealed-spare-of-jane", 1.0)
    )
    return account


async def allow_plugin(transaction: Transaction) -> None:
    """What the install of a plugin would have left, in the same trip."""
    await transaction.execute(
        """INSERT INTO plugin_grants (id, client, subject, scope, created_at, last_used_at, expires_at, code_hash,
                                      account) VALUES ('jane-grant', 'kit', $1, '', 1, 1, 9e9, 'jane-code', $2)""",
        JANE["subject"],
        JANE["name"],
    )
    await transaction.execute(
        """INSERT INTO plugin_pairs (refresh_hash, access_hash, grant_id, scope, created_at, access_expires_at,
                                     refresh_expires_at) VALUES ('r', 'a', 'jane-grant', '', 1, 9e9, 9e9)"""
    )
    event = Event(2.0, EventKind.PLUGIN_CONNECTED, None, "kit", subject=JANE["subject"])
    await insert_events(transaction, [event])


async def link(house: House, account: str | None) -> str:
    url, _ = await house.broker.installs.service.create(
        OPERATOR,
        provider="kit",
        account=account,
        org=None,
        return_to=f"https://{JANE['address']}/done?of={JANE['person who said no']}",
        replace_identity=False,
        request_id="test",
    )
    return url


async def walk(house: House, account: str | None, decision: visitor.Decision) -> None:
    answers = {"account": JANE["external id"], "name": JANE["label"]}
    await visitor.install(await link(house, account), decision=decision, answers=answers)


def spool_jane(house: House, account: Account) -> None:
    """What a full disk would have left."""
    folders = [house.folder / "var" / "broker.db.spool"]
    install = replace(rows.install("jane-state"), account=account.name, subject=JANE["subject"])
    renewals_spool(folders).write(
        Successor(account.ref, "sealed-in-spool", None, "Bearer", "public", 1, 2, 3, 4, False)
    )
    grants_spool(folders).write(
        PendingGrant(install, "sealed-in-spool", None, "Bearer", "public", 1.0, 2.0, None)
    )


def found(folder: Path, words: dict[str, str]) -> set[str]:
    """Which of the words lie in the folder's files; the audit names accounts, and says so."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(("audit", "master"))
    ]
    content = b"\0".join(path.read_bytes() for path in files)
    return {name for name, word in words.items() if word.encode() in content}


async def test_nothing_of_the_person_is_left_in_any_file(house: House) -> None:
    """Store, its log, both spools: neither words nor sealed tokens. Others keep what is theirs."""
    for number in range(5):
        await house.connect("kit", f"other-{number}", account=str(500 + number))
    account = await connect_jane(house)
    spool_jane(house, account)
    words = {
        **JANE,
        "access token": account.sealed_access or "",
        "refresh token": account.sealed_refresh or "",
        "spare": "sealed-spare-of-jane",
        "spool": "sealed-in-spool",
        "state": "jane-state",
        "plugin's grant": "jane-grant",
    }
    before = found(house.folder / "var", words)

    removed = await house.ask("DELETE", f"/accounts/{JANE['name']}?purge=1")

    assert (204, set(words)) == (removed.status, before)
    assert set() == found(house.folder / "var", words)
    for number in range(5):
        assert 200 == (await house.get(f"/token/other-{number}")).status
    assert 404 == (await house.get(f"/token/{JANE['name']}")).status


async def test_what_stays_is_a_hash_and_the_audit(house: House) -> None:
    """The hash holds the last epoch and generation; the audit says who purged whom, and names the account."""
    account = await connect_jane(house)
    await house.ask("DELETE", f"/accounts/{JANE['name']}?purge=1", headers={"X-Request-Id": "request-purge"})

    kept = await house.broker.context.stores.database.read("SELECT epoch, generation FROM purged_names")
    files = sorted((house.folder / "var").glob("audit*.jsonl"))
    [line] = [one for path in files for one in path.read_text().splitlines() if "request-purge" in one]

    assert (account.epoch, account.generation) in [tuple(row) for row in kept]
    assert '"caller":"service"' in line
    assert '"action":"accounts.remove","account":"jane-doe-shop","decision":"allowed"' in line
    assert '"detail":"purge"' in line


async def test_account_that_nobody_restored_is_purged_too(house: House) -> None:
    """Thirty days after its removal, by the background, and the audit says so."""
    account = await connect_jane(house)
    await house.ask("DELETE", f"/accounts/{account.name}")
    house.clock.advance(30 * 86400 + 1)
    before = found(house.folder / "var", JANE)

    await house.broker.accounts.purge_removed(house.clock.now())
    audit = b"".join(path.read_bytes() for path in (house.folder / "var").glob("audit*"))

    assert {"name", "label", "subject", "external id"} <= before
    assert set() == found(house.folder / "var", JANE)
    assert b'"caller":"broker","credential":"schedule","action":"accounts.purge"' in audit


async def test_pages_that_were_split_and_merged_keep_nothing(tmp_path: Path) -> None:
    """One of many whose rows moved about between pages as others grew, came and went."""
    folder = tmp_path / "store"
    database = await SqliteDatabase.open(folder / "broker.db")
    await migrate(database)
    stores = plain_stores(database)
    for number in range(300):
        name = f"account-{number:03}" if number != 150 else JANE["name"]
        one = replace(rows.account(name), label=JANE["label"] if number == 150 else "L" * (number % 90))
        event = Event(1.0, EventKind.CONNECTED, name, "kit")
        await stores.accounts.connect(one, expected=None, next_at=1.0, grant=None, events=[event] * 3)
    for number in range(0, 300, 3):
        await stores.accounts.relabel(f"account-{number:03}", label="M" * 400, subject=None)
    await stores.accounts.relabel(JANE["name"], label=JANE["label"] * 40, subject=JANE["subject"])
    for number in range(0, 300, 7):
        await stores.accounts.purge(f"account-{number:03}", f"hash-{number}")
    await stores.accounts.relabel(JANE["name"], label=JANE["label"], subject=JANE["subject"])
    before = found(folder, JANE)

    await stores.accounts.purge(JANE["name"], "hash-jane")
    scrubbed = await stores.database.scrub()
    after = found(folder, JANE)
    await database.close()

    assert (True, {"name", "label", "subject"}) == (scrubbed, before)
    assert set() == after


async def test_log_that_somebody_reads_is_scrubbed_later(house: House) -> None:
    """A reader in the middle of something keeps the pages as they were; the background tries again."""
    account = await connect_jane(house)
    await house.restart()
    reader = sqlite3.connect(f"file:{house.folder}/var/broker.db?mode=ro", uri=True)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM accounts").fetchall()

    await house.ask("DELETE", f"/accounts/{account.name}?purge=1")
    during = found(house.folder / "var", JANE)
    reader.close()
    await house.broker.accounts.purge_removed(house.clock.now())

    assert "label" in during
    assert set() == found(house.folder / "var", JANE)


async def test_purged_token_is_nowhere_in_memory(house: House) -> None:
    """Neither decrypted, nor ready for the next request, nor as a name that a breaker remembers.

    The name is this test's own, because earlier tests of the process may have left objects behind.
    """
    await house.connect("kit", "only-here")
    for _ in range(3):
        await house.get("/token/only-here")
    house.broker.tokens.permit.note_rejection(account := await house.account("only-here"))
    breaker = house.broker.tokens.permit.breaker("kit")
    breaker.client_refused("only-here", house.clock.now(), only_account=True)
    breaker.refused(account.ref, house.clock.now())
    was_kept = "only-here" in f"{vars(house.broker.tokens.cache)}"

    await house.broker.accounts.remove(OPERATOR, "only-here", purge=True, revoke=False, request_id="test")
    gc.collect()

    kept = [one for one in gc.get_objects() if isinstance(one, Decrypted) and one.account.name == "only-here"]
    assert (True, []) == (was_kept, kept)
    assert "only-here" not in f"{vars(house.broker.tokens.cache)}"
    assert "only-here" not in f"{vars(house.broker.tokens.permit)} {breaker}"
