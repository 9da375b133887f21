"""Automatic checkpoints with real CRIU: the run never notices, a store may be away, and a person goes first."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from criu_agent import runs
from tests.conftest import Agent, await_true
from tests.counting import COUNTER, assert_untouched, numbers, started
from tests.inside import config_of

LONG = 90  # seconds: what is awaited comes after a few tries on a busy machine


def start_counter(agent: Agent, *options: str, megabytes: int = 0) -> None:
    (agent.workdir / "counter.py").write_text(COUNTER)
    ballast = [str(megabytes)] if megabytes else []
    agent("run", "-d", "--name", "counter", *options, "--", "python3", "counter.py", *ballast)


def snapshots(agent: Agent) -> list[dict[str, Any]]:
    return list(agent("snapshots", "--json").json)


def newest(agent: Agent, name: str = "counter") -> int:
    """The number of the run's newest snapshot, without starting a process for it."""
    return runs.find(config_of(agent), name).state.sequence


def await_snapshots(agent: Agent, count: int, name: str = "counter") -> None:
    await_true(lambda: newest(agent, name) >= count, f"{count} snapshots", timeout=LONG)


def assert_none_is_missing(agent: Agent) -> None:
    """It counts, and each number was printed once and in order. Its state may be that of the next checkpoint."""
    before = len(numbers(agent))
    await_true(lambda: len(numbers(agent)) > before, "it counts on")
    printed = numbers(agent)
    assert printed == list(range(1, len(printed) + 1))


def ps_line(agent: Agent) -> str:
    """What `ps` shows of the one run."""
    return agent("ps").out.splitlines()[1]


# -- every


def test_a_run_is_saved_again_and_again_and_does_not_notice(agent: Agent) -> None:
    start_counter(agent, "--every", "2s")
    pid = agent.root_pid("counter")
    await_snapshots(agent, 4)
    assert agent.root_pid("counter") == pid
    assert_none_is_missing(agent)
    taken = snapshots(agent)
    assert {one["reason"] for one in taken} == {"every 2s"}
    assert [one["sequence"] for one in taken] == list(range(1, len(taken) + 1))
    assert [one["parent"] for one in taken] == [None, *(one["snapshot"] for one in taken[:-1])]
    assert re.search(r"  [0-9a-f]{8} \d+[sm] ago  ", ps_line(agent))
    run = agent.run_of("counter")
    assert run["last_snapshot"] in {one["snapshot"] for one in snapshots(agent)}
    assert run["age_seconds"] >= 0


def test_a_killed_run_comes_back_from_the_newest_of_them(agent: Agent) -> None:
    start_counter(agent, "--every", "1s")
    await_snapshots(agent, 2)
    agent("kill", "counter")
    last = snapshots(agent)[-1]["snapshot"]
    assert agent.run_of("counter")["last_snapshot"] == last
    before = len(numbers(agent))
    assert json.loads(agent("restore", "-d", "--json", "counter").out)["snapshot"] == last
    await_true(lambda: len(numbers(agent)) > before + 3, "it counts again")
    again = numbers(agent)[before:]
    assert again == list(range(again[0], again[0] + len(again)))
    assert 1 < again[0] <= before + 1


def test_a_program_is_not_held_up_by_the_time_of_the_last_one(agent: Agent) -> None:
    """A run with nothing to be awaited ends as it would without a schedule, and its end is its own."""
    outcome = agent("run", "--every", "1h", "--on-idle", "1h", "--", "sh", "-c", "echo hi; exit 3", check=False)
    assert (outcome.code, outcome.out) == (3, "hi\n")


# -- keep-last


def test_keep_last_deletes_older_automatic_ones_and_none_of_a_person(agent: Agent) -> None:
    start_counter(agent, "--every", "1s", "--keep-last", "2")
    await_snapshots(agent, 2)
    mine = agent("checkpoint", "--json", "--reason", "every 1s", "counter").out.splitlines()[-1]
    tagged = agent("checkpoint", "--json", "--tag", "keep", "counter").out.splitlines()[-1]
    wanted = {json.loads(mine)["snapshot"], json.loads(tagged)["snapshot"]}
    await_snapshots(agent, newest(agent) + 4)

    def automatic() -> list[int]:
        return [one["sequence"] for one in snapshots(agent) if one["snapshot"] not in wanted]

    await_true(lambda: len(automatic()) == 2, "the older ones are gone", timeout=LONG)
    agent("suspend", "counter")
    kept = snapshots(agent)
    assert kept[-1]["stopped"]
    assert wanted < {one["snapshot"] for one in kept}
    assert len(kept) <= 1 + 2 + 3, "one may have been taken that pushed none out before the suspend came"
    agent("resume", "-d", "counter")
    await_snapshots(agent, kept[-1]["sequence"] + 3)
    assert kept[-1]["snapshot"] in {one["snapshot"] for one in snapshots(agent)}, "it was stopped at that one"
    assert_none_is_missing(agent)


