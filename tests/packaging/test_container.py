"""The container image: built from a bare Debian, and run as docs/install.md says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker import __version__
from tests.missing import missing, needs
from tests.packaging.building import ROOT
from tests.systemd.service import with_sandbox
from tests.until import pause

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BASE, IMAGE = "localhost/debian:12", "localhost/token-broker"
BASE_TAR = Path(sys.prefix) / "debian-12.tar"
SETTINGS = ("/etc/pip.conf", "/etc/xdg/pip", "~/.config/pip", "~/.pip", "/etc/ssl/certs")
"""Where pip on this machine finds packages, and whom it trusts."""
PYTHON = "/usr/lib/token-broker/bin/python"
ANSWERS = shlex.split(
    "--non-interactive --public-url https://broker.example.com --kit-client-id sandbox-kit --kit-app-id 717"
)
# Inside, the containers' whole network is a loopback of their own, and all of them end with the first process.
OWN = """
import fcntl, os, socket, struct
with socket.socket() as one:
    fcntl.ioctl(one, 0x8914, struct.pack("16sh", b"lo", 1))
print("up", flush=True)
os.read(0, 1)
"""
VISIT = """
import asyncio, sys
from broker.sandbox import visitor
print(asyncio.run(visitor.install(sys.argv[1])).status)
"""
ASK = """
import sys, urllib.request as web
body = sys.argv[2].encode() if sys.argv[2:] else None
print(web.urlopen(sys.argv[1], body, 60).read().decode())
"""
FAULTS = "http://127.0.0.1:8089/_sandbox/faults"


@dataclass(slots=True)
class Podman:
    """A podman with images and containers of its own."""

    folder: Path
    inside: tuple[str, ...] = ()

    def __call__(self, *words: str | Path, stdin: str = "", check: bool = True) -> str:
        """Standard output of `podman …`, or of a whole command that begins otherwise."""
        done = self.call(*words, stdin=stdin)
        if check and done.returncode:
            raise AssertionError(f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def call(self, *words: str | Path, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*words), env=self.environ(), input=stdin, capture_output=True, text=True, check=False
        )

    def command(self, *words: str | Path) -> list[str | Path]:
        return (
            [*self.inside, *words] if str(words[0]).endswith("compose") else [*self.inside, "podman", *words]
        )

    def environ(self) -> dict[str, str]:
        """Where this one keeps all, with limits that a test run may set and the runtime that takes mixed cgroups."""
        storage, containers = self.folder / "storage.conf", self.folder / "containers.conf"
        storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.folder}/store"\nrunroot = "{self.folder}/run"\n'
        )
        containers.write_text(
            '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n[engine]\nruntime = "runc"\n'
            f'[network]\nnetwork_config_dir = "{self.folder}/networks"\n'
        )
        return {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_CONF": str(containers),
            "IMAGE": IMAGE,
        }

    def broker(self, *words: str, stdin: str = "") -> str:
        return self("exec", "token-broker", "broker", *words, stdin=stdin)

    def python(self, container: str, program: str, *words: str) -> str:
        return self("exec", container, PYTHON, "-Ic", program, *words).strip()

    def until(self, container: str, *words: str) -> None:
        """Wait for a command in a container to succeed."""
        while (done := self.call("exec", container, *words)).returncode:
            running = self("inspect", container, "--format", "{{.State.Running}}").strip()
            assert "true" == running, self.logs(container) + done.stderr
            pause()

    def logs(self, container: str) -> str:
        done = self.call("logs", container)
        return done.stdout + done.stderr


def base() -> Path:
    """A minimal Debian 12 with Python, kept beside our own Python, since it takes a minute to make."""
    if not BASE_TAR.exists():
        with tempfile.TemporaryDirectory(prefix="broker-", dir="/var/tmp") as text:
            root, packed = Path(text, "root"), Path(text, "packed.tar")
            environ = {**os.environ, "ROOT": str(root), "INCLUDE": "python3,python3-venv,ca-certificates"}
            run("bash", ROOT / ".ci/setup", "debian", env=environ)
            run("tar", "-C", root, "--exclude=./var/cache/apt/archives/*", "-cf", packed, ".")
            shutil.copy(packed, part := BASE_TAR.with_suffix(f".{os.getpid()}"))
            part.replace(BASE_TAR)
    return BASE_TAR


def run(*command: str | Path, **kwargs: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)
    assert 0 == done.returncode, done.stdout + done.stderr


def pip_settings() -> Iterator[str]:
    """Options that show a build this machine's settings of pip, which stay out of the image."""
    told = subprocess.run(
        (sys.executable, "-m", "pip", "config", "list"), capture_output=True, text=True, check=False
    )
    named = (found.rstrip("/").removesuffix("/simple") for found in re.findall(r"/[^/ '][^ ']*", told.stdout))
    for path in dict.fromkeys((*SETTINGS, *named)):
        here = Path(path).expanduser()
        if here.exists() and not here.is_relative_to("/etc/ssl/certs/ca-certificates.crt"):
            yield f"--volume={here}:{path.replace('~', '/root')}:ro"


