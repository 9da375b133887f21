"""The linters are tests: a change that they do not like does not pass."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
LINTERS = {
    "ruff": [sys.executable, "-m", "ruff", "check", "."],
    "ruff format": [sys.executable, "-m", "ruff", "format", "--check", "."],
    "mypy": [sys.executable, "-m", "mypy"],
    "shellcheck": ["shellcheck", *map(str, SCRIPTS), str(ROOT / ".ci/run")],
}


@pytest.mark.parametrize("name", LINTERS)
def test_the_linter_has_nothing_to_say(name: str) -> None:
    done = subprocess.run(LINTERS[name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_script_is_a_shell_script_that_stops_at_errors() -> None:
    for script in SCRIPTS:
        text = script.read_text()
        assert text.startswith("#!/bin/sh\n"), script
        assert "\nset -eu\n" in text, script