# -- idle


def test_an_idle_run_is_saved_once_and_again_when_it_has_done_something(agent: Agent) -> None:
    agent("run", "-d", "-i", "--name", "x", "--on-idle", "1s", "--", "cat")
    await_snapshots(agent, 1, "x")
    assert [one["reason"] for one in snapshots(agent)] == ["idle"]
    outcome = agent("wait", "--timeout", "6", "x", check=False)  # six times as long as it takes to be idle
    assert outcome.code == 124
    assert newest(agent, "x") == 1, "nothing has happened since"
    assert_untouched(agent, "x")
    with started(agent, "attach", "x", stdin=subprocess.PIPE) as attached:
        assert attached.stdin is not None
        attached.stdin.write(b"hello\n")
        attached.stdin.flush()
        await_snapshots(agent, 2, "x")
    assert agent("logs", "x").out == "hello\n"
    agent("kill", "x")
    agent("restore", "-d", "x")
    agent("checkpoint", "x")
    assert newest(agent, "x") == 3


@pytest.mark.parametrize("busy", [":", "echo tick; sleep 0.2"])
def test_a_run_that_computes_or_prints_is_not_idle(agent: Agent, busy: str) -> None:
    flag = agent.workdir / "busy"
    flag.touch()
    # Four of them, or a machine that is busy itself leaves too little of a CPU for what computes.
    script = f"for n in 1 2 3 4; do while [ -e busy ]; do {busy}; done & done; wait; exec sleep 1000"
    agent("run", "-d", "--name", "x", "--on-idle", "2s", "--", "sh", "-c", script)
    assert agent("wait", "--timeout", "6", "x", check=False).code == 124
    assert newest(agent, "x") == 0
    flag.unlink()
    await_snapshots(agent, 1, "x")


# -- a store that is away


@contextmanager
def small_store(agent: Agent, size: str) -> Iterator[Path]:
    """The agent's repository on a file system of its own, until all runs of the test have been ended."""
    path = agent.directory / "repository"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "criu-agent-test", str(path)], check=True)
    try:
        yield path
    finally:
        agent.clean_up()
        # Lazily: a supervisor's own mount namespace holds it until that has ended.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def remount(path: Path, options: str) -> None:
    """Also to read-only, which cannot be while a file is being written."""
    command = ["mount", "-o", f"remount,{options}", str(path)]
    await_true(lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0, f"it is {options}")


def await_failing(agent: Agent, said: str) -> dict[str, Any]:
    await_true(lambda: said in (agent.run_of("counter")["checkpoint_error"] or ""), f"ps says {said}", timeout=LONG)
    return agent.run_of("counter")


def test_a_full_store_is_told_by_ps_and_the_run_recovers_by_itself(agent: Agent) -> None:
    with small_store(agent, "16m") as path:
        start_counter(agent, "--every", "1s", megabytes=40)
        first = await_failing(agent, f"no space left in the repository {path}")
        assert re.search(r"  (running|checkpointing) \(checkpoint failing\)  .*  -  ", ps_line(agent))
        assert (first["last_snapshot"], first["age_seconds"]) == (None, None)
        await_true(
            lambda: agent.run_of("counter")["checkpoint_error_time"] > first["checkpoint_error_time"],
            "it is tried again",
            timeout=LONG,
        )
        printed = numbers(agent)
        assert printed == list(range(1, len(printed) + 1))
        remount(path, "size=300m")
        await_snapshots(agent, 1)
        run = agent.run_of("counter")
        assert (run["checkpoint_error"], run["checkpoint_error_time"]) == (None, None)
        assert "failing" not in ps_line(agent)
        after = numbers(agent)
        assert after == list(range(1, len(after) + 1))
        assert len(after) > len(printed)


