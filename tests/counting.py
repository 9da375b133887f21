"""A run that counts, by which a test sees that nothing was lost: every number once and in order."""

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from criu_agent import config
from criu_agent.criu.dump import table_names
from criu_agent.linux import nft
from tests.conftest import Agent, await_true

# Waits before it does its work, until it is let go.
HELD_CRIU = """#!/bin/sh
[ "$1" != {verb} ] || until [ -e {go} ]; do sleep 0.02; done
exec {criu} "$@"
"""
COUNTER = """
import sys, time
ballast = open("/dev/urandom", "rb").read(int(sys.argv[1]) << 20) if len(sys.argv) > 1 else b""
n = 0
while True:
    n += 1
    print(n, flush=True)
    time.sleep(0.02)
"""


def numbers(agent: Agent, name: str = "counter") -> list[int]:
    """The whole numbers that were printed so far."""
    printed = agent("logs", name).out
    return [int(line) for line in printed[: printed.rfind("\n") + 1].split()]


def start_counter(agent: Agent, name: str = "counter", *, megabytes: int = 0) -> None:
    """A run that prints 1, 2, 3, ..., with so much memory that no compression makes smaller."""
    (agent.workdir / "counter.py").write_text(COUNTER)
    agent("run", "-d", "--name", name, "--", "python3", "counter.py", *([str(megabytes)] if megabytes else []))
    await_true(lambda: len(numbers(agent, name)) > 2, "the counter counts")


def assert_counts_on(agent: Agent, name: str = "counter") -> None:
    """It is running, it still prints, and it never missed or repeated a number."""
    assert agent.state_of(name) == "running"
    before = len(numbers(agent, name))
    await_true(lambda: len(numbers(agent, name)) > before + 2, f"{name} counts on")
    after = numbers(agent, name)
    assert after == list(range(1, len(after) + 1))


def assert_untouched(agent: Agent, name: str = "counter") -> None:
    """Nothing of a dump is left in the processes of the run, nor around them."""
    pids = processes(agent, name)
    assert pids
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        assert "TracerPid:\t0\n" in status
        assert "\nState:\tT" not in status
        assert "CRIUMFD" not in Path(f"/proc/{pid}/maps").read_text()
    run = agent.run_of(name)["run"]
    log = agent.directory / "state/runs" / run / "criu-dump.log"
    if log.exists():
        assert not table_names(log.read_text(errors="replace"), agent.root_pid(name)) & nft.criu_tables()
    assert not list((agent.directory / "run" / run).glob("images*"))
    assert not list((agent.directory / "state/runs" / run).glob("criu-stage*"))
    supervisor = agent("inspect", name).json[0]["state"]["supervisor_pid"]
    assert "criu-images" not in Path(f"/proc/{supervisor}/mounts").read_text()


def hold_criu(agent: Agent, verb: str) -> Path:
    """Every `criu VERB` of runs that are started or restored from now on waits until the returned path is there.

    dump is that of a checkpoint, swrk that of a restore.
    """
    held, go = agent.directory / "criu", agent.directory / "go"
    real = shlex.quote(str(config.load().criu))
    held.write_text(HELD_CRIU.format(verb=verb, go=shlex.quote(str(go)), criu=real))
    held.chmod(0o755)
    agent.env["CRIU_AGENT_CRIU"] = str(held)
    return go


def processes(agent: Agent, name: str = "counter") -> list[int]:
    """The processes of the run's cgroup, PID 1 of the box and those below it."""
    run = agent.run_of(name)["run"]
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        procs = root / "criu-agent" / run / "cgroup.procs"
        if procs.exists():
            return [int(line) for line in procs.read_text().split()]
    return []


def is_gone(pid: int) -> bool:
    """Whether the process has ended; nobody may have reaped it where PID 1 does not."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


@contextmanager
def started(agent: Agent, *arguments: str, **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """`criu-agent ARGUMENTS` as a process beside the test; killed at the end if it still runs."""
    process = subprocess.Popen(
        [*agent.program, *arguments],
        cwd=agent.workdir,
        env=agent.env,
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        },
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
