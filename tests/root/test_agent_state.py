"""What an agent keeps of itself outlives the run, as if it were not wrapped."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.conftest import Agent, await_true

# Logs in at its first start; every start is a line of its history. It replaces its file as real agents do.
FAKE = """#!/bin/sh
mkdir -p ~/.codex
if [ -e ~/.codex/auth.json ]; then echo logged in; else
    echo token >~/.codex/auth.json.new && mv ~/.codex/auth.json.new ~/.codex/auth.json && echo first login; fi
echo "started" >>~/.codex/history.jsonl
wc -l <~/.codex/history.jsonl
[ "$1" != stay ] || exec sleep 1000
"""


@pytest.fixture
def home(agent: Agent) -> Path:
    """A home that is not the work directory, with a fake Codex on the PATH."""
    home = agent.directory / "home"
    (agent.workdir / "codex").write_text(FAKE)
    (agent.workdir / "codex").chmod(0o755)
    return home


def test_a_login_and_a_history_are_there_after_the_run_was_removed(agent: Agent, home: Path) -> None:
    for said in ("first login\n1\n", "logged in\n2\n"):
        assert agent("run", "--name", "x", "--", "./codex").out == said
        agent("rm", "x")
    assert (home / ".codex/auth.json").read_text() == "token\n"


def test_it_is_the_users_own_whatever_user_runs_it(agent: Agent, home: Path) -> None:
    # Where every user can come to; the directories of pytest are for root alone.
    with tempfile.TemporaryDirectory(prefix="criu-agent-test-", dir="/var/tmp") as path:
        shutil.copy(agent.workdir / "codex", path)
        os.chown(path, 1234, 1234)
        done = agent("run", "-u", "1234:1234", "-e", f"HOME={path}", "-w", "/", "--", f"{path}/codex")
        assert done.out == "first login\n1\n", done
        facts = [(Path(path) / name).stat() for name in (".codex", ".codex/auth.json")]
    assert [(one.st_uid, one.st_gid) for one in facts] == [(1234, 1234)] * 2
    assert facts[0].st_mode & 0o777 == 0o700


def test_without_agent_state_it_stays_in_the_run(agent: Agent, home: Path) -> None:
    assert agent("run", "--no-agent-state", "--name", "x", "--", "./codex").out == "first login\n1\n"
    assert not (home / ".codex").exists()
    assert agent("inspect", "x").json[0]["spec"]["agent_state"] == {}


def test_plan_and_inspect_show_it_and_a_snapshot_brings_it_to_where_it_is_missing(agent: Agent, home: Path) -> None:
    agent("run", "-d", "--name", "x", "--", "./codex", "stay")
    await_true(lambda: agent("logs", "x").out == "first login\n1\n", "it has logged in")
    state = str(home / ".codex")
    assert agent("inspect", "x").json[0]["spec"]["agent_state"] == {state: "directory"}
    rows = [row for row in agent("plan", "x", "--json").json if row["object"].endswith(f" on {state}")]
    assert [(row["action"], row["reason"]) for row in rows] == [
        ("re-plug", "kept by the agent, written through to the host")
    ]
    agent("suspend", "x")
    agent.forget_everything("x")
    shutil.rmtree(state)  # as on another host
    agent("restore", "-d", "x")
    assert agent("inspect", "x").json[0]["spec"]["agent_state"] == {state: "directory"}
    agent("exec", "x", "--", "sh", "-c", f"echo again >{state}/auth.json")
    assert (home / ".codex/auth.json").read_text() == "again\n"


def test_what_other_sessions_of_the_agent_wrote_meanwhile_is_no_conflict(agent: Agent, home: Path) -> None:
    agent("run", "-d", "--name", "x", "--", "./codex", "stay")
    await_true(lambda: agent("logs", "x").out == "first login\n1\n", "it has logged in")
    agent("suspend", "x")
    assert agent("run", "--", "./codex").out == "logged in\n2\n"
    there = (home / ".codex").stat().st_ino
    agent("resume", "-d", "x")
    assert (home / ".codex/history.jsonl").read_text() == "started\n" * 2
    assert (home / ".codex").stat().st_ino == there, "another run may have it mounted"


def test_what_the_host_replaced_while_the_run_lived_is_what_it_has_after_a_restore(agent: Agent, home: Path) -> None:
    (home / ".gemini").mkdir()
    (home / ".claude.json").write_text("old\n")
    agent("run", "-d", "--name", "x", "--", "sleep", "1000")
    (home / "new").write_text("new\n")
    (home / "new").rename(home / ".claude.json")
    assert agent("exec", "x", "--", "cat", f"{home}/.claude.json").out == "old\n"
    agent("suspend", "x")
    agent("resume", "-d", "x")
    assert agent("exec", "x", "--", "cat", f"{home}/.claude.json").out == "new\n"
    shutil.rmtree(home / ".gemini")
    (home / ".gemini").mkdir()
    again = (home / ".gemini").stat().st_ino
    agent("suspend", "x")
    agent("resume", "-d", "x")
    agent("exec", "x", "--", "touch", f"{home}/.gemini/seen")
    assert (home / ".gemini/seen").exists()
    assert again == (home / ".gemini").stat().st_ino, "another run may have it mounted"
