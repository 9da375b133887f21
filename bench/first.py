"""`python -m bench.first`: the first checkpoint of a run, end to end, against what one does by hand.

By hand: `criu dump` of the same tree into a tmpfs, then `tar | zstd -1 -T2` of that into a file, synced. Ours is the
whole `criu-agent checkpoint`, which also encrypts, names every piece and finds equal ones. In each round a new run,
and both in turns. MB of memory may be given as an argument.
"""

import os
import subprocess
import sys
from pathlib import Path

from bench.common import ROUNDS, Boxed, Taken, Time, median, place, print_table, ratio, stored, timed, tmpfs


def by_hand(run: Boxed, here: Path) -> tuple[Time, Time, int]:
    """(dump, tar and zstd, bytes)."""
    archive = here / "images.tar.zst"
    with tmpfs(here / "images") as images:
        _, dump = run.dump(images)
        pack = f"tar -c -C {images} . | zstd -q -1 -T2 -f -o {archive} && sync {archive}"
        packed = timed(lambda: subprocess.run(pack, shell=True, check=True))
    size = archive.stat().st_size
    archive.unlink()
    return dump, packed, size


def measure(size: int, here: Path) -> None:
    taken: list[Taken] = []
    dumps: list[Time] = []
    packs: list[Time] = []
    sizes: list[tuple[int, int]] = []
    repository = Path(os.environ["CRIU_AGENT_REPOSITORY"])
    for number in range(ROUNDS):
        with Boxed(size, here / "work") as run:
            before = stored(repository)
            if number % 2:
                taken.append(run.checkpoint())
            dump, packed, archived = by_hand(run, here)
            if not number % 2:
                taken.append(run.checkpoint())
            dumps.append(dump)
            packs.append(packed)
            sizes.append((stored(repository) - before, archived))
    ours = [one.time for one in taken]
    theirs = [dump + packed for dump, packed in zip(dumps, packs, strict=True)]
    print_table(
        [
            [f"first checkpoint of {size} MB", "ours", "by hand", "ratio"],
            _row("s", [one.wall for one in ours], [one.wall for one in theirs]),
            ["  criu dump s", "", f"{median([one.wall for one in dumps]):.2f}", ""],
            ["  tar | zstd s", "", f"{median([one.wall for one in packs]):.2f}", ""],
            _row("CPU s", [one.cpu for one in ours], [one.cpu for one in theirs]),
            _row("MB", [new / 1e6 for new, _ in sizes], [new / 1e6 for _, new in sizes]),
        ]
    )
    phases = {phase: median([one.phases[phase] for one in taken]) for phase in taken[0].phases}
    print("ours, by phase:", ", ".join(f"{phase} {ms:.0f} ms" for phase, ms in phases.items()))


def _row(title: str, ours: list[float], theirs: list[float]) -> list[str]:
    return [title, f"{median(ours):.2f}", f"{median(theirs):.2f}", ratio(ours, theirs)]


def main() -> None:
    with place() as here:
        measure(int(sys.argv[1]) if len(sys.argv) > 1 else 570, here)


if __name__ == "__main__":
    main()
