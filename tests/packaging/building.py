"""Builds dist/ as `make dist` does."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def build(source: Path) -> dict[str, bytes]:
    """Return each file of dist/ by its name."""
    done = subprocess.run(
        ["bash", "packaging/build", Path(sys.executable).parent],
        cwd=source,
        env={"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": "1790000000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return {path.name: path.read_bytes() for path in (source / "dist").iterdir()}
