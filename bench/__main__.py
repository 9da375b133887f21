"""`python -m bench`: criu-agent beside plain `criu dump` and `criu restore` of the same program, in one run.

Frozen times are CRIU's own figure (stats-dump), both from a tmpfs, of the same boxed tree in turns. Total times are
of whole commands: ours hash, compress, encrypt and store every byte durably, plain CRIU leaves it in the tmpfs. A
suspended run is frozen until its snapshot is durable. Sizes in MB may be given as arguments.
"""

import sys
from functools import partial
from pathlib import Path

from bench.common import ROUNDS, Boxed, Time, median, place, plain_cycle, print_table, quiet, ratio, timed, tmpfs

SIZES = [64, 512, 2048]
_HEADER = ["MB", "frozen plain ms", "ours ms", "ratio", "dump plain s", "checkpoint s", "suspend s"]


def measure(size: int, here: Path) -> list[str]:
    plain_frozen, frozen, checkpoint, suspend, resume, plain_dump, plain_restore = ([] for _ in range(7))
    with Boxed(size, here / "work") as run:
        for number in range(ROUNDS):
            for ours in (bool(number % 2), not number % 2):  # each of the two is the first one in turn
                if ours:
                    taken = run.checkpoint("--full")
                    frozen.append(taken.frozen_ms)
                    checkpoint.append(taken.time.wall)
                    continue
                with tmpfs(here / "images") as images:
                    plain_frozen.append(run.dump(images)[0])
        for _ in range(ROUNDS):
            dump, restore = plain_cycle(size, here / "images")
            plain_dump.append(dump.wall)
            plain_restore.append(restore.wall)
            suspend.append(run.suspend().wall)
            resume.append(run.resume().wall)
    seconds = (plain_dump, checkpoint, suspend, plain_restore, resume)
    return [
        str(size),
        f"{median(plain_frozen):.0f}",
        f"{median(frozen):.0f}",
        ratio(frozen, plain_frozen),
        *(f"{median(one):.2f}" for one in seconds),
    ]


def command_times() -> None:
    program = str(Path(sys.executable).with_name("criu-agent"))
    commands = {"python itself": [sys.executable, "-c", "pass"]}
    commands |= {f"criu-agent {argument}": [program, argument] for argument in ("--help", "ps", "version")}
    times: dict[str, list[Time]] = {name: [] for name in commands}
    for _ in range(9):
        for name, argv in commands.items():
            times[name].append(timed(partial(quiet, argv)))
    for name, took in times.items():
        wall, cpu = [one.wall * 1000 for one in took], [one.cpu * 1000 for one in took]
        print(f"{name:<18} {median(wall):4.0f} ms, {min(wall):.0f} at least; CPU {median(cpu):.0f} ms")


def main() -> None:
    with place() as here:
        command_times()
        rows = [measure(size, here) for size in ([int(word) for word in sys.argv[1:]] or SIZES)]
        print_table([[*_HEADER, "restore plain s", "resume s"], *rows])


if __name__ == "__main__":
    main()
