"""SIGKILL of the command line at any time: the run is as it was, or as it was asked to be, and can be used."""

import contextlib
import os
import random
import subprocess
import time

from tests.conftest import Agent, await_true
from tests.counting import assert_counts_on, assert_untouched, numbers, start_counter, started

SEED = 20261121
TIMES = int(os.environ.get("TIMES", "10"))  # more of them in `make soak`


class Killer:
    """Starts a command line, and kills it at a random moment of the time that it takes.

    takes: how long it took once, in seconds. The machine may be slower or quicker later, and is followed.
    """

    def __init__(self, agent: Agent, takes: float) -> None:
        self.agent = agent
        self._dice = random.Random(SEED)
        self._takes = takes

    def __call__(self, *arguments: str) -> None:
        with started(self.agent, *arguments) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._dice.uniform(0.1, 1.1) * self._takes)
            over = process.poll() is not None
            process.kill()
            process.wait()
        self._takes *= 0.7 if over else 1.1


def settled(agent: Agent, name: str, *states: str) -> str:
    """Wait until the run is in one of these states: which."""
    await_true(lambda: agent.state_of(name) in states, f"{name} is {' or '.join(states)}")
    return agent.state_of(name)


def took(agent: Agent, *arguments: str) -> float:
    began = time.monotonic()
    agent(*arguments)
    return time.monotonic() - began


def test_killed_while_a_run_comes_up(agent: Agent) -> None:
    command = ["--", "sh", "-c", "echo up; exec sleep 1000"]
    kill = Killer(agent, took(agent, "run", "-d", "--name", "x", *command))
    agent("rm", "-f", "x")
    up = 0
    for number in range(TIMES):
        kill("run", *(["-d"] if number % 2 else []), "--name", "x", *command)
        await_true(lambda: all(run["state"] in ("running", "failed") for run in agent.runs()), "it settles")
        if any(run["state"] == "running" for run in agent.runs()):
            up += 1
            await_true(lambda: agent("logs", "x").out == "up\n", "the command runs")
            assert agent("exec", "x", "true").code == 0
        agent("rm", "-f", "x")
    assert 0 < up <= TIMES


def test_killed_in_a_checkpoint(agent: Agent) -> None:
    start_counter(agent, megabytes=50)
    pid = agent.root_pid("counter")
    kill = Killer(agent, took(agent, "checkpoint", "counter"))
    for _ in range(TIMES):
        kill("checkpoint", "counter")
        settled(agent, "counter", "running")
    assert agent.root_pid("counter") == pid
    assert_untouched(agent)
    assert_counts_on(agent)
    listing = agent("snapshots", "counter", "--json")
    assert listing.err == "", "each that is listed can be read"
    assert [one["sequence"] for one in listing.json] == list(range(1, len(listing.json) + 1))
    agent("suspend", "counter")
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def test_killed_in_a_suspend(agent: Agent) -> None:
    start_counter(agent, megabytes=20)
    kill = Killer(agent, took(agent, "suspend", "counter"))
    agent("resume", "-d", "counter")
    for _ in range(TIMES):
        before = numbers(agent)[-1]
        kill("suspend", "counter")
        await_true(lambda before=before: counts_or_is_resumed(agent, before), "it counts on")
    agent("suspend", "counter", check=False)  # it may just be about to do so
    settled(agent, "counter", "suspended")
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def counts_or_is_resumed(agent: Agent, before: int) -> bool:
    # Asked again and again: a supervisor may just be about to do what it was told.
    if agent.state_of("counter") == "suspended":
        agent("resume", "-d", "counter", check=False)  # the one that was killed may be doing so
    return numbers(agent)[-1] > before


def test_killed_in_a_resume(agent: Agent) -> None:
    start_counter(agent, megabytes=20)
    agent("suspend", "counter")
    kill = Killer(agent, took(agent, "resume", "-d", "counter"))
    for _ in range(TIMES):
        if agent.state_of("counter") == "running":
            agent("suspend", "counter")
        kill("resume", "-d", "counter")
        settled(agent, "counter", "running", "suspended")
    before = numbers(agent)[-1]
    await_true(lambda: counts_or_is_resumed(agent, before), "it counts on")
    assert_counts_on(agent)
