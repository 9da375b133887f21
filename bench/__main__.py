"""`make bench`: criu-agent beside plain `criu dump` and `criu restore` of the same program, in one run.

Frozen times are CRIU's own figure (stats-dump), both from a tmpfs, of the same boxed tree in turns. Total times are
of whole commands: ours hash, compress and store every byte durably, plain CRIU leaves it in the tmpfs.
Machines are noisy: read the ratios. Sizes in MB may be given as arguments; ROUNDS sets how often each is measured.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from criu_agent import config, runs
from criu_agent.box.mounts import Layout
from criu_agent.criu import command, messages_pb2
from criu_agent.ops import live

SIZES = [64, 512, 2048]
# The box has a /tmp of its own: our virtual environment may lie below the host's.
PYTHON = str(Path(sys.base_prefix) / "bin/python3")
ROUNDS = int(os.environ.get("ROUNDS", "3"))
# A quarter of the memory is random, a quarter zeros that were written, half of it text, as agents have it.
PROGRAM = """
import os, sys, time
size = int(sys.argv[1]) << 20
text = b"".join(b"step %d of the plan: ok\\n" % n for n in range(200000))
text = (text * (size // 2 // len(text) + 1))[: size // 2]
parts = [bytearray(os.urandom(size // 4)), bytearray(size // 4), bytearray(text)]
for at in range(0, size // 4, 4096):
    parts[1][at] = 0
print("ready", flush=True)
while True:
    time.sleep(0.2)
"""


def agent(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "criu_agent", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def quiet(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median(values: list[float]) -> float:
    return statistics.median(values)


class Tmpfs:
    """A directory for plain CRIU's images, of the kind that criu-agent uses."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        self.path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "images", str(self.path)], check=True)
        return self.path

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True)
        self.path.rmdir()


def layout_of(name: str) -> tuple[Layout, int]:
    settings = config.load()
    run = runs.find(settings, name)
    return live.layout(settings, run.spec), run.state.root_pid


def plain_frozen_ms(name: str, place: Path) -> float:
    """Dump the boxed tree with plain CRIU and the options of the product; how long it was frozen."""
    layout, pid = layout_of(name)
    with Tmpfs(place / "images") as images:
        argv = command.dump(
            config.load().criu,
            pid=pid,
            images=images,
            work=images,
            log_file="dump.log",
            externals=layout.dump_externals(),
            stage_script=Path("/bin/true"),
            leave_running=True,
            network_lock="skip",
        )
        subprocess.run(argv, check=True, capture_output=True)
        return messages_pb2.Stats.FromString((images / "stats-dump").read_bytes()[12:]).dump.frozen_time / 1000


def our_checkpoint(name: str) -> tuple[float, float]:
    """(frozen ms, whole command s) of a checkpoint that leaves the run running."""
    said: list[str] = []
    total = timed(lambda: said.append(agent("--json", "checkpoint", name)))
    summary = json.loads(said[0].splitlines()[-1])
    return float(summary["frozen_ms"]), total


def plain_cycle(size: int, place: Path) -> tuple[float, float]:
    """(dump s, restore s) of the same program without a box, with plain CRIU."""
    criu = str(config.load().criu)
    common = ["--no-default-config", "--manage-cgroups=ignore", "--shell-job", "-v1"]
    with Tmpfs(place / "plain") as images, open(images / "out", "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(size)], stdin=subprocess.DEVNULL, stdout=out, start_new_session=True
        )
        while b"ready" not in (images / "out").read_bytes():
            time.sleep(0.02)
        where = ["--images-dir", str(images), *common]
        dump = timed(lambda: quiet([criu, "dump", "--tree", str(process.pid), *where]))
        process.wait()
        restore = timed(lambda: quiet([criu, "restore", "-d", "-S", *where]))
        os.kill(process.pid, 9)
        os.waitpid(process.pid, 0)
    return dump, restore


def measure(size: int, place: Path) -> list[str]:
    agent("run", "-d", "--name", "bench", "-w", str(place), "--", PYTHON, "-c", PROGRAM, str(size))
    while "ready" not in agent("logs", "bench"):
        time.sleep(0.1)
    plain_frozen, frozen, checkpoint, suspend, resume, plain_dump, plain_restore = ([] for _ in range(7))
    for _ in range(ROUNDS):
        plain_frozen.append(plain_frozen_ms("bench", place))
        ms, total = our_checkpoint("bench")
        frozen.append(ms)
        checkpoint.append(total)
    for _ in range(ROUNDS):
        dump, restore = plain_cycle(size, place)
        plain_dump.append(dump)
        plain_restore.append(restore)
        suspend.append(timed(lambda: agent("suspend", "bench")))
        resume.append(timed(lambda: agent("resume", "-d", "bench")))
    agent("rm", "-f", "bench")
    return [
        f"{size} MB",
        f"{median(plain_frozen):.0f}",
        f"{median(frozen):.0f}",
        f"{median([ours / theirs for ours, theirs in zip(frozen, plain_frozen, strict=True)]):.2f}",
        f"{median(plain_dump):.2f}",
        f"{median(checkpoint):.2f}",
        f"{median(suspend):.2f}",
        f"{median(plain_restore):.2f}",
        f"{median(resume):.2f}",
    ]


def print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def command_times() -> None:
    program = str(Path(sys.executable).with_name("criu-agent"))
    base = median([timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)) for _ in range(9)])
    for arguments in (["--help"], ["ps"], ["version"]):
        argv = [program, *arguments]
        took = median(
            [timed(lambda argv=argv: subprocess.run(argv, check=True, capture_output=True)) for _ in range(9)]
        )
        print(f"criu-agent {arguments[0]:<8} {took * 1000:4.0f} ms  (python itself {base * 1000:.0f} ms)")


def main() -> None:
    place = Path(tempfile.mkdtemp(prefix="criu-agent-bench-"))
    for variable, name in (("STATE_DIR", "state"), ("RUNTIME_DIR", "run"), ("REPOSITORY", "repository")):
        os.environ[f"CRIU_AGENT_{variable}"] = str(place / name)
    (place / "work").mkdir()
    header = ["size", "frozen plain ms", "frozen ours ms", "ratio", "dump plain s", "checkpoint s", "suspend s"]
    rows = [[*header, "restore plain s", "resume s"]]
    try:
        command_times()
        rows += [measure(size, place / "work") for size in ([int(word) for word in sys.argv[1:]] or SIZES)]
        print_table(rows)
    finally:
        subprocess.run([sys.executable, "-m", "criu_agent", "rm", "-f", "bench"], capture_output=True, check=False)
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
