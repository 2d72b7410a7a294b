"""What a build reads, and what it built."""

import shutil
from pathlib import Path

import pytest

from tests.packaging.building import ROOT, build


@pytest.fixture(name="source", scope="session")
def _source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("broker", "packaging", ".ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", "Makefile", "README.md", "CHANGELOG.md", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(name="built", scope="session")
def _built(source: Path) -> dict[str, bytes]:
    """Each file of dist/ by its name."""
    return build(source)
