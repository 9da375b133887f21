"""A run that dies while it is being dumped: CRIU and PID 1 of the box must not wait for each other for ever."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from criu_agent.criu.dump import Cancel, Dump
from criu_agent.errors import Failure
from tests.conftest import Agent, await_true
from tests.counting import is_gone, numbers, start_counter, started

SEED = 20261125


@pytest.fixture
def dead() -> Iterator[int]:
    """A process that has ended and that nobody has waited for: what is to be seen of a PID 1 that dies."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    yield child.pid
    child.wait()


def hanging_dump(tmp_path: Path, pid: int, script: str) -> Dump:
    """A dump by a CRIU that never ends."""
    criu = tmp_path / "criu"
    criu.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\n{script}\nexec sleep 1000\n")
    criu.chmod(0o700)
    return Dump(
        criu,
        pid=pid,
        images=cast(Any, SimpleNamespace(path=tmp_path)),
        work=tmp_path,
        externals=[],
        leave_running=True,
        network_lock="skip",
        limit=1000,
        cancel=Cancel(),
    )


def assert_gone(tmp_path: Path) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_criu_is_not_waited_for_when_it_waits_for_a_tree_that_dies(tmp_path: Path, dead: int) -> None:
    with pytest.raises(Failure), hanging_dump(tmp_path, dead, ""):
        raise AssertionError("it cannot have been dumped")
    assert_gone(tmp_path)


@pytest.mark.parametrize("answer", ["go", "no"])
def test_nor_when_the_tree_dies_after_it_was_dumped(tmp_path: Path, dead: int, answer: str) -> None:
    asks = f"CRTOOLS_SCRIPT_ACTION=post-dump sh {tmp_path}/criu-stage"
    with hanging_dump(tmp_path, dead, asks) as dump:
        if answer == "go":
            with pytest.raises(Failure):
                dump.go()
    assert_gone(tmp_path)


def test_a_run_killed_in_the_moment_it_is_seized_ends(agent: Agent) -> None:
    """The moments in which CRIU has some of the tree already and does not expect the rest to end."""
    dice = random.Random(SEED)
    start_counter(agent)
    agent("checkpoint", "counter")
    for _ in range(5):
        root, supervisor = agent.root_pid("counter"), agent("inspect", "counter").json[0]["state"]["supervisor_pid"]
        status = Path(f"/proc/{root}/status")
        with started(agent, "checkpoint", "counter") as saving:
            deadline = time.monotonic() + 60
            while "TracerPid:\t0\n" in status.read_text():
                assert time.monotonic() < deadline, "it is never seized"
            time.sleep(dice.choice([0, 0, 0.001, 0.003, 0.01]))
            os.kill(root, signal.SIGKILL)
            saving.communicate(timeout=60)
        await_true(lambda pid=supervisor: is_gone(pid), "the supervisor has ended", timeout=30)
        assert agent.state_of("counter") == "exited"
        before = len(numbers(agent))
        agent("restore", "-d", "counter")
        await_true(lambda before=before: len(numbers(agent)) > before, "it counts again")
