"""What `make dist` builds: the same bytes twice, one version, all that runs."""

import asyncio
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from broker import __version__
from broker.cli import setup
from broker.config import ConfigError, load
from tests.packaging.building import ROOT, build
from tests.pages import sections
from tests.process import new_process
from tests.test_supply_chain import RUN, pinned


def test_same_source_gives_same_bytes(source: Path, built: dict[str, bytes]) -> None:
    """In another folder, at another time, with other modes."""
    elsewhere = source / "var/elsewhere"
    shutil.copytree(source, elsewhere, ignore=shutil.ignore_patterns("dist", "var"))
    for path in elsewhere.rglob("*.py"):
        path.touch()
        path.chmod(0o600)

    assert built == build(elsewhere)


def test_version_is_written_once(built: dict[str, bytes], source: Path) -> None:
    """Package, metadata and names agree; no other file of the build says a number."""
    [wheel] = (source / "dist").glob("token_broker-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith("METADATA")]
        found = re.search(r"^Version: (.*)$", archive.read(metadata).decode(), re.MULTILINE)

    assert found and __version__ == found[1]
    assert f"token_broker-{__version__}.tar.gz" in built
    assert "version" not in re.findall(r"^(\w+) = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_checksums_are_those_of_the_files(built: dict[str, bytes]) -> None:
    """Of all of them."""
    lines = [line.split("  ") for line in built["SHA256SUMS"].decode().splitlines()]
    sums = {name: value for value, name in lines}

    assert {
        name: hashlib.sha256(content).hexdigest() for name, content in built.items() if name != "SHA256SUMS"
    } == sums


def test_bill_of_materials_names_every_package(built: dict[str, bytes]) -> None:
    """With its version and the hashes that are pinned."""
    document = json.loads(built[f"token-broker-{__version__}.cdx.json"])
    packages = {one["name"]: one["version"] for one in document["components"]}

    assert pinned(RUN) == packages
    assert all(one["hashes"] for one in document["components"])
    assert ("token-broker", __version__) == tuple(
        document["metadata"]["component"][key] for key in ("name", "version")
    )


def test_wheel_holds_the_program_alone(source: Path, built: dict[str, bytes]) -> None:
    """And all of it: every file of broker/, none of the tests; the sdist builds and installs from itself."""
    [wheel] = (source / "dist").glob("token_broker-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    [sdist] = (source / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        files = {name.partition("/")[2] for name in packed.getnames()}

    assert {
        path.relative_to(source).as_posix() for path in (source / "broker").rglob("*") if path.is_file()
    } == held
    assert {
        "Makefile",
        "requirements.txt",
        "packaging/install",
        "packaging/requirements.txt",
        ".ci/setup",
    } <= files


def unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            archive.extract(name, folder)


ALONE = """
import sys
from token_broker_client import NeedsReauthorization, SyncBroker, UnknownAccount
assert not [name for name in sys.modules if name.split(".")[0] in ("broker", "aiohttp", "requests", "httpx")]
address, key = sys.argv[1:]
broker = SyncBroker(address, key=key)
token = broker.token("acme")
print(token.account, token.generation)
try:
    broker.token("nobody")
except UnknownAccount:
    print("unknown")
"""


async def test_client_alone_gets_tokens_of_a_real_broker(built: dict[str, bytes], tmp_path: Path) -> None:
    """In an environment with nothing but the standard library, over TCP and over a Unix socket."""
    [wheel] = [name for name in built if name.startswith("token_broker_client-")]
    (tmp_path / wheel).write_bytes(built[wheel])
    unpack(tmp_path / wheel, tmp_path / "packages")
    script = tmp_path / "packages/script.py"
    script.write_text(ALONE)
    async with new_process(tmp_path / "run") as process:
        await process.start()
        await process.connect("acme")
        await process.new_key("*")
        for address in (process.internal, f"unix:{process.folder}/var/admin.sock"):
            told = await asyncio.create_subprocess_exec(
                *(sys.executable, "-S", "-E", script, address, process.key), stdout=asyncio.subprocess.PIPE
            )
            out, _ = await told.communicate()

            assert ["acme", "1", "unknown"] == out.decode().split()


@pytest.mark.slow
def test_wheel_of_the_client_passes_its_suite(built: dict[str, bytes], tmp_path: Path) -> None:
    """And the documented examples, against the real broker; where `broker.client` is not to be had at all."""
    for name in ("broker", "tests", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "client" if name == "broker" else "")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    [wheel] = [name for name in built if name.startswith("token_broker_client-")]
    (tmp_path / wheel).write_bytes(built[wheel])
    unpack(tmp_path / wheel, tmp_path)
    for path in (*tmp_path.rglob("tests/**/*.py"), *tmp_path.glob("docs/*.md"), tmp_path / "README.md"):
        text = path.read_text()
        text = text.replace(
            "from broker import client, ", "import token_broker_client as client\nfrom broker import "
        )
        path.write_text(re.sub(r"\bbroker\.client\b", "token_broker_client", text))

    suite = ("tests/client", "tests/flows/test_calling_it.py", "-m", "", "-p", "no:cacheprovider")
    told = subprocess.run(
        [sys.executable, "-m", "pytest", *suite], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 0 == told.returncode, told.stdout[-5000:]
    assert int(re.findall(r"(\d+) passed", told.stdout)[0]) > 200


def test_manual_page_has_every_command() -> None:
    """And groff reads it without a warning."""
    made = subprocess.run(
        [sys.executable, "packaging/manual.py", __version__], cwd=ROOT, capture_output=True, check=True
    )
    page = made.stdout.decode().replace("\\-", "-")
    commands = [one.title for one in sections() if one.title.startswith("broker ")]

    assert len(commands) > 30
    assert [] == [command for command in commands if f'.SS "{command}' not in page]
    if groff := shutil.which("groff"):
        read = subprocess.run(
            [groff, "-k", "-man", "-ww", "-z", "-Tutf8"], input=made.stdout, capture_output=True, check=True
        )
        assert b"" == read.stderr


def test_example_starts_nothing_by_itself(tmp_path: Path) -> None:
    """It is valid but for the master key, and all that is commented out is valid, too."""
    path = tmp_path / "config.toml"
    path.write_text(setup.example())
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})

    assert 1 == len(caught.value.problems)
    assert caught.value.problems[0].startswith("keys.master")
