"""A run of another user than root, also where the host has no CAP_SYS_RESOURCE: then in a user namespace."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from criu_agent.linux import proc
from tests.conftest import Agent, Screen, await_true

USER = 65534
PROGRAM = """
import os, time
step = 0
with open("steps", "a", buffering=1) as steps:
    while True:
        step += 1
        steps.write(f"{os.getuid()} {os.getgid()} {step}\\n")
        time.sleep(0.05)
"""


def steps(agent: Agent) -> list[str]:
    path = agent.workdir / "steps"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(autouse=True)
def for_everybody(agent: Agent) -> Iterator[None]:
    """A work directory that every user can enter; those of pytest are for root alone."""
    own = agent.workdir
    with tempfile.TemporaryDirectory(prefix="criu-agent-test-", dir="/var/tmp") as path:
        agent.workdir = Path(path)
        agent.workdir.chmod(0o777)
        yield
        agent.workdir = own
        agent.clean_up()


def test_the_run_of_another_user_goes_on_through_three_generations(agent: Agent) -> None:
    (agent.workdir / "program.py").write_text(PROGRAM)
    agent("run", "-d", "--name", "other", "-u", str(USER), "--", "python3", "program.py")
    for _ in range(3):
        seen = len(steps(agent))
        await_true(lambda seen=seen: len(steps(agent)) > seen + 3, "it goes on")
        agent("suspend", "other")
        agent("resume", "-d", "other")
    assert steps(agent) == [f"{USER} {USER} {number}" for number in range(1, len(steps(agent)) + 1)]
    assert (agent.workdir / "steps").stat().st_uid == USER


def test_a_user_namespace_is_made_only_where_the_capability_is_missing(agent: Agent) -> None:
    agent("run", "-d", "--name", "other", "-u", str(USER), "--", "sleep", "1000")
    inside = os.stat(f"/proc/{agent.root_pid('other')}/ns/user").st_ino
    own = inside == os.stat("/proc/self/ns/user").st_ino
    assert own == proc.has_sys_resource(os.getpid())


def test_a_terminal_of_another_user_comes_back(agent: Agent, screen: Screen) -> None:
    screen.agent_command(f"run --name sh -u {USER} -- bash --norc")
    screen.await_text(r"^\$")
    screen.command("X=41; id -u; tty")
    screen.await_text(rf"{USER}\n/dev/pts/0")
    agent("suspend", "sh")
    screen.await_text("sh was suspended")
    screen.agent_command("resume sh")
    screen.await_text(rf"{USER}\n/dev/pts/0")
    screen.command("sleep 1000")
    screen.keys("C-c")
    screen.command("echo got $((X + 1))")
    screen.await_text("got 42")
    assert agent("exec", "sh", "--", "id", "-u").out == f"{USER}\n"
