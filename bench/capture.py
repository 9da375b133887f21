"""`python -m bench.capture`: how long a run is frozen with 100,000 unchanged files in its workspace, and with none.

Two runs that sleep, in turns, in one invocation. What a first snapshot of the files takes is said, too: it is taken
while the run goes on, but for what changes meanwhile. Another number of files may be given as argument.
"""

import json
import os
import sys
import time
from pathlib import Path

from bench.common import ROUNDS, agent, median, place, print_table

FILES = 100_000
_IN_ONE = 100  # directory, as in a node_modules
_SETTLED = 3  # seconds after which a file counts as unchanged


def fill(directory: Path, files: int) -> None:
    for number in range(files // _IN_ONE):
        package = directory / f"node_modules/package-{number}/lib"
        package.mkdir(parents=True)
        for name in range(_IN_ONE):
            (package / f"module-{name}.js").write_bytes(os.urandom(32) * (1 + name % 100))


def checkpoint(name: str) -> dict[str, int]:
    summary = json.loads(agent("--json", "checkpoint", name).splitlines()[-1])
    return {"frozen": summary["frozen_ms"], "stored": summary["bytes_stored"], **summary["phases"]}


def row(name: str, taken: list[dict[str, int]]) -> list[str]:
    first, *others = taken
    columns = [[one[key] for one in others] for key in ("frozen", "files", "prepare", "store")]
    return [name, str(first["frozen"]), *(f"{median(values):.0f}" for values in columns), str(others[-1]["stored"])]


def main() -> None:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else FILES
    with place() as here:
        workspaces = {"no files": here / "none", f"{files} files": here / "many"}
        for workspace in workspaces.values():
            workspace.mkdir()
        fill(here / "many", files)
        time.sleep(_SETTLED)
        taken: dict[str, list[dict[str, int]]] = {name: [] for name in workspaces}
        for workspace in workspaces.values():
            agent("run", "-d", "--name", workspace.name, "-w", str(workspace), "--", "sleep", "infinity")
        try:
            for number in range(1 + ROUNDS):
                for name in sorted(workspaces, reverse=bool(number % 2)):
                    taken[name].append(checkpoint(workspaces[name].name))
        finally:
            for workspace in workspaces.values():
                agent("rm", "-f", workspace.name)
        header = ["workspace", "first frozen ms", "frozen ms", "files ms", "prepare ms", "store ms", "stored bytes"]
        print_table([header, *(row(name, some) for name, some in taken.items())])
        none, many = (median([one["frozen"] for one in some[1:]]) for some in taken.values())
        print(f"{files} unchanged files add {many - none:.0f} ms to the frozen time")


if __name__ == "__main__":
    main()
