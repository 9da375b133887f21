"""A repository that a passphrase opens: from a file, or typed once by a person at a terminal. The supervisor, which
has no terminal, gets it, and nobody else does."""

import os
from pathlib import Path

import pytest

from tests.conftest import Agent, Screen, await_true
from tests.counting import COUNTER, assert_counts_on, assert_untouched, numbers, processes, start_counter

WORDS = "correct horse battery staple"
ASKS = "passphrase of "


@pytest.fixture
def passphrase_file(agent: Agent) -> Path:
    """A repository that a passphrase opens, and nothing else; the file with it."""
    path = agent.directory / "passphrase"
    path.touch(mode=0o600)
    path.write_text(WORDS + "\n")
    agent("init", "--passphrase-file", str(path))
    assert not list(agent.directory.glob("state/keys/*"))
    return path


def start_at(screen: Screen, words: str) -> None:
    """`criu-agent run` of the counter, and these words as the answer."""
    (screen.agent.workdir / "counter.py").write_text(COUNTER)
    screen.agent_command("run --name counter -- python3 counter.py; echo code $?")
    screen.await_text(ASKS)
    screen.command(words)


def supervisor(agent: Agent) -> int:
    return int(agent("inspect", "counter").json[0]["state"]["supervisor_pid"])


def assert_secret(agent: Agent) -> None:
    """Nothing that others can see has the passphrase, and the run has no way to it."""
    for pid in (supervisor(agent), *processes(agent)):
        for name in ("cmdline", "environ"):
            assert WORDS.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    for pid in processes(agent):
        held = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [path for path in held if "passphrase" in path]
    for path in agent.directory.glob("state/**/*"):
        assert not path.is_file() or WORDS.encode() not in path.read_bytes(), path


def test_a_passphrase_file_is_enough_for_the_supervisor_and_is_remembered(
    agent: Agent, passphrase_file: Path
) -> None:
    agent.env["CRIU_AGENT_PASSPHRASE_FILE"] = str(passphrase_file)
    start_counter(agent)
    agent("checkpoint", "counter")
    del agent.env["CRIU_AGENT_PASSPHRASE_FILE"]
    agent("suspend", "counter")
    assert len(agent("snapshots", "counter", "--json").json) == 2
    agent("resume", "-d", "counter")
    assert_counts_on(agent)
    agent("checkpoint", "counter")
    assert agent("snapshots", check=False).code == 12, "which is not of the run: nothing says where its passphrase is"


def test_a_passphrase_file_that_others_can_read_is_refused_and_the_run_goes_on(
    agent: Agent, passphrase_file: Path
) -> None:
    agent.env["CRIU_AGENT_PASSPHRASE_FILE"] = str(passphrase_file)
    start_counter(agent)
    passphrase_file.chmod(0o644)
    outcome = agent("suspend", "counter", check=False)
    assert outcome.code == 12
    assert f"others can read or write the passphrase file {passphrase_file}" in outcome.err
    assert "(the agent: running, unharmed)" in outcome.err
    assert_counts_on(agent)
    passphrase_file.chmod(0o600)
    agent("suspend", "counter")


def test_a_passphrase_is_asked_for_once_when_a_run_is_started_and_once_when_it_is_resumed(
    screen: Screen, passphrase_file: Path
) -> None:
    agent = screen.agent
    start_at(screen, WORDS)
    await_true(lambda: agent.runs() and len(numbers(agent)) > 2, "the counter counts")
    assert_secret(agent)
    agent("checkpoint", "counter")
    agent("suspend", "counter")
    assert WORDS not in screen.await_text("code 75")
    refused = agent("resume", "-d", "counter", check=False)
    assert refused.code == 12
    assert "this host has no key of the repository" in refused.err
    screen.agent_command("resume -d counter; echo code $?")
    screen.await_text(ASKS)
    screen.command(WORDS)
    assert screen.await_text("code [0-9]").count(ASKS) == 1
    assert "code 0" in screen.text()
    assert_counts_on(agent)
    assert_secret(agent)
    agent("suspend", "counter")
    assert agent.state_of("counter") == "suspended"


def test_a_wrong_passphrase_starts_nothing_and_resumes_nothing(screen: Screen, passphrase_file: Path) -> None:
    agent = screen.agent
    start_at(screen, "wrong")
    screen.await_text("code 12")
    assert "the passphrase opens no key of this repository" in screen.text()
    assert agent.runs() == []
    start_at(screen, WORDS)
    await_true(lambda: agent.runs() and len(numbers(agent)) > 2, "the counter counts")
    agent("suspend", "counter")
    screen.await_text("code 75")
    screen.agent_command("resume counter; echo code $?")
    screen.await_text(ASKS)
    screen.command("wrong")
    screen.await_text("code 12")
    assert agent.state_of("counter") == "suspended"


def test_a_run_whose_supervisor_was_told_no_passphrase_is_told_it_with_a_checkpoint(
    screen: Screen, passphrase_file: Path
) -> None:
    agent = screen.agent
    start_counter(agent)
    outcome = agent("checkpoint", "counter", check=False)
    assert outcome.code == 12
    assert "at a terminal" in outcome.err
    assert "(the agent: running, unharmed)" in outcome.err
    assert_untouched(agent)
    for words, code in (("wrong", 12), (WORDS, 0)):
        screen.agent_command("checkpoint counter; echo code $?")
        screen.await_text(ASKS)
        screen.command(words)
        screen.await_text(f"code {code}$")
        assert_counts_on(agent)
    assert_secret(agent)
    agent("suspend", "counter")
