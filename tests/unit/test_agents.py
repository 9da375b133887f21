"""Which agent a command starts, and where it keeps its state."""

import os
import stat
from pathlib import Path

import pytest

from criu_agent.ops import agents

ME = f"{os.getuid()}:{os.getgid()}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


def found(home: Path, *argv: str, **env: str) -> dict[str, str]:
    """The state, with paths relative to the home."""
    state = agents.state(argv, {"HOME": str(home), **env}, ME)
    assert not state.failed
    return {os.path.relpath(path, home): kind for path, kind in state.found.items()}


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("claude", "claude"),
        ("/usr/local/bin/codex --yolo", "codex"),
        ("npx codex", "codex"),
        ("npx --yes @openai/codex@latest exec", "codex"),
        ("node /x/node_modules/@openai/codex/bin/codex.js", "codex"),
        ("node --max-old-space-size=4096 /x/@anthropic-ai/claude-code/cli.js", "claude"),
        ("bunx opencode-ai", "opencode"),
        ("python3 -m aider --model x", "aider"),
        ("uvx --from aider-chat aider", "aider"),
        ("env A=b gemini", "gemini"),
    ],
)
def test_an_agent_is_known_by_its_program_or_its_package(command: str, program: str) -> None:
    known = agents.started(command.split())
    assert known is not None
    assert known.programs == (program,)


@pytest.mark.parametrize(
    "command", ["bash", "vim codex", "node server.js", "grep claude", "codex-like", "node /home/claude/server.js"]
)
def test_what_is_no_agent_is_not_taken_for_one(command: str) -> None:
    assert agents.started(command.split()) is None


def test_what_is_there_is_found_whatever_is_started_and_nothing_is_made(home: Path) -> None:
    (home / ".codex").mkdir()
    (home / ".claude.json").write_text("{}")
    (home / ".aider.conf.yml").touch()
    os.mkfifo(home / ".aider.fifo")
    assert found(home, "bash") == {".codex": "directory", ".claude.json": "file", ".aider.conf.yml": "file"}
    assert sorted(os.listdir(home)) == [".aider.conf.yml", ".aider.fifo", ".claude.json", ".codex"]


def test_the_state_of_the_agent_that_is_started_is_made_private(home: Path) -> None:
    assert found(home, "claude") == {".claude": "directory", ".claude.json": "file"}
    assert stat.S_IMODE((home / ".claude").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / ".claude.json").stat().st_mode) == 0o600
    assert (home / ".claude.json").read_text() == "{}\n"


def test_state_follows_the_variables_that_move_it(home: Path) -> None:
    assert found(home, "codex", CODEX_HOME=f"{home}/elsewhere") == {"elsewhere": "directory"}
    assert found(home, "opencode", XDG_DATA_HOME=f"{home}/data") == {
        "data/opencode": "directory",
        ".config/opencode": "directory",
        ".local/state/opencode": "directory",
    }


def test_a_link_leads_to_where_the_state_really_is(home: Path) -> None:
    (home / "dotfiles").mkdir()
    (home / ".codex").symlink_to("dotfiles")
    assert found(home, "codex") == {"dotfiles": "directory"}


def test_a_home_of_somebody_else_is_left_alone(home: Path) -> None:
    if os.getuid() == 0:
        os.chown(home, 4711, 4711)
        (home / ".codex").mkdir()
        state = agents.state(["codex"], {"HOME": str(home)}, ME)
        assert not any(path.startswith(str(home)) for path in state.found)


def test_what_cannot_be_made_is_said(home: Path) -> None:
    (home / ".config").touch()
    state = agents.state(["opencode"], {"HOME": str(home)}, ME)
    assert [failed.rpartition(": ")[0] for failed in state.failed] == [f"{home}/.config/opencode"]
    assert f"{home}/.local/share/opencode" in state.found


def test_state_is_made_again_where_it_is_missing_and_left_where_it_is(home: Path) -> None:
    (home / "a").mkdir()
    (home / "a/login").touch()
    agents.remake({f"{home}/a": "directory", f"{home}/b/c": "directory", f"{home}/d.json": "file"}, ME)
    assert (home / "a/login").exists()
    assert (home / "b/c").is_dir()
    assert (home / "d.json").read_text() == "{}\n"
