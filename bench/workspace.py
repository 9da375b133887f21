"""`python -m bench.workspace`: what a snapshot of a real workspace costs, beside restic, rsync and podman.

A `node_modules` that npm made, and a git checkout (this project's own, or BENCH_GIT: whatever `git clone` takes).
Between two snapshots every hundredth file is changed and as many are new. Ours is the whole `criu-agent checkpoint`
of a program that sleeps in the workspace, with its memory and what it has mapped; restic's is `restic backup`,
rsync's a copy with the unchanged files as hard links to the one before, podman's `podman commit` of a container
whose layer holds the same files, as `podman container checkpoint --export` has them in its archive. New bytes are
what the disk holds more of.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from bench.backups import Restic
from bench.common import ROUNDS, Time, agent, median, place, print_table, quiet, ratio, timed
from criu_agent import config, runs

PACKAGES = ["vite@6.4.6", "typescript@5.8.3", "eslint@9.26.0"]
_RUN = "bench"


class Tool(Protocol):
    """place: what it fills. prepare: what it needs and is not counted."""

    place: Path

    def prepare(self) -> None: ...
    def snapshot(self) -> Time: ...
    def close(self) -> None: ...


class Ours:
    def __init__(self, here: Path, workspace: Path) -> None:
        self.place = Path(os.environ["CRIU_AGENT_REPOSITORY"])
        self.frozen: list[int] = []
        agent("run", "-d", "--name", _RUN, "-w", str(workspace), "--", "sleep", "infinity")
        self._supervisor = runs.find(config.load(), _RUN).state.supervisor_pid

    def prepare(self) -> None:
        pass

    def snapshot(self) -> Time:
        said: list[str] = []
        took = timed(lambda: said.append(agent("--json", "checkpoint", _RUN)), beside=self._supervisor)
        self.frozen.append(json.loads(said[0].splitlines()[-1])["frozen_ms"])
        return took

    def close(self) -> None:
        agent("rm", "-f", _RUN)


class ByRestic:
    def __init__(self, here: Path, workspace: Path) -> None:
        self._restic, self._workspace = Restic(here), workspace
        self.place = self._restic.repository

    def prepare(self) -> None:
        pass

    def snapshot(self) -> Time:
        return timed(lambda: self._restic.backup(self._workspace))

    def close(self) -> None:
        pass


class ByRsync:
    def __init__(self, here: Path, workspace: Path) -> None:
        self.place, self._workspace, self._last = here / "rsync", workspace, 0
        self.place.mkdir()

    def prepare(self) -> None:
        pass

    def snapshot(self) -> Time:
        before, self._last = self.place / str(self._last), self._last + 1
        argv = ["rsync", "--archive", "--hard-links", f"--link-dest={before}", f"{self._workspace}/"]
        return timed(lambda: quiet([*argv, str(self.place / str(self._last))]))

    def close(self) -> None:
        pass


class ByPodman:
    """The workspace is copied into the container's layer, and brought up to date there: that is not counted."""

    def __init__(self, here: Path, workspace: Path) -> None:
        self.place, self._workspace = here / "podman", workspace
        self._podman = ["podman", "--root", str(self.place), "--runroot", str(here / "podman-run")]
        empty = here / "empty"
        empty.mkdir()
        quiet(["tar", "-cf", str(here / "empty.tar"), "-C", str(empty), "."])
        quiet([*self._podman, "import", "--quiet", str(here / "empty.tar"), "empty"])
        quiet([*self._podman, "create", "--name", _RUN, "empty", "/nothing"])
        self._layer = Path(quiet([*self._podman, "mount", _RUN]).strip())

    def prepare(self) -> None:
        quiet(["rsync", "--archive", "--hard-links", "--delete", f"{self._workspace}/", f"{self._layer}/workspace"])

    def snapshot(self) -> Time:
        return timed(lambda: quiet([*self._podman, "commit", "--quiet", _RUN]))

    def close(self) -> None:
        quiet([*self._podman, "rm", "--force", _RUN])


