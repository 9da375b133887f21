"""A workspace that wants to do harm: by what lies in the place of its files at a restore, and by their number."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from criu_agent import runs
from tests.conftest import Agent, await_true
from tests.inside import config_of

BAD = os.fsdecode(b"\xff\xfe bad\n\x1b[2J")
PER_FILE = 4096  # bytes of memory of a supervisor
BASE = 200 << 20


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What must be as it is afterwards."""
    path = tmp_path / "outside"
    (path / "d").mkdir(parents=True)
    for name in ("secret", "d/file", "d/new"):
        (path / name).write_text(f"{name}, of somebody else\n")
        (path / name).chmod(0o600)
    before = facts(path)
    yield path
    assert facts(path) == before


def facts(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for one in [root, *root.rglob("*")]:
        status = one.lstat()
        content = one.read_bytes() if one.is_file() and not one.is_symlink() else b""
        found[str(one)] = (status.st_mode, status.st_nlink, status.st_uid, status.st_gid, content)
    return found


def start(agent: Agent, name: str = "x") -> None:
    agent("run", "-d", "--name", name, "--", "sleep", "1000")


def test_whatever_lies_in_the_place_of_its_files_nothing_else_is_touched(agent: Agent, outside: Path) -> None:
    root = agent.workdir
    (root / "d/e").mkdir(parents=True)
    for name in ("d/file", "d/e/deep", "file", "other", "fifo", "linked", BAD):
        (root / name).write_text(f"of the run: {len(name)}\n")
    (root / "out").symlink_to(outside)
    (root / "setuid").write_text("x")
    (root / "setuid").chmod(0o4755)
    os.mkfifo(root / "pipe")
    os.mknod(root / "zero", 0o20600, os.makedev(1, 5))
    start(agent)
    agent("suspend", "x")
    wanted = facts(root)
    shutil.rmtree(root / "d")
    (root / "d").symlink_to(outside / "d")
    for name in ("file", "other", "fifo", "linked", BAD, "pipe", "zero", "setuid"):
        (root / name).unlink()
    (root / "file").symlink_to(outside / "secret")
    (root / "other").mkdir()
    (root / "other/inside").symlink_to("../../outside")
    os.mkfifo(root / "fifo")
    os.link(outside / "secret", root / "linked")
    os.mknod(root / BAD, 0o20600, os.makedev(1, 3))
    (root / "pipe").write_text("no pipe\n")
    (root / "zero").symlink_to("/dev/zero")
    (root / "setuid").symlink_to("/bin/sh")
    refused = agent("restore", "-d", "x", check=False)
    assert refused.code == 13
    assert "\x1b[2J" not in refused.err, "a name is no command to the terminal"
    agent("restore", "-d", "--theirs", "x")
    assert facts(root) == wanted


@pytest.mark.parametrize("number", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_the_memory_that_is_taken_is_in_proportion_to_the_files(agent: Agent, number: int, tmp_path: Path) -> None:
    for parent in range(number // 1000):
        (agent.workdir / f"{parent}").mkdir()
        for name in range(1000):
            os.mknod(agent.workdir / f"{parent}/{name}")
    start(agent)
    phases: dict[str, float] = {}
    for verb in ("checkpoint", "suspend"):
        began = time.monotonic()
        agent(verb, "x", timeout=1200)
        phases[verb] = time.monotonic() - began
        if verb == "checkpoint":
            assert peak(agent) < BASE + number * PER_FILE
    began = time.monotonic()
    agent("restore", "-d", "--into", str(tmp_path / "into"), "x", timeout=1200)
    phases["restore"] = time.monotonic() - began
    assert peak(agent) < BASE + number * PER_FILE
    made = sum(len(files) for _, _, files in os.walk(tmp_path / "into"))
    print(f"{made} files, peak {peak(agent) >> 20} MiB, seconds: {phases}")
    assert made == number
    await_true(lambda: agent.state_of("x") == "running", "it runs")
    agent("rm", "-f", "x", timeout=1200)


def peak(agent: Agent) -> int:
    """Bytes that the supervisor had in memory at most."""
    pid = runs.find(config_of(agent), "x").state.supervisor_pid
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10