def test_a_store_that_cannot_be_written_for_a_while_leaves_the_age_of_the_last_snapshot(agent: Agent) -> None:
    with small_store(agent, "300m") as path:
        start_counter(agent, "--every", "1s", "--keep-last", "2")
        await_snapshots(agent, 2)
        remount(path, "ro")
        failing = await_failing(agent, "Read-only file system")
        assert failing["last_snapshot"] is not None
        inspected = agent("inspect", "counter").json[0]["state"]
        assert "Read-only file system" in inspected["checkpoint_error"]
        later = agent.run_of("counter")
        assert later["last_snapshot"] == failing["last_snapshot"]
        assert later["age_seconds"] > failing["age_seconds"]
        before = newest(agent)
        remount(path, "rw")
        await_snapshots(agent, before + 2)
        assert agent.run_of("counter")["checkpoint_error"] is None
        printed = numbers(agent)
        assert printed == list(range(1, len(printed) + 1))


def test_a_tree_that_cannot_be_saved_for_a_while_is_saved_when_it_can(agent: Agent) -> None:
    sandbox = agent.workdir / "sandbox"
    sandbox.touch()
    (agent.workdir / "counter.py").write_text(COUNTER)
    script = "unshare --ipc sh -c 'while [ -e sandbox ]; do sleep 0.1; done' & exec python3 counter.py"
    agent("run", "-d", "--name", "counter", "--every", "1s", "--", "sh", "-c", script)
    await_failing(agent, "namespace")
    sandbox.unlink()
    await_snapshots(agent, 1)
    assert agent.run_of("counter")["checkpoint_error"] is None
    assert_none_is_missing(agent)


# -- what stays of the settings


@pytest.mark.parametrize("from_store_alone", [False, True])
def test_a_resumed_run_keeps_its_schedule(agent: Agent, from_store_alone: bool) -> None:
    start_counter(agent, "--every", "1s", "--on-idle", "1h", "--keep-last", "50")
    await_snapshots(agent, 1)
    agent("suspend", "counter")
    if from_store_alone:
        agent.forget_everything("counter")
    agent("resume", "-d", "counter")
    spec = agent("inspect", "counter").json[0]["spec"]
    assert (spec["every"], spec["on_idle"], spec["keep_last"]) == (1.0, 3600.0, 50)
    before = len(snapshots(agent))
    await_true(lambda: len(snapshots(agent)) >= before + 2, "it is saved again", timeout=LONG)


# -- a person goes first


def test_a_suspend_waits_for_the_automatic_checkpoint_that_is_under_way(agent: Agent) -> None:
    start_counter(agent, "--every", "1s", megabytes=150)
    for _ in range(20):
        config = config_of(agent)
        await_true(
            lambda config=config: runs.find(config, "counter").state.state == "checkpointing",
            "it is saved",
            timeout=LONG,
        )
        lines = [json.loads(line) for line in agent("suspend", "--json", "counter").out.splitlines()]
        summary = lines[-1]
        assert summary["message_type"] == "summary"
        taken = snapshots(agent)
        assert (taken[-1]["snapshot"], taken[-1]["stopped"]) == (summary["snapshot"], True)
        assert taken[-1]["reason"] == "requested"
        if any(line.get("phase") == "wait" for line in lines):
            assert (taken[-2]["reason"], taken[-1]["parent"]) == ("every 1s", taken[-2]["snapshot"])
            break
        agent("resume", "-d", "counter")
    else:
        raise AssertionError("it never met one")
    assert agent.state_of("counter") == "suspended"
    agent("resume", "-d", "counter")
    await_true(lambda: len(numbers(agent)) > 5, "it counts on")
    assert_none_is_missing(agent)


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_a_run_that_is_told_to_end_gives_its_automatic_checkpoint_up(agent: Agent, verb: str) -> None:
    start_counter(agent, "--every", "1s", megabytes=150)
    config = config_of(agent)
    await_true(lambda: runs.find(config, "counter").state.state == "checkpointing", "it is saved", timeout=LONG)
    agent(verb, "counter")
    assert agent.state_of("counter") == "exited"
    assert agent.run_of("counter")["exit_code"] == (128 + 15 if verb == "stop" else 128 + 9)