def node_modules(workspace: Path) -> None:
    quiet(["npm", "install", "--silent", "--no-fund", "--no-audit", "--ignore-scripts", *PACKAGES], cwd=workspace)


def git_checkout(workspace: Path) -> None:
    origin = os.environ.get("BENCH_GIT", str(Path(__file__).parents[1]))
    quiet(["git", "clone", "--quiet", "--no-local", origin, str(workspace)])


def change(workspace: Path, number: int) -> None:
    """Every hundredth file gets a line more, and a new one lies beside it."""
    files = sorted(path for path in workspace.rglob("*") if path.is_file() and not path.is_symlink())
    for path in files[number::100]:
        path.write_bytes(path.read_bytes() + f"// change {number}\n".encode())
        path.with_name(f"new-{number}-{path.name}").write_bytes(os.urandom(2000))


def used(directory: Path) -> int:
    """Bytes of the disk that it takes, whatever has several names once. A repository is made at its first use."""
    if not directory.exists():
        return 0
    return int(quiet(["du", "--summarize", "--block-size=1", str(directory)]).split()[0])


@contextmanager
def all_of_them(here: Path, workspace: Path) -> Iterator[dict[str, Tool]]:
    made: dict[str, Tool] = {}
    kinds: dict[str, Callable[[Path, Path], Tool]] = {
        "ours": Ours,
        "restic": ByRestic,
        "rsync": ByRsync,
        "podman": ByPodman,
    }
    try:
        for name, kind in kinds.items():
            made[name] = kind(here, workspace)
        yield made
    finally:
        for one in made.values():
            one.close()


def compare(title: str, fill: Callable[[Path], None]) -> None:
    with place() as here:
        workspace = here / "work"
        fill(workspace)
        files = sum(1 for _ in workspace.rglob("*"))
        with all_of_them(here, workspace) as tools:
            taken: dict[str, list[tuple[Time, int]]] = {name: [] for name in tools}
            for number in range(1 + ROUNDS):
                for name in sorted(tools, reverse=bool(number % 2)):
                    tools[name].prepare()
                    before = used(tools[name].place)
                    took = tools[name].snapshot()
                    taken[name].append((took, used(tools[name].place) - before))
                change(workspace, number)
            report(f"{title}, {files} files, {used(workspace) / 1e6:.0f} MB", taken)
            frozen = tools["ours"].frozen if isinstance(tools["ours"], Ours) else []
            print(f"ours: frozen {frozen[0]} ms at the first, {median(frozen[1:]):.0f} ms at further ones")


def report(title: str, taken: dict[str, list[tuple[Time, int]]]) -> None:
    table = [[title, *taken, *(f"ours/{name}" for name in taken if name != "ours")]]
    rows: list[tuple[str, slice, Callable[[tuple[Time, int]], float]]] = [
        ("first snapshot, s", slice(1), lambda one: one[0].wall),
        ("first snapshot, new MB", slice(1), lambda one: one[1] / 1e6),
        ("further snapshot, s", slice(1, None), lambda one: one[0].wall),
        ("further snapshot, CPU s", slice(1, None), lambda one: one[0].cpu),
        ("further snapshot, new MB", slice(1, None), lambda one: one[1] / 1e6),
    ]
    for name, which, value in rows:
        figures = {tool: [value(one) for one in some[which]] for tool, some in taken.items()}
        ratios = [ratio(figures["ours"], theirs) for tool, theirs in figures.items() if tool != "ours"]
        table.append([name, *(f"{median(some):.2f}" for some in figures.values()), *ratios])
    print_table(table)


def main() -> None:
    kinds = {"node_modules": node_modules, "git": git_checkout}
    for name in sys.argv[1:] or kinds:
        compare(name, kinds[name])


if __name__ == "__main__":
    main()
