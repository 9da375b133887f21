"""The command line itself: help, the global options, and how errors are said. No run is ever started here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from criu_agent.cli import show
from criu_agent.cli.context import Context, Verb
from criu_agent.cli.main import Verbs, _cli
from criu_agent.errors import Refused
from tests.conftest import PATIENCE

VERBS = _cli().list_commands(click.Context(_cli()))
FOR_ANYBODY = {"doctor", "version", "completion"}
# What a verb says to a name that no run has; who is not root gets no further than that.
UNKNOWN = (10, "no such run: nobody") if os.geteuid() == 0 else (15, "criu-agent needs root")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "CRIU_AGENT_STATE_DIR": str(tmp_path / "state"),
        "CRIU_AGENT_RUNTIME_DIR": str(tmp_path / "run"),
        "CRIU_AGENT_REPOSITORY": str(tmp_path / "repository"),
        "CRIU_AGENT_CRIU": "/nonexistent",
    }


Done = subprocess.CompletedProcess[str]


def criu_agent(environment: dict[str, str], *arguments: str, **options: object) -> Done:
    argv = [sys.executable, "-m", "criu_agent", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    return subprocess.run(argv, env=environment, text=True, timeout=PATIENCE, check=False, **streams)  # type: ignore[call-overload, no-any-return]


def in_process(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Without a new process, for what needs none."""
    from criu_agent.cli.main import run_cli

    code = run_cli(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_how_it_is_used(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = in_process(verb, "--help", capsys=capsys)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: criu-agent {verb}")
    assert in_process(verb, "-h", capsys=capsys)[1] == out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_verb_and_takes_the_global_options_unless_it_has_its_own(verb: str) -> None:
    group = _cli()
    command = group.get_command(click.Context(group), verb)
    assert isinstance(command, Verb)
    names = [parameter.name for parameter in command.params]
    assert len(names) == len(set(names))
    assert {"repo", "json", "quiet", "verbose", "no_color", "yes"} <= set(names)
    spellings = [spelling for parameter in command.params for spelling in parameter.opts]
    assert len(spellings) == len(set(spellings)), "an option means one thing"


def test_the_help_names_every_verb_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = in_process("--help", capsys=capsys)
    assert code == 0
    for verb in VERBS:
        assert len(re.findall(rf"^  {verb} ", out, re.MULTILINE)) == 1
    assert "16 cannot be checkpointed now" in out.replace("\n  ", " ")


def test_without_a_verb_the_help_is_shown_and_it_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = in_process(capsys=capsys)
    assert code == 2
    assert "Usage: criu-agent" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "version"],
        ["version", "--json"],
        ["-v", "--json", "version", "-q"],
        ["version", "--json", "--no-color"],
    ],
)
def test_global_options_stand_before_or_behind_the_verb(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = in_process(*arguments, capsys=capsys)
    assert code == 0
    assert json.loads(out).keys() >= {"criu-agent", "criu", "python", "kernel"}


def test_an_option_given_before_the_verb_is_not_taken_back_behind_it() -> None:
    context = Context()
    context.take({"repo": "/a", "json": True, "quiet": False, "verbose": 1, "no_color": False, "yes": False})
    context.take({"repo": None, "json": False, "quiet": True, "verbose": 0, "no_color": False, "yes": False})
    options = context.options
    assert (options.repo, options.json, options.quiet, options.verbose) == ("/a", True, True, 1)


def error_document(done: Done) -> dict[str, object]:
    document = json.loads(done.stderr)
    assert isinstance(document, dict)
    assert document["message_type"] == "exit_error"
    assert document.keys() >= {"code", "message", "hint", "agent_state"}
    assert document["code"] == done.returncode
    return document


@pytest.mark.parametrize("arguments", [["--json", "inspect", "nobody"], ["inspect", "nobody", "--json"]])
def test_a_fatal_error_is_one_document_on_stderr(environment: dict[str, str], arguments: list[str]) -> None:
    done = criu_agent(environment, *arguments)
    document = error_document(done)
    assert (document["code"], document["message"], done.stdout) == (*UNKNOWN, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "nonsense"],
        ["ps", "--json", "--nonsense"],
        ["--nonsense", "--json", "ps"],
        ["rm", "--json"],
        ["run", "--json", "--net", "nonsense", "--", "true"],
    ],
)
def test_a_wrong_command_line_is_a_document_too(environment: dict[str, str], arguments: list[str]) -> None:
    assert error_document(criu_agent(environment, *arguments))["code"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["frob"], "no such command 'frob'"), (["rm"], "missing argument 'RUN...'"), (["ps", "x"], "got unexpected")],
)
def test_what_is_wrong_with_a_command_line_is_said_as_our_own_errors(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = in_process(*arguments, capsys=capsys)
    message, hint = err.splitlines()
    assert (code, message[-1] != ".") == (2, True)
    assert message.startswith(f"criu-agent: {said}")
    assert hint.startswith("hint: criu-agent")


def test_the_json_of_the_wrapped_command_is_not_ours(environment: dict[str, str]) -> None:
    done = criu_agent(environment, "run", "--nonsense=", "--net", "x", "--", "program", "--json")
    assert done.returncode != 0
    assert done.stderr.startswith("criu-agent: ")


def test_an_error_for_a_person_has_a_message_and_a_hint(environment: dict[str, str]) -> None:
    done = criu_agent(environment, "inspect", "nobody")
    message, hint = done.stderr.splitlines()
    assert message == f"criu-agent: {UNKNOWN[1]}"
    assert hint.startswith("hint: ")


def test_the_agent_s_state_is_said_with_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    from criu_agent.cli.main import _fail

    assert _fail(Refused("no", hint="do this", agent_state="running, unharmed"), as_json=False) == 16
    assert capsys.readouterr().err == "criu-agent: no (the agent: running, unharmed)\nhint: do this\n"


@pytest.mark.parametrize("verb", sorted(set(VERBS) - FOR_ANYBODY))
def test_who_is_not_root_is_told_so_before_anything_else(verb: str) -> None:
    group = _cli()
    command = group.get_command(click.Context(group), verb)
    assert isinstance(command, Verb)
    assert command._needs_root


def test_an_unset_variable_names_no_run(environment: dict[str, str]) -> None:
    for arguments in (["inspect", ""], ["kill", ""], ["rm", ""]):
        assert criu_agent(environment, *arguments).returncode == UNKNOWN[0]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e9", "x"])
def test_a_time_that_is_none_is_a_usage_error(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process("stop", f"--time={value}", "x", capsys=capsys)[0] == 2
    assert in_process("wait", f"--timeout={value}", "x", capsys=capsys)[0] == 2


@pytest.mark.parametrize("name", ["0x9", "65", "99", "-1", "SIG", "²", "NONSENSE"])
def test_a_signal_that_is_none_is_a_usage_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process("kill", f"--signal={name}", "x", capsys=capsys)[0] == 2


def test_a_reader_that_has_gone_is_no_traceback(environment: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = criu_agent(environment, "version", stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_every_shell_is_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = in_process("completion", shell, capsys=capsys)
    assert code == 0
    assert "_CRIU_AGENT_COMPLETE" in out


HEAVY = {
    *("blake3", "boto3", "cryptography", "google.protobuf", "hashlib", "obstore", "psutil", "pyrage", "pyroute2"),
    *("tomllib", "xxhash", "zstandard", "criu_agent.cli.state"),
}


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [("--help", {*HEAVY, "criu_agent.runs"}), ("ps", HEAVY), ("attach --help", HEAVY)],
)
def test_what_must_answer_at_once_imports_nothing_heavy(
    arguments: str, unwanted: set[str], environment: dict[str, str]
) -> None:
    code = (
        "import sys; from criu_agent.cli.main import run_cli; run_cli(sys.argv[1:]); "
        f"print(sorted(set(sys.modules) & {unwanted!r}), file=sys.stderr)"
    )
    argv = [sys.executable, "-c", code, *arguments.split()]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.endswith("[]\n")


def test_a_verb_is_found_by_its_whole_name_only() -> None:
    group = Verbs("criu-agent")
    assert group.get_command(click.Context(group), "checkp") is None
    assert group.get_command(click.Context(group), "") is None


HOSTILE = "a\x1b]0;owned\x07\x1b[2J\rb\n\u2028\udcff\x9b31m"


def test_what_a_program_is_called_does_not_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show.table(("NAME", "X"), [(HOSTILE, "x"), ("é…", "y")])
    show.line(f"criu-agent: pid 7 ({HOSTILE})\r\nhint: none")
    said = capsys.readouterr()
    assert not set(said.out + said.err.replace("\r\n", "\n")) & set("\x1b\x07\r\u2028\udcff\x9b")
    assert len(said.out.splitlines()) == 3
    assert "é…" in said.out
    assert "\\x1b[2J" in said.out
    assert said.err.endswith("\r\nhint: none\n")
