"""What bad input gets: the exit code that a script can rely on, a message that names the thing, and no leftovers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Agent
from tests.counting import assert_counts_on, assert_untouched, start_counter


def script(agent: Agent, name: str, text: str, mode: int = 0o755) -> Path:
    path = agent.workdir / name
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("detach", [[], ["-d"]])
def test_a_command_that_does_not_exist_is_127(agent: Agent, detach: list[str]) -> None:
    outcome = agent("run", *detach, "--name", "x", "--", "no-such-program", check=False)
    assert outcome.code == 127
    assert "no-such-program: command not found" in outcome.err
    assert agent.runs() == []
    assert list((agent.directory / "state/runs").iterdir()) == []


def test_a_path_that_does_not_exist_is_127(agent: Agent) -> None:
    outcome = agent("run", "--", "./missing/program", check=False)
    assert outcome.code == 127
    assert "./missing/program" in outcome.err


def test_a_file_without_the_x_bit_is_126(agent: Agent) -> None:
    script(agent, "plain", "#!/bin/sh\n", 0o644)
    outcome = agent("run", "--", "./plain", check=False)
    assert outcome.code == 126
    assert "./plain cannot be executed" in outcome.err
    assert "chmod +x ./plain" in outcome.err
    assert agent.runs() == []


def test_a_directory_is_126(agent: Agent) -> None:
    (agent.workdir / "directory").mkdir()
    outcome = agent("run", "--", "./directory", check=False)
    assert outcome.code == 126
    assert "./directory" in outcome.err
    assert agent.runs() == []


def test_a_script_without_a_first_line_is_run_by_sh_as_a_shell_does(agent: Agent) -> None:
    script(agent, "old-style", "echo $((6 * 7)); exit 3\n")
    outcome = agent("run", "--", "./old-style", check=False)
    assert (outcome.code, outcome.out) == (3, "42\n")


def test_an_empty_word_as_the_command_is_127(agent: Agent) -> None:
    outcome = agent("run", "--", "", check=False)
    assert outcome.code == 127
    assert "Traceback" not in outcome.err


def test_a_script_whose_interpreter_is_missing_is_127_and_named(agent: Agent) -> None:
    script(agent, "tool", "#!/opt/no/such/python3 -u\n")
    outcome = agent("run", "--", "./tool", check=False)
    assert outcome.code == 127
    assert "/opt/no/such/python3" in outcome.err
    assert agent.runs() == []


def test_a_name_that_is_taken_is_refused_and_the_first_run_goes_on(agent: Agent) -> None:
    start_counter(agent)
    outcome = agent("run", "-d", "--name", "counter", "--", "true", check=False)
    assert outcome.code == 125
    assert "the name counter is taken by a run that is running" in outcome.err
    assert len(agent.runs()) == 1
    assert_counts_on(agent)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "-x", "a" * 64, "ä"])
def test_a_name_that_is_no_name_is_a_usage_error(agent: Agent, name: str) -> None:
    outcome = agent("run", "-d", f"--name={name}", "--", "no-such-program", check=False)
    assert outcome.code == (127 if name == "" else 2), "an empty name is none: one is made up"
    assert "Traceback" not in outcome.err
    assert agent.runs() == []


def test_an_ordinary_user_is_told_to_use_sudo(agent: Agent) -> None:
    # Reading everything is for the interpreter, which may lie below root's home.
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    drop += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    for verb in (["run", "--", "true"], ["ps"], ["checkpoint", "x"]):
        done = subprocess.run(
            [*drop, sys.executable, "-B", "-m", "criu_agent", *verb],
            cwd=agent.workdir,
            env=agent.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 15
        assert "criu-agent needs root" in done.stderr
        assert f"hint: sudo criu-agent {' '.join(verb)}" in done.stderr
    assert agent.runs() == []


def test_without_criu_a_checkpoint_says_how_to_install_it_and_the_agent_goes_on(agent: Agent) -> None:
    agent.env["CRIU_AGENT_CRIU"] = "/nonexistent"
    start_counter(agent)
    for verb in ("checkpoint", "suspend"):
        outcome = agent(verb, "counter", check=False)
        assert outcome.code == 15
        assert "/nonexistent" in outcome.err
        assert "scripts/install-criu" in outcome.err
        assert "running, unharmed" in outcome.err
        assert_untouched(agent)
    assert_counts_on(agent)
    assert agent("snapshots", "--json").json == []


def test_without_criu_a_restore_leaves_the_run_suspended(agent: Agent) -> None:
    start_counter(agent)
    agent("suspend", "counter")
    outcome = agent("resume", "-d", "counter", env={"CRIU_AGENT_CRIU": "/nonexistent"}, check=False)
    assert outcome.code == 15
    assert "scripts/install-criu" in outcome.err
    assert agent.state_of("counter") == "suspended"
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def test_a_criu_that_does_not_start_is_15(agent: Agent) -> None:
    broken = script(agent, "criu", "#!/bin/sh\necho 'error while loading shared libraries' >&2\nexit 127\n")
    agent.env["CRIU_AGENT_CRIU"] = str(broken)
    start_counter(agent)
    outcome = agent("checkpoint", "counter", check=False)
    assert outcome.code == 15, outcome
    assert "error while loading shared libraries" in outcome.err
    assert "running, unharmed" in outcome.err
    assert_counts_on(agent)


def test_without_an_init_nothing_starts(agent: Agent) -> None:
    outcome = agent("run", "--", "true", env={"CRIU_AGENT_INIT": "/nonexistent"}, check=False)
    assert outcome.code == 15
    assert "/nonexistent" in outcome.err
    assert agent.runs() == []


@pytest.mark.parametrize(
    "verb",
    [
        ["attach"],
        ["logs"],
        ["wait"],
        ["stop"],
        ["kill"],
        ["rm"],
        ["inspect"],
        ["checkpoint"],
        ["suspend"],
        ["resume"],
        ["restore"],
        ["plan"],
        ["snapshots"],
    ],
)
def test_a_run_that_does_not_exist_is_10(agent: Agent, verb: list[str]) -> None:
    outcome = agent(*verb, "ghost", check=False)
    assert outcome.code == 10
    assert "ghost" in outcome.err
    assert "hint: " in outcome.err


def test_exec_in_a_run_that_does_not_exist_is_10(agent: Agent) -> None:
    outcome = agent("exec", "ghost", "true", check=False)
    assert outcome.code == 10
    assert "no such run: ghost" in outcome.err


def test_a_snapshot_that_does_not_exist_is_10(agent: Agent) -> None:
    start_counter(agent)
    assert agent("restore", "counter", check=False).code == 10, "it has none yet"
    agent("suspend", "counter")
    for wanted in ("counter~5", "counter:tag", "0123456789abcdef"):
        outcome = agent("restore", "-d", "--at", wanted, check=False)
        assert outcome.code == 10, wanted
    assert agent.state_of("counter") == "suspended"


def test_an_unknown_option_is_2_and_a_json_document(agent: Agent) -> None:
    outcome = agent("--json", "ps", "--frobnicate", check=False)
    assert outcome.code == 2
    assert outcome.out == ""
    document = json.loads(outcome.err)
    assert document["message_type"] == "exit_error"
    assert document["code"] == 2
    assert "--frobnicate" in document["message"]
    assert document["hint"] == "criu-agent ps --help"


def test_json_behind_a_wrong_option_counts_too(agent: Agent) -> None:
    outcome = agent("ps", "--frobnicate", "--json", check=False)
    assert outcome.code == 2
    assert json.loads(outcome.err)["code"] == 2


def test_an_unknown_verb_is_2(agent: Agent) -> None:
    outcome = agent("teleport", check=False)
    assert outcome.code == 2
    assert "teleport" in outcome.err


def test_an_error_is_one_json_document_with_the_state_of_the_agent(agent: Agent) -> None:
    agent.env["CRIU_AGENT_CRIU"] = "/nonexistent"
    start_counter(agent)
    outcome = agent("--json", "checkpoint", "counter", check=False)
    document = json.loads(outcome.err)
    assert {key: document[key] for key in ("message_type", "code", "agent_state")} == {
        "message_type": "exit_error",
        "code": 15,
        "agent_state": "running, unharmed",
    }
    assert document["message"]
    assert document["hint"]


@pytest.mark.parametrize(
    "options",
    [
        ["-e", "=x"],
        ["-l", "nolabel"],
        ["-u", "nobody-has-this-name"],
        ["--net", "moon"],
        ["--detach-keys", "ctrl-"],
        ["--detach-keys", "ctrl-ab"],
        ["--tty"],
        ["--restore-if-exists"],
        ["--every", "5"],
        ["--every", "0s"],
        ["--on-idle", "soon"],
        ["--keep-last", "3"],
        ["--every", "5m", "--keep-last", "0"],
        ["--through", "/no/such/place"],
    ],
)
def test_a_wrong_option_of_run_is_2(agent: Agent, options: list[str]) -> None:
    outcome = agent("run", *options, "--", "true", check=False)
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    assert agent.runs() == []


def test_run_without_a_command_is_2(agent: Agent) -> None:
    assert agent("run", "--name", "x", check=False).code == 2


def test_a_work_directory_that_does_not_exist_is_said(agent: Agent) -> None:
    outcome = agent("run", "-w", "/no/such/place", "--", "true", check=False)
    assert outcome.code == 2, outcome
    assert "/no/such/place" in outcome.err
    assert agent.runs() == []


def test_a_work_directory_that_holds_the_state_is_refused(agent: Agent) -> None:
    outcome = agent("run", "-w", str(agent.directory), "--", "true", check=False)
    assert outcome.code == 2
    assert str(agent.directory / "state") in outcome.err
    assert agent.runs() == []


def test_a_signal_that_does_not_exist_is_2_and_the_run_goes_on(agent: Agent) -> None:
    start_counter(agent)
    for signal in ("BLUE", "0", "65", "9999"):
        outcome = agent("kill", "-s", signal, "counter", check=False)
        assert outcome.code == 2, (signal, outcome)
        assert signal in outcome.err
    assert_counts_on(agent)


@pytest.mark.parametrize(
    ("url", "code"),
    [("s3://", 2), ("s3://no_bucket!/x", 2), ("ftp://host/path", 2), ("file:relative", 0), ("file://host/path", 2)],
)
def test_a_repository_that_no_store_serves_is_2(agent: Agent, url: str, code: int) -> None:
    outcome = agent("-r", url, "snapshots", check=False)
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err


def test_a_repository_that_cannot_be_written_to_leaves_the_agent_running(agent: Agent) -> None:
    (agent.directory / "repository").write_text("a file, not a directory")
    start_counter(agent)
    outcome = agent("checkpoint", "counter", check=False)
    assert outcome.code == 1
    assert str(agent.directory / "repository") in outcome.err
    assert "running, unharmed" in outcome.err
    assert_untouched(agent)
    assert_counts_on(agent)


def test_an_attach_or_exec_of_a_run_that_has_ended_says_so(agent: Agent) -> None:
    agent("run", "--name", "gone", "--", "true")
    for verb, code in (("attach", 125), ("exec", 125), ("checkpoint", 1), ("plan", 1), ("kill", 1)):
        outcome = agent(verb, "gone", *(["true"] if verb == "exec" else []), check=False)
        assert outcome.code == code, verb
        assert "gone is exited" in outcome.err


def test_rm_of_a_run_that_runs_is_refused_without_force(agent: Agent) -> None:
    start_counter(agent)
    outcome = agent("rm", "counter", check=False)
    assert outcome.code == 1
    assert "criu-agent rm -f counter" in outcome.err
    assert_counts_on(agent)


def test_a_damaged_state_file_hides_no_run_and_rm_takes_it_away(agent: Agent) -> None:
    agent("run", "--name", "one", "--", "true")
    start_counter(agent)
    broken = agent.directory / "state/runs" / agent.run_of("one")["run"]
    for damage in ("", "{", "[]", '{"state": "exited", "colour": "blue"}'):
        (broken / "state.json").write_text(damage)
        assert {run["name"]: run["state"] for run in agent.runs()} == {"one": "failed", "counter": "running"}
        assert str(broken / "state.json") in agent.run_of("one")["error"]
    agent("rm", "one")
    assert not broken.exists()
    assert_counts_on(agent)


def test_a_damaged_spec_hides_no_other_run(agent: Agent) -> None:
    agent("run", "--name", "one", "--", "true")
    start_counter(agent)
    broken = agent.directory / "state/runs" / agent.run_of("one")["run"]
    for damage in ("", "{", "[]", "{}", '{"argv": 5, "through": 6}'):
        (broken / "run.json").write_text(damage)
        assert [run["name"] for run in agent.runs()] == ["counter"]
    assert_counts_on(agent)
