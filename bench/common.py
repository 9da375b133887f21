"""What the parts of the bench share: a place on the disk, commands, times, and the run that is measured.

Machines are noisy, and shared: everything that is compared is measured in one run, in turns, and ratios are what to
read. ROUNDS sets how often.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from criu_agent import config, runs
from criu_agent.criu import command, messages_pb2
from criu_agent.ops import live

ROUNDS = int(os.environ.get("ROUNDS", "3"))
PROGRAM = Path(__file__).with_name("program.py").read_text()
# The box has a /tmp of its own: our virtual environment may lie below the host's.
PYTHON = str(Path(sys.base_prefix) / "bin/python3")
_NAME = "bench"


@contextmanager
def place() -> Iterator[Path]:
    """An empty directory on a disk, where everything is: our state and repository, and those of the others."""
    path = Path(tempfile.mkdtemp(prefix="criu-agent-bench-", dir="/var/tmp"))
    for variable, name in (("STATE_DIR", "state"), ("RUNTIME_DIR", "run"), ("REPOSITORY", "repository")):
        os.environ[f"CRIU_AGENT_{variable}"] = str(path / name)
    (path / "work").mkdir()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        print(f"load {os.getloadavg()[0]:.1f} at the end")


@contextmanager
def tmpfs(path: Path) -> Iterator[Path]:
    """A directory for plain CRIU's images, of the kind that criu-agent uses."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "images", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()


def quiet(argv: Sequence[str], **options: object) -> str:
    """Run it, and fail with what it said; its standard output."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{argv[0]}: {done.stdout}{done.stderr}"
    return str(done.stdout)


def agent(*arguments: str) -> str:
    return quiet([sys.executable, "-m", "criu_agent", *arguments])


@dataclass(frozen=True)
class Time:
    """Seconds of the clock, and of processors: with other work on the machine these say more."""

    wall: float
    cpu: float

    def __add__(self, other: "Time") -> "Time":
        return Time(self.wall + other.wall, self.cpu + other.cpu)


def timed(work: Callable[[], object], *, beside: int | None = None) -> Time:
    """How long it takes. beside: a process that works for it, with its children; others must be children of ours.

    What was written before is on the disk first: nobody pays for another one.
    """
    os.sync()
    cpu, began = _cpu(beside), time.perf_counter()
    work()
    return Time(time.perf_counter() - began, _cpu(beside) - cpu)


def _cpu(beside: int | None) -> float:
    """Seconds that ended children have used, and that process with its own."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime + (sum(psutil.Process(beside).cpu_times()[:4]) if beside else 0)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The median of the ratios of the rounds, and the smallest and the largest of them."""
    all_of_them = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    return f"{median(all_of_them):.2f} ({all_of_them[0]:.2f} to {all_of_them[-1]:.2f})"


def stored(repository: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in repository.rglob("*") if path.is_file())


def print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells), flush=True)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A checkpoint: the whole command, and what it said of itself."""

    time: Time
    frozen_ms: float
    phases: dict[str, int]


class Boxed:
    """The program as a run of criu-agent, which plain CRIU can dump as well."""

    def __init__(self, size: int, work: Path) -> None:
        """size: MB of memory."""
        self._dirtied = 0
        agent("run", "-d", "--name", _NAME, "-w", str(work), "--", PYTHON, "-c", PROGRAM, str(size))
        self._await("ready")
        self._run = runs.find(config.load(), _NAME)

    def __enter__(self) -> "Boxed":
        return self

    def __exit__(self, *_: object) -> None:
        agent("rm", "-f", _NAME)

    def _await(self, text: str) -> None:
        while text not in agent("logs", _NAME):
            time.sleep(0.1)

    def dirty(self) -> None:
        self._dirtied += 1
        agent("kill", "-s", "USR1", _NAME)
        self._await(f", time {self._dirtied}\n")

    def checkpoint(self, *options: str) -> Taken:
        said: list[str] = []
        supervisor = self._run.state.supervisor_pid
        time = timed(lambda: said.append(agent("--json", "checkpoint", *options, _NAME)), beside=supervisor)
        summary = json.loads(said[0].splitlines()[-1])
        return Taken(time=time, frozen_ms=summary["frozen_ms"], phases=summary["phases"])

    def suspend(self) -> Time:
        return timed(lambda: agent("suspend", _NAME))

    def resume(self) -> Time:
        took = timed(lambda: agent("resume", "-d", _NAME))
        self._run = runs.find(config.load(), _NAME)
        return took

    def dump(self, images: Path) -> tuple[float, Time]:
        """Plain CRIU with the options of the product; (frozen ms, whole command). The run goes on."""
        settings = config.load()
        argv = command.dump(
            settings.criu,
            pid=self._run.state.root_pid,
            images=images,
            work=images,
            log_file="dump.log",
            externals=live.layout(settings, self._run.spec).dump_externals(),
            stage_script=Path("/bin/true"),
            leave_running=True,
            network_lock="skip",
        )
        took = timed(lambda: quiet(argv))
        stats = messages_pb2.Stats.FromString((images / "stats-dump").read_bytes()[12:]).dump
        return stats.frozen_time / 1000, took


def plain_cycle(size: int, images: Path) -> tuple[Time, Time]:
    """(dump, restore) of the same program without a box, with plain CRIU, in a tmpfs."""
    criu = str(config.load().criu)
    common = ["--no-default-config", "--manage-cgroups=ignore", "--shell-job", "-v1", "--images-dir", str(images)]
    with tmpfs(images), open(images / "out", "wb") as out:
        argv = [PYTHON, "-c", PROGRAM, str(size)]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, start_new_session=True)
        while b"ready" not in (images / "out").read_bytes():
            time.sleep(0.02)
        dump = timed(lambda: quiet([criu, "dump", "--tree", str(process.pid), *common]))
        process.wait()
        restore = timed(lambda: quiet([criu, "restore", "-d", "-S", *common]))
        os.kill(process.pid, 9)
        os.waitpid(process.pid, 0)
    return dump, restore
