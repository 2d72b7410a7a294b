"""Prints what a token-broker is made of as CycloneDX JSON (ECMA-424): its version, and each package that is pinned."""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot5
from packageurl import PackageURL

PIN = re.compile(r"^([a-z0-9._-]+)==([^ ;\\]+)(.*?)(?=^[a-z]|\Z)", re.MULTILINE | re.DOTALL)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def component(name: str, version: str, rest: str) -> Component:
    """One pinned package, with the hashes of all its files: any of them may be the one that is installed."""
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        purl=PackageURL("pypi", None, name, version),
        bom_ref=f"{name}@{version}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=value) for value in HASH.findall(rest)],
    )


def document(requirements: str, version: str, at: datetime) -> Bom:
    """The same document for the same input: its number is made from that, its time is the commit's."""
    service = Component(
        type=ComponentType.APPLICATION,
        name="token-broker",
        version=version,
        bom_ref=f"token-broker@{version}",
    )
    packages = [component(*found.groups()) for found in PIN.finditer(requirements)]
    bom = Bom(
        components=packages, serial_number=uuid5(NAMESPACE_URL, f"token-broker {version}\n{requirements}")
    )
    bom.metadata.component, bom.metadata.timestamp = service, at
    bom.register_dependency(service, packages)
    for package in packages:
        bom.register_dependency(package)
    return bom


if __name__ == "__main__":
    requirements, version, epoch = sys.argv[1:]
    made = document(Path(requirements).read_text(), version, datetime.fromtimestamp(int(epoch), UTC))
    sys.stdout.write(JsonV1Dot5(made).output_as_string(indent=2) + "\n")