def blocks() -> list[str]:
    """The commands of the page's chapter, one for each line."""
    _, rest = (ROOT / "docs/install.md").read_text().split("\n## A container\n")
    chapter = rest.partition("\n## ")[0]
    return [line for block in re.findall(r"```\n(.*?)```", chapter, re.DOTALL) for line in block.splitlines()]


def at_root(line: str) -> list[str]:
    """The words of a command that is typed in the clone, from elsewhere."""
    return [word.replace("packaging/", f"{ROOT}/packaging/") for word in shlex.split(line)[1:]]


@pytest.fixture(name="podman", scope="module")
def _podman(source: Path, built: dict[str, bytes]) -> Iterator[Podman]:
    """With the image of this tree."""
    for command in ("podman", "runc", "debootstrap", "unshare"):
        needs(command)
    needs("podman-compose")
    if os.geteuid() != 0:
        missing("containers on a network of their own need root: sudo make test-all T=tests/packaging")
    with tempfile.TemporaryDirectory(prefix="broker-", dir="/var/tmp") as text:
        podman = Podman(Path(text))
        podman("import", base(), BASE)
        # The Makefile's own line, with this machine's settings.
        recipe = (ROOT / "Makefile").read_text().replace("\\\n", "")
        [line] = re.findall(r"^\t@podman build (.*)$", recipe, re.MULTILINE)
        line = re.sub(r"\$\(if \$\(FROM\),(.*?)\$\(FROM\)\)", rf"\1{BASE}", line)
        words = ["build", "--network=host", *pip_settings(), *shlex.split(line)[:-1]]
        podman(*words, source)
        own = ("unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
        pipe = subprocess.PIPE
        with subprocess.Popen((*own, sys.executable, "-c", OWN), stdin=pipe, stdout=pipe) as first:
            assert first.stdout is not None
            assert b"up\n" == first.stdout.readline()
            [child] = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
            podman.inside = ("nsenter", f"--target={child}", "--all", "--")
            try:
                yield podman
            finally:
                podman.call("rm", "--all", "--force", "--time=0")
                first.communicate(b".")


def test_image_is_small_and_says_nothing_of_where_it_was_built(podman: Podman) -> None:
    """Not root; what stops it and how it is asked for its health; no address, no pip, no file of the source."""
    [told] = json.loads(podman("inspect", IMAGE))
    history = podman("history", "--no-trunc", "--format={{.CreatedBy}}", IMAGE)
    [debian] = json.loads(podman("inspect", BASE))
    inside = podman(
        *("run", "--rm", "--network=none", "--entrypoint=sh", IMAGE, "-c"),
        "cd /usr/lib/token-broker/lib/python3*/site-packages; ls; ls *.dist-info/direct_url.json || true",
    )

    assert ("10001:10001", "15") == (
        told["Config"]["User"],
        str(told["Config"]["StopSignal"]).replace("SIGTERM", "15"),
    )
    assert "CMD" == told["Healthcheck"]["Test"][0]
    assert told["Size"] - debian["Size"] < 120_000_000
    assert not re.search(r"https?://(?!127\.0\.0\.1)|index", history)
    assert f"token_broker-{__version__}.dist-info" in inside
    assert "/" not in inside
    assert not re.search(r"^(pip|pytest|tests|setuptools)\b", inside, re.MULTILINE)


def test_page_runs_as_it_is_written(podman: Podman) -> None:
    """With the sandbox as Kit: a token, a health check, a closed root, a stop that drains, a volume that stays."""
    made_with, init, start, check, *_ = blocks()
    assert "make image" == made_with
    box = ("--name=sandbox", "--network=host", "--read-only", "--volume=sandbox:/var/lib/token-broker", IMAGE)
    podman("run", "--detach", *box, "sandbox", "--database=sandbox.db")
    made = podman(*shlex.split(init.replace(" -it ", " "))[1:], *ANSWERS)
    sh = (
        "run",
        "--rm",
        "-i",
        "--entrypoint=sh",
        "--volume=token-broker-config:/etc/token-broker",
        IMAGE,
        "-ec",
    )
    text = podman(*sh, "cat /etc/token-broker/config.toml")
    lay = "umask 077; cd /etc/token-broker; printf sandbox-kit-secret >secrets/kit-client-secret; cat >config.toml"
    podman(*sh, lay, stdin=with_sandbox(text))

    podman(*shlex.split(start)[1:])
    podman.until("token-broker", "broker", "callers", "list")
    link = podman.broker("install-link", "kit", "--account", "acme").strip()
    visited = podman.python("token-broker", VISIT, link)
    token = podman.broker("token", "acme")
    podman(*shlex.split(check)[1:])
    podman("healthcheck", "run", "token-broker")
    write = "touch /x || touch /usr/lib/token-broker/x || touch /etc/token-broker/x"
    denied = podman.call("exec", "token-broker", "sh", "-c", write)
    who = podman("exec", "token-broker", "id", "-u").strip()

    assert "Made the master key /etc/token-broker/secrets/master-key" in made
    assert "200" == visited
    assert token.startswith("sbx-kit-at-")
    assert (1, 3) == (denied.returncode, denied.stderr.count("Read-only file system")), denied.stderr
    assert "10001" == who

    # The provider takes its time over the renewal that is under way when the container is told to stop.
    podman.python("sandbox", ASK, FAULTS, '{"provider": "kit", "latency": 5, "times": 1}')
    refresh = podman.command("exec", "token-broker", "broker", "accounts", "refresh", "acme")
    with subprocess.Popen(refresh, env=podman.environ(), stdout=subprocess.DEVNULL):
        while json.loads(podman.python("sandbox", ASK, FAULTS))["kit"]["latency"]:
            pause()
        podman("stop", "token-broker")
    assert "0" == podman("inspect", "token-broker", "--format={{.State.ExitCode}}").strip()
    assert '"renewals": 1' in podman.logs("token-broker")

    podman("rm", "token-broker")
    podman(*shlex.split(start)[1:])
    podman.until("token-broker", "broker", "callers", "list")
    shown = json.loads(podman.broker("accounts", "show", "acme", "--json"))
    assert 2 == shown["generation"], "the renewal that was under way is stored"


def test_compose_file_starts_a_broker_with_its_sandbox(podman: Podman) -> None:
    """In podman-compose: a token of a connected account, and the container is as closed as the page's."""
    podman("rm", "--all", "--force", "--time=0")
    *_, up, token = blocks()
    compose = Path(needs("podman-compose"))
    podman(compose, *at_root(up))
    [name] = podman("ps", "--format={{.Names}}").split()
    podman.until(name, "broker", "token", "demo-kit")
    got = podman(compose, *at_root(token.replace(" exec ", " exec -T ")))
    [told] = json.loads(podman("inspect", name))

    assert got.startswith("sbx-kit-at-")
    assert told["HostConfig"]["ReadonlyRootfs"]
    assert told["HostConfig"]["CapDrop"]
    assert not told["EffectiveCaps"]
    assert "no-new-privileges" in told["HostConfig"]["SecurityOpt"]
