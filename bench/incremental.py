"""`python -m bench.incremental`: what a further snapshot costs, against restic and borg, in one run on one disk.

Between two snapshots 5 % of the pages are changed (bench/program.py). Ours is the whole `criu-agent checkpoint` into
its encrypted repository; theirs is `criu dump --leave-running` of the same tree at the same moment into a tmpfs and
the backup of that directory. New bytes are what the files of the repository grow by. MB may be given as an argument.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.backups import Borg, Restic
from bench.common import ROUNDS, Boxed, Time, median, place, plain_cycle, print_table, ratio, stored, timed, tmpfs


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of the first snapshot, of each further one, and of restores of the last one: MB that are new, and times."""

    first: list[tuple[float, Time]] = field(default_factory=list)
    further: list[tuple[float, Time]] = field(default_factory=list)
    alone: list[Time] = field(default_factory=list)  # of the backup, without the dump
    restore: list[Time] = field(default_factory=list)

    def note(self, first: bool, grown: int, took: Time) -> None:
        (self.first if first else self.further).append((grown / 1e6, took))


class Compared:
    """One run, and three repositories that get the same snapshots of it."""

    def __init__(self, run: Boxed, here: Path) -> None:
        self.costs = {"ours": Costs(), "restic": Costs(), "borg": Costs()}
        self._run = run
        self._repository = Path(os.environ["CRIU_AGENT_REPOSITORY"])
        self._here = here
        self._backups: dict[str, Restic | Borg] = {"restic": Restic(here), "borg": Borg(here)}
        self._phases: list[dict[str, int]] = []

    def snapshot(self, *, first: bool = False, ours_last: bool = False) -> None:
        if not ours_last:
            self._ours(first)
        with tmpfs(self._here / "images") as images:
            _, dump = self._run.dump(images)
            for name, backup in self._backups.items():
                self._theirs(name, backup, images, dump, first)
        if ours_last:
            self._ours(first)

    def _ours(self, first: bool) -> None:
        before = stored(self._repository)
        taken = self._run.checkpoint()
        if not first:
            self._phases.append(taken.phases)
        self.costs["ours"].note(first, stored(self._repository) - before, taken.time)

    def _theirs(self, name: str, backup: Restic | Borg, images: Path, dump: Time, first: bool) -> None:
        before = stored(backup.repository)
        took = timed(partial(backup.backup, images))
        self.costs[name].note(first, stored(backup.repository) - before, dump + took)
        if not first:
            self.costs[name].alone.append(took)

    def restore(self, size: int) -> None:
        """Ours is a whole `resume`; to theirs what plain CRIU needs to restore that program is added."""
        for _ in range(ROUNDS):
            self._run.suspend()
            self.costs["ours"].restore.append(self._run.resume())
            _, criu = plain_cycle(size, self._here / "images")
            for name, backup in self._backups.items():
                with tmpfs(self._here / "restored") as target:
                    self.costs[name].restore.append(criu + timed(partial(backup.restore, target)))

    def phases(self) -> dict[str, float]:
        return {phase: median([one[phase] for one in self._phases]) for phase in self._phases[0]}


def report(size: int, compared: Compared) -> None:
    rows: list[tuple[str, Callable[[Costs], list[float]]]] = [
        ("first snapshot, MB", lambda one: [new for new, _ in one.first]),
        ("first snapshot, s", lambda one: [took.wall for _, took in one.first]),
        ("further snapshot, new MB", lambda one: [new for new, _ in one.further]),
        ("further snapshot, s", lambda one: [took.wall for _, took in one.further]),
        ("further snapshot, CPU s", lambda one: [took.cpu for _, took in one.further]),
        ("  backup alone, s", lambda one: [took.wall for took in one.alone]),
        ("restore, s", lambda one: [took.wall for took in one.restore]),
    ]
    ours, restic, borg = compared.costs.values()
    table = [[f"{size} MB, 5 % of the pages changed", "ours", "restic", "borg", "ours/restic", "ours/borg"]]
    for title, of in rows:
        cells = [f"{median(of(one)):.2f}" for one in (ours, restic, borg) if of(one)]
        if len(cells) < 3:
            table.append([title, "", *cells, "", ""])
        else:
            table.append([title, *cells, ratio(of(ours), of(restic)), ratio(of(ours), of(borg))])
    print_table(table)
    print("ours, by phase:", ", ".join(f"{phase} {ms:.0f} ms" for phase, ms in compared.phases().items()))


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 570
    with place() as here, Boxed(size, here / "work") as run:
        compared = Compared(run, here)
        compared.snapshot(first=True)
        for number in range(ROUNDS):
            run.dirty()
            compared.snapshot(ours_last=bool(number % 2))
        compared.restore(size)
        report(size, compared)


if __name__ == "__main__":
    main()
