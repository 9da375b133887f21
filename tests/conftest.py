"""What the tests of the whole tool share: an isolated criu-agent, a terminal, and the proof that nothing is left.

Tests in tests/root and tests/workloads need root and a real CRIU. A missing component fails them: no skip hides it.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from criu_agent.repo.repository import Repository
from tests.fakes.repositories import opened
from tests.fakes.shelf import Shelf

# The same examples every time, however slow the machine; `pytest --hypothesis-profile=search` looks for others.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("search", settings.get_profile("suite"), derandomize=False, max_examples=2000)
settings.load_profile("suite")

TOOLS = Path(os.environ.get("CRIU_AGENT_TEST_TOOLS", "/opt/criu-agent/test-tools"))
NODE_BIN = TOOLS / "node_modules/.bin"
# For programs in a box, which has a /tmp of its own: the virtual environment that we run in may lie below the host's.
PYTHON = str(Path(sys.base_prefix) / "bin/python3")
# A script's background jobs have these ignored, and so would every command line that is started here.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# The host's own programs, which every user can run; a developer's PATH may begin with wrappers in his home.
PATH = f"{NODE_BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Seconds until something that is waited for has failed to come: far more than it takes on a busy machine.
PATIENCE = 120.0


class Outcome:
    """How a command line ended."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Agent:
    """criu-agent with a state directory, a runtime directory and a repository of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.workdir = directory / "work"
        self.workdir.mkdir()
        home = directory / "home"  # what agents keep in the one of who runs the tests is no business of theirs
        home.mkdir(mode=0o700)
        self.env = {
            **os.environ,
            "PATH": PATH,
            "HOME": str(home),
            "CRIU_AGENT_STATE_DIR": str(directory / "state"),
            "CRIU_AGENT_RUNTIME_DIR": str(directory / "run"),
            "CRIU_AGENT_REPOSITORY": str(directory / "repository"),
        }
        self.program = [sys.executable, "-m", "criu_agent"]
        self.run_ids: set[str] = set()

    def __call__(
        self,
        *arguments: str,
        timeout: float = 2 * PATIENCE,
        input: str | None = None,
        env: dict[str, str] | None = None,
        check: bool = True,
    ) -> Outcome:
        """Run `criu-agent ARGUMENTS` in the work directory. check: fail the test unless it exits with 0."""
        self._note_runs()
        done = subprocess.run(
            [*self.program, *arguments],
            cwd=self.workdir,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        self._note_runs()
        outcome = Outcome(done)
        if check:
            assert outcome.code == 0, f"criu-agent {' '.join(arguments)}: {outcome!r}{self.logs()}"
        return outcome

    def _note_runs(self) -> None:
        """By their ids is told what of them is left: others may test on this host, too."""
        with contextlib.suppress(FileNotFoundError):
            self.run_ids.update(os.listdir(self.directory / "state/runs"))

    def runs(self) -> list[dict[str, Any]]:
        return list(self("ps", "-a", "--json").json)

    def run_of(self, name: str) -> dict[str, Any]:
        return next(run for run in self.runs() if run["name"] == name)

    def root_pid(self, name: str) -> int:
        """PID 1 of the box, as the host sees it."""
        return int(self.run_of(name)["pid"])

    def state_of(self, name: str) -> str:
        return str(self.run_of(name)["state"])

    def files_of(self, name: str) -> Path:
        """The box's upper layer: a file that the run wrote at /x is files_of(name)/x."""
        return self.directory / "state/runs" / self.run_of(name)["run"] / "box/upper"

    def logs(self) -> str:
        """The ends of all logs, for a failure's message."""
        logs = [path for path in (self.directory / "state/runs").glob("*/*.log") if path.name != "output.log"]
        return "".join(f"\n--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(logs))

    def forget_everything(self, name: str) -> None:
        """What a host has when only the store is left: no run directory, no runtime directory."""
        run = self.run_of(name)
        assert run["state"] in ("suspended", "exited", "failed"), run
        shutil.rmtree(self.directory / "state/runs" / run["run"])
        shutil.rmtree(self.directory / "run" / run["run"], ignore_errors=True)

    def clean_up(self) -> None:
        """End every run of this test; its processes only."""
        for run in self.runs():
            self("rm", "-f", run["run"], check=False)


class Screen:
    """A terminal of 100x30 in a tmux server of its own, whose picture can be read."""

    def __init__(self, agent: Agent, socket: Path) -> None:
        self.agent = agent
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        command = [
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            "-c",
            str(agent.workdir),
            "bash",
            "--norc",
            "--noprofile",
        ]
        subprocess.run([*self._tmux, *command], env={**agent.env, "PS1": "$ ", "TERM": "xterm-256color"}, check=True)

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    def keys(self, *keys: str) -> None:
        """Keys by tmux's names: "Enter", "C-c", "Down"."""
        self.tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Text as it is."""
        self.tmux("send-keys", "-l", "--", text)

    def command(self, text: str) -> None:
        self.type(text)
        self.keys("Enter")

    def agent_command(self, arguments: str) -> None:
        """Type `clear; criu-agent ARGUMENTS`; what was on the screen is gone then."""
        self.type(f"clear; {' '.join(self.agent.program)} {arguments}")
        self.await_picture(lambda text: "clear; " in text, "the command")
        self.keys("Enter")
        self.await_picture(lambda text: "clear; " not in text, "a clear screen")

    def text(self) -> str:
        return self.tmux("capture-pane", "-p")

    def await_text(self, wanted: str, timeout: float = PATIENCE) -> str:
        """Wait until the picture matches the regular expression (^ and $ at lines, whose ends have no spaces)."""
        return self.await_picture(lambda text: re.search(wanted, text, re.MULTILINE) is not None, wanted, timeout)

    def await_picture(self, test: Callable[[str], bool], wanted: str, timeout: float = PATIENCE) -> str:
        deadline = time.monotonic() + timeout
        while not test(text := self.text()):
            assert time.monotonic() < deadline, f"never saw {wanted!r}:\n{text}\n{self.agent.logs()}"
            time.sleep(0.05)
        return text

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)


@contextlib.contextmanager
def workdir_for_everybody(agent: Agent) -> Iterator[None]:
    """Its work directory is one that every user can enter; those of pytest are for root alone."""
    own = agent.workdir
    with tempfile.TemporaryDirectory(prefix="criu-agent-test-", dir="/var/tmp") as path:
        agent.workdir = Path(path)
        agent.workdir.chmod(0o777)
        yield
        agent.workdir = own
        agent.clean_up()


def await_true(test: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """Wait until test() is true."""
    deadline = time.monotonic() + timeout
    while not test():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


def traces(directory: Path, run_ids: Collection[str] = ()) -> dict[str, list[str]]:
    """Everything that a run of the agent in `directory` could leave on this machine."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(directory) in line]
    nft = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    hierarchies = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
    cgroups = [root / "criu-agent" / run for root in hierarchies for run in run_ids]
    return {
        "mounts": mounts,
        "processes": [said for said in map(_belongs(directory), Path("/proc").iterdir()) if said],
        "nft tables": [line for line in nft.splitlines() if "CRIU-" in line],
        "network namespaces": sorted(os.listdir("/run/netns")) if Path("/run/netns").exists() else [],
        "cgroups": [str(path) for path in cgroups if path.exists()],
    }


def _belongs(directory: Path) -> Callable[[Path], str]:
    """What a process is, if it was started in `directory`, or has a mount of it (a box has the upper layer)."""

    def look(entry: Path) -> str:
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            return ""
        try:
            command, mounts = (entry / "cmdline").read_bytes(), (entry / "mountinfo").read_text()
            environment = (entry / "environ").read_bytes()
        except OSError:
            return ""
        name = f"{directory}/"
        if name.encode() in command or name.encode() in environment or name in mounts:
            return f"{entry.name} {b' '.join(command.split(bytes(1))[:6])!r}"
        return ""

    return look


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An isolated criu-agent; at the end everything of it is ended, and nothing may be left."""
    before = traces(tmp_path)
    made = Agent(tmp_path)
    yield made
    made.clean_up()
    deadline = time.monotonic() + 30
    while True:
        now = traces(tmp_path, made.run_ids)
        left = {kind: [one for one in found if one not in before[kind]] for kind, found in now.items()}
        if not any(left.values()):
            break
        assert time.monotonic() < deadline, f"left behind: { {kind: one for kind, one in left.items() if one} }"
        time.sleep(0.1)


@pytest.fixture
def screen(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    """A terminal for `agent`."""
    # Not below the agent's directory: its tmux server would look like something left behind.
    made = Screen(agent, tmp_path_factory.mktemp("tmux") / "socket")
    try:
        made.await_text(r"^\$")
        yield made
    finally:
        made.close()


@pytest.fixture
def repository() -> Repository:
    """A repository in memory."""
    return opened()


@pytest.fixture
def shelf() -> Shelf:
    """Where a tree can be saved, without a repository."""
    return Shelf()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """An empty directory, to rebuild a tree in."""
    path = tmp_path / "into"
    path.mkdir()
    return path


@pytest.fixture
def ended() -> Iterator[list["subprocess.Popen[Any]"]]:
    """Processes that a test started beside the runs; killed at the end, by pid."""
    started: list[subprocess.Popen[Any]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
