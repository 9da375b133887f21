"""What known agents keep of themselves on a host: login, settings, history. A run writes it through to the host.

The places are those that their makers document: code.claude.com/docs (settings), developers.openai.com/codex
(config), opencode.ai/docs (troubleshooting), geminicli.com/docs (configuration), aider.chat/docs (config),
block.github.io/goose (logs), docs.github.com/copilot (Copilot CLI configuration directory).
"""

import os
import pwd
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_LAUNCHERS = frozenset({"npx", "bunx", "pnpx", "npm", "pnpm", "yarn", "node", "bun", "uvx", "uv", "pipx", "env"})
_LAUNCHED = 6  # the agent is among so many words of a launcher: npx --yes codex, node .../codex.js
_VERSION = re.compile(r"(?<=.)@[^/]*$")  # codex@latest
_BASES = {"~/.config": "XDG_CONFIG_HOME", "~/.local/share": "XDG_DATA_HOME", "~/.local/state": "XDG_STATE_HOME"}


@dataclass(frozen=True, kw_only=True)
class Known:
    """An agent: the base names of its program, the names of its package, and where its state is.

    A place that ends with "/" is a directory; one with a "*" is found, and never made. Where the variable is set,
    all of the state is in the directory that it names.
    """

    programs: tuple[str, ...]
    packages: tuple[str, ...] = ()
    state: tuple[str, ...]
    variable: str = ""


KNOWN = (
    Known(
        programs=("claude",),
        packages=("@anthropic-ai/claude-code",),
        state=("~/.claude/", "~/.claude.json"),
        variable="CLAUDE_CONFIG_DIR",
    ),
    Known(programs=("codex",), packages=("@openai/codex",), state=("~/.codex/",), variable="CODEX_HOME"),
    Known(
        programs=("opencode",),
        packages=("opencode-ai",),
        state=("~/.config/opencode/", "~/.local/share/opencode/", "~/.local/state/opencode/"),
    ),
    Known(programs=("gemini",), packages=("@google/gemini-cli",), state=("~/.gemini/",)),
    Known(programs=("aider",), packages=("aider-chat",), state=("~/.aider/", "~/.aider*")),
    Known(
        programs=("goose",),
        state=("~/.config/goose/", "~/.local/share/goose/", "~/.local/state/goose/"),
    ),
    Known(programs=("copilot",), packages=("@github/copilot",), state=("~/.copilot/",), variable="COPILOT_HOME"),
)


@dataclass(frozen=True, kw_only=True)
class State:
    """found: real paths to "directory" or "file". failed: places that could not be made, with the reason."""

    found: Mapping[str, str]
    failed: tuple[str, ...] = ()


def state(argv: Sequence[str], env: Mapping[str, str], user: str) -> State:
    """The state of known agents that the user ("uid:gid") has. That of an agent that argv starts is made if need be:
    else its first login would be gone with the run.
    """
    home = _home(env, int(user.partition(":")[0]))
    if home is None:
        return State(found={})
    agent = started(argv)
    failed = _make(agent, home, env, user) if agent else ()
    found: dict[str, str] = {}
    for known in KNOWN:
        for place in _places(known, home, env):
            for path in _matching(place):
                found.update(_real(path))
    return State(found=found, failed=tuple(failed))


def started(argv: Sequence[str]) -> Known | None:
    """The agent that the command is, or that its launcher starts."""
    program = Path(argv[0]).name
    words = list(argv[1:_LAUNCHED]) if program in _LAUNCHERS or program.startswith("python") else [argv[0]]
    return next((known for word in words if word[:1] != "-" for known in KNOWN if _is(known, word)), None)


def own(argv: Sequence[str], paths: Iterable[str]) -> frozenset[str]:
    """Those of the paths at which the agent that argv starts keeps its state; none if it starts no known one."""
    agent = started(argv)
    places = [place.removeprefix("~").rstrip("/") for place in agent.state] if agent else []
    return frozenset(path for path in paths if any(fnmatchcase(path, f"*{place}") for place in places))


def remake(state: Mapping[str, str], user: str) -> None:
    """Make again what is not there of a run's agent state, on a host that it comes to. OSError if it cannot be."""
    for path, kind in state.items():
        if not os.path.lexists(path):
            with _as_user(user):
                _make_one(Path(path), kind)


def _is(known: Known, word: str) -> bool:
    name = _VERSION.sub("", word)
    base = re.sub(r"\.(js|mjs|cjs|py)$", "", Path(name).name)
    return base in known.programs or any(name == one or f"/{one}/" in name for one in known.packages)


def _home(env: Mapping[str, str], uid: int) -> str | None:
    """The home of the user: what HOME says if that is his own (with sudo it may be root's), else as passwd says."""
    candidates = [env.get("HOME", "")]
    with suppress(KeyError):
        candidates.append(pwd.getpwuid(uid).pw_dir)
    for home in candidates:
        try:
            if home.startswith("/") and os.stat(home).st_uid == uid:
                return home
        except OSError:
            continue
    return None


def _places(known: Known, home: str, env: Mapping[str, str]) -> list[str]:
    """Where its state is for that home and environment; directories with a "/" at their ends."""
    moved = env.get(known.variable, "") if known.variable else ""
    if moved.startswith("/"):
        return [f"{moved.rstrip('/')}/"]
    return [_placed(place, home, env) for place in known.state]


def _placed(place: str, home: str, env: Mapping[str, str]) -> str:
    for base, variable in _BASES.items():
        if place.startswith(f"{base}/") and env.get(variable, "").startswith("/"):
            return env[variable].rstrip("/") + place.removeprefix(base)
    return home.rstrip("/") + place.removeprefix("~")


def _matching(place: str) -> list[str]:
    if "*" not in place:
        return [place]
    try:
        return sorted(str(path) for path in Path(place).parent.glob(Path(place).name))
    except OSError:  # a home that is not there, or that root cannot read (NFS)
        return []


def _real(path: str) -> dict[str, str]:
    """The path without links and what it is, if it is something that can be written through."""
    real = os.path.realpath(path)
    if os.path.isdir(real):  # noqa: PTH112 - a str
        return {real: "directory"}
    return {real: "file"} if os.path.isfile(real) else {}  # noqa: PTH113 - a str


def _make(agent: Known, home: str, env: Mapping[str, str], user: str) -> list[str]:
    failed: list[str] = []
    with _as_user(user):
        for place in _places(agent, home, env):
            try:
                if "*" not in place and not os.path.lexists(place.rstrip("/")):
                    _make_one(Path(place), "directory" if place.endswith("/") else "file")
            except OSError as error:
                failed.append(f"{place.rstrip('/')}: {error.strerror}")
    return failed


def _make_one(path: Path, kind: str) -> None:
    """Private, as the agents make it. A file is an empty JSON object: Claude Code takes an empty file for damaged."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if kind == "directory":
        path.mkdir(mode=0o700)
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(b"{}\n")


@contextmanager
def _as_user(user: str) -> Iterator[None]:
    """Make files as the user would: his are the owner and the rights, and no link of his leads root astray."""
    uid, gid = (int(part) for part in user.split(":"))
    before = os.getgroups(), os.getegid(), os.geteuid()
    umask = os.umask(0o022)
    try:
        if uid != before[2]:
            os.setgroups([gid])
            os.setegid(gid)
            os.seteuid(uid)
        yield
    finally:
        if uid != before[2]:
            os.seteuid(before[2])
            os.setegid(before[1])
            os.setgroups(before[0])
        os.umask(umask)
