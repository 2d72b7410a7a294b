"""The real process: start, restart, kill -9, SIGTERM with a renewal under way, SIGHUP, and starts it refuses."""

import asyncio
import os
import signal
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.__main__ import main
from tests.forking import fork
from tests.missing import needs
from tests.ports import free_port
from tests.process import Process, new_process
from tests.until import moment


@pytest.fixture(name="process")
async def _process(tmp_path: Path) -> AsyncIterator[Process]:
    async with new_process(tmp_path / "run") as process:
        yield process


async def _connected(process: Process, *, life: int = 5) -> None:
    for provider in ("kit", "kustomer"):
        process.sandbox.faults.set(provider, life=life)
    await process.start()
    await process.new_key()
    await process.connect("acme", "kit")


async def test_three_renewals_across_restarts_with_short_lives(process: Process) -> None:
    """Kit and Kustomer, tokens of three seconds, a clean restart and a kill -9 in between."""
    await _connected(process, life=3)
    await process.connect("globex", "kustomer")
    seen: dict[str, list[int]] = {"acme": [], "globex": []}

    for round_ in range(4):
        for name, generations in seen.items():
            answer = await process.get(f"/token/{name}?min_ttl=1")
            assert answer.status == 200, answer.body
            generations.append(answer.json["generation"])
        if round_ == 1:
            assert 0 == await process.stop()
            await process.start()
        if round_ == 2:
            await _kill_between_renewals(process)
            await process.start()
        await _until_expired(process)

    for generations in seen.values():
        assert generations == sorted(generations)
        assert generations[-1] - generations[0] >= 3
    assert 0 == len((await process.judge())["overlaps"])


async def _kill_between_renewals(process: Process) -> None:
    """kill -9 while no request is outstanding, whose account would rightly be in doubt for a while."""
    while True:
        await process.signal(signal.SIGSTOP)
        with sqlite3.connect(process.folder / "var" / "broker.db") as connection:
            [open_renewals] = connection.execute("SELECT COUNT(intent_id) FROM accounts").fetchone()
        connection.close()
        if not open_renewals:
            return await process.kill()
        await process.signal(signal.SIGCONT)
        await moment()


async def _until_expired(process: Process) -> None:
    """Wait until no token that was handed out lives any more; the only clock here is the real one."""
    before = {name: (await process.get(f"/token/{name}")).json["generation"] for name in ("acme", "globex")}
    now = before
    while any(now[name] == before[name] for name in before):
        await moment()
        now = {name: (await process.get(f"/token/{name}")).json.get("generation") for name in before}


async def test_sigterm_lets_the_renewal_finish(process: Process) -> None:
    """While the POST is outstanding living tokens are served; then exit 0, and the new token is there."""
    await _connected(process, life=60)
    process.sandbox.faults.set("kit", latency_after=1.0)
    demanded = asyncio.create_task(_force(process))
    while not any(request["kind"] == "refresh" for request in (await process.judge())["requests"]):
        await moment()

    await process.signal(signal.SIGTERM)
    await process.until("STOPPING=1")
    meanwhile = await process.get("/token/acme")
    code = await process.wait()
    await demanded
    await process.start()
    after = await process.get("/token/acme")

    assert (200, "close") == (meanwhile.status, meanwhile.headers.get("Connection"))
    assert 0 == code
    assert 2 == after.json["generation"]
    assert 1 == sum(request["kind"] == "refresh" for request in (await process.judge())["requests"])


async def _force(process: Process) -> int:
    headers = {"Authorization": f"Bearer {process.key}"}
    url = process.internal + "/token/acme/refresh"
    async with process.session.post(url, headers=headers) as response:
        return response.status


async def test_sighup_takes_a_good_file_and_keeps_the_old_for_a_broken_one(process: Process) -> None:
    """The log says what was wrong; keys that need a restart are named."""
    await process.start()

    process.write_config("[refresh]\nahead = 5\n[log]\nformat = 'json'")
    await process.signal(signal.SIGHUP)
    await process.until("reload refused")
    process.write_config("[refresh]\nahead = '5m'\n[log]\nformat = 'json'")
    await process.signal(signal.SIGHUP)
    await process.until("serving")
    health = await process.session.get(process.internal + "/readyz")

    assert 200 == health.status
    assert "refresh.ahead" in process.events("reload.refused")[0]["problem"]
    assert ["refresh.ahead"] == [line["key"] for line in process.events("reload.needs_restart")]


