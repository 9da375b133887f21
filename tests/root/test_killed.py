"""SIGKILL of the command line at any time: the run is as it was, or as it was asked to be, and can be used."""

import contextlib
import random
import subprocess
import time

from tests.conftest import Agent, await_true
from tests.counting import assert_counts_on, assert_untouched, numbers, start_counter, started

SEED = 20261121
TIMES = 20


def kill_at_any_time(agent: Agent, dice: random.Random, takes: float, *arguments: str) -> None:
    """Start the command line, and kill it at a random moment of the time that it takes."""
    with started(agent, *arguments) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(dice.uniform(0.1, 1.1) * takes)
        process.kill()
        process.wait()


def settled(agent: Agent, name: str, *states: str) -> str:
    """Wait until the run is in one of these states: which."""
    await_true(lambda: agent.state_of(name) in states, f"{name} is {' or '.join(states)}")
    return agent.state_of(name)


def took(agent: Agent, *arguments: str) -> float:
    began = time.monotonic()
    agent(*arguments)
    return time.monotonic() - began


def test_killed_while_a_run_comes_up(agent: Agent) -> None:
    dice = random.Random(SEED)
    command = ["--", "sh", "-c", "echo up; exec sleep 1000"]
    takes = took(agent, "run", "-d", "--name", "x", *command)
    agent("rm", "-f", "x")
    up = 0
    for number in range(TIMES):
        detach = ["-d"] if number % 2 else []
        kill_at_any_time(agent, dice, takes, "run", *detach, "--name", "x", *command)
        await_true(lambda: all(run["state"] in ("running", "failed") for run in agent.runs()), "it settles")
        if any(run["state"] == "running" for run in agent.runs()):
            up += 1
            await_true(lambda: agent("logs", "x").out == "up\n", "the command runs")
            assert agent("exec", "x", "true").code == 0
        agent("rm", "-f", "x")
    assert 0 < up <= TIMES


def test_killed_in_a_checkpoint(agent: Agent) -> None:
    dice = random.Random(SEED)
    start_counter(agent, megabytes=50)
    pid = agent.root_pid("counter")
    takes = took(agent, "checkpoint", "counter")
    for _ in range(TIMES):
        kill_at_any_time(agent, dice, takes, "checkpoint", "counter")
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
    dice = random.Random(SEED)
    start_counter(agent, megabytes=20)
    takes = took(agent, "suspend", "counter")
    agent("resume", "-d", "counter")
    for _ in range(TIMES):
        before = numbers(agent)[-1]
        kill_at_any_time(agent, dice, takes, "suspend", "counter")
        if settled(agent, "counter", "running", "suspended") == "suspended":
            agent("resume", "-d", "counter")
        await_true(lambda before=before: numbers(agent)[-1] > before, "it counts on")
    assert_counts_on(agent)


def test_killed_in_a_resume(agent: Agent) -> None:
    dice = random.Random(SEED)
    start_counter(agent, megabytes=20)
    agent("suspend", "counter")
    takes = took(agent, "resume", "-d", "counter")
    for _ in range(TIMES):
        if agent.state_of("counter") == "running":
            agent("suspend", "counter")
        kill_at_any_time(agent, dice, takes, "resume", "-d", "counter")
        settled(agent, "counter", "running", "suspended")
    if agent.state_of("counter") == "suspended":
        agent("resume", "-d", "counter")
    assert_counts_on(agent)
