"""The reference pages in docs/ have the parts that the program gives."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_reference_pages_are_what_the_program_says() -> None:
    """`make docs` would change nothing."""
    script = ROOT / "packaging" / "reference.py"

    ended = subprocess.run(
        [sys.executable, script, "--check"], stderr=subprocess.PIPE, text=True, check=False
    )

    assert (0, "") == (ended.returncode, ended.stderr)