async def test_reload_waits_and_fails_with_the_files_problems(process: Process) -> None:
    """As an operator types it, and systemd; keys that need a restart are named there and in the status."""
    await process.start()

    process.write_config("[refresh]\nahead = 5\n[log]\nlevel = 'loud'")
    refused = await process.run("reload")
    process.write_config("[refresh]\nahead = '5m'")
    taken = await process.run("reload")

    assert (1, "") == refused[:2]
    assert all(key in refused[2] for key in ("Nothing was reloaded from", "refresh.ahead", "log.level"))
    assert (0, "") == (taken[0], taken[2])
    assert "\nrefresh.ahead has changed and needs a restart: systemctl restart token-broker\n" in taken[1]
    await process.until("needs a restart: refresh.ahead")


async def test_files_are_for_their_owner_alone(process: Process) -> None:
    """Folder 0700, every file 0600."""
    await process.start()

    var = process.folder / "var"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (var, *var.iterdir())}

    assert {0o700} == {modes.pop("var")}
    assert {0o600} == set(modes.values()), modes


async def _refused(process: Process) -> str:
    code, _, err = await process.run("serve")
    assert 1 == code
    assert "Traceback" not in err
    return err


async def test_second_instance_is_refused(process: Process) -> None:
    """One store, one broker."""
    await process.start()

    assert "another broker runs" in await _refused(process)


async def test_taken_port_names_its_key(process: Process) -> None:
    """The message says which key, and what to do."""
    server = await asyncio.start_server(lambda _, __: None, "127.0.0.1", process.internal_port)

    complaint = await _refused(process)
    server.close()

    assert "server.internal" in complaint
    assert "PORT=" in complaint


async def test_master_key_is_never_replaced_over_a_store(process: Process) -> None:
    """A missing key stops the start, and the store is as it was."""
    await process.start()
    await process.stop()
    key = process.folder / "var" / "master.key"
    kept = key.read_bytes()
    key.unlink()

    complaint = await _refused(process)
    key.write_bytes(kept)
    key.chmod(0o600)
    await process.start()

    assert "master key" in complaint


async def test_lost_write_ahead_log_is_noticed(process: Process) -> None:
    """In the first run nearly everything lies there: a file that was kept without it is no new, empty store."""
    await _connected(process)
    assert 200 == (await process.get("/token/acme")).status
    await process.kill()
    (process.folder / "var" / "broker.db-wal").unlink()

    await process.start()

    ready = await process.get("/readyz")
    assert ("degraded", 1) == (ready.json["status"], len(ready.json["problems"]))
    assert "a copy or an old backup" in ready.json["problems"][0]


@pytest.mark.parametrize(("extra", "status"), [("", 403), ("[providers.kit]\nopen_install = true", 302)])
async def test_unannounced_install_without_sign_in(process: Process, extra: str, status: int) -> None:
    """By invitation only, unless the operator opens it."""
    process.write_config()
    text = process.config.read_text()
    if extra:
        process.config.write_text(text.replace("[providers.kit]", extra))
    await process.start()

    url = f"http://127.0.0.1:{process.public_port}/install/kit?redirect=https://app.kit.com/apps/1?x=1"
    async with process.session.get(url, allow_redirects=False) as answer:
        found = answer.status

    assert status == found


async def test_invalid_configuration_is_told_whole(process: Process) -> None:
    """Every mistake at once, each with its key."""
    process.write_config("[refresh]\nahead = 5\ntimeout = 'x'\n[nonsense]\n")

    complaint = await _refused(process)

    assert all(key in complaint for key in ("refresh.ahead", "refresh.timeout", "nonsense"))


async def test_pasted_line_returns_a_token(tmp_path: Path) -> None:
    """`serve` with the demo prints one line that starts with curl; it works as it stands, also after a restart."""
    needs("curl")
    port = free_port()
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "config.toml").write_text((Path(__file__).parent.parent.parent / "config.toml").read_text())

    first, second = await _demo(folder, port), await _demo(folder, port)

    assert '"account":"demo-kit"' in first
    assert first.split('"access_token":')[1] == second.split('"access_token":')[1]


async def _demo(folder: Path, port: int) -> str:
    """Run the demo until its line appears, paste that into a shell, stop it: what the line printed."""
    said = folder / "said"
    said.unlink(missing_ok=True)
    words = ["--config", str(folder / "config.toml"), "serve", "--port", str(port)]
    broker = await fork(main, words, os.environ, said, folder / "log")
    lines: list[str] = []
    async with asyncio.timeout(60):
        while not lines:
            await moment()
            whole = said.read_text().rpartition("\n")[0] if said.exists() else ""
            lines = [line for line in whole.splitlines() if line.startswith("curl ")]
    shell = await asyncio.create_subprocess_shell(lines[0], stdout=asyncio.subprocess.PIPE)
    out, _ = await shell.communicate()
    broker.send_signal(signal.SIGINT)
    assert 0 == await broker.wait()
    return out.decode().replace(out.decode().partition('"expires_in"')[2], "")
