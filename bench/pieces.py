"""`python -m bench.pieces`: how a process's memory is saved, saved again and loaded, without CRIU and without a key.

The memory is half text, a quarter random, a quarter zeros; for the second save 5 % of its pages are changed at
random in runs of 1 to 8. Beside it, in the same run: `tar | zstd -1 -T2`. Both read from a tmpfs; stores are in
memory, so no disk is measured. Machines are noisy: read the ratios.
MB may be given as an argument, and GENERATIONS how many more saves follow.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from criu_agent.model import Blob, Pack, PageRun, Source
from criu_agent.repo import pages
from criu_agent.repo.opened import Opened
from criu_agent.repo.packs import SEGMENT, Writer, prefix
from criu_agent.repo.reading import Reader
from criu_agent.repo.saving import Parent, Saving
from criu_agent.store.memory import MemoryStore

PAGE = 4096
DIRTY = 0.05
KEY = bytes(range(32))
CIPHER = AESGCM(KEY)
RUNS: tuple[PageRun, ...] = ((0x7F0000000, 1 << 30),)


def memory(size: int) -> bytearray:
    text = b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.rglob("*.py")))[: size // 2]
    text = (text * (size // 2 // len(text) + 1))[: size // 2]
    return bytearray(text + os.urandom(size // 4) + bytes(size - len(text) - size // 4))


def dirty(data: bytearray, chance: random.Random) -> int:
    """Change pages as an agent does: a few bytes here and there in them."""
    pages, changed = len(data) // PAGE, 0
    while changed < pages * DIRTY:
        first = chance.randrange(pages)
        for page in range(first, min(first + chance.randint(1, 8), pages)):
            for _ in range(20):
                at = page * PAGE + chance.randrange(PAGE - 8)
                data[at : at + 8] = chance.randbytes(8)
            changed += 1
    return changed


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def seal(_pack: str, parts: Sequence[bytes | memoryview], room: memoryview) -> memoryview:
    """Costs what encryption does, AES-256-GCM of 1 MiB at a time, but what it returns is plain."""
    scratch, end = bytearray(SEGMENT + 16), 0
    for part in parts:
        for start in range(0, len(part), SEGMENT):
            plain = part[start : start + SEGMENT]
            with memoryview(scratch)[: len(plain) + 16] as encrypted:
                CIPHER.encrypt_into(bytes(12), plain, None, encrypted)
            room[end : end + len(plain)] = plain
            end += len(plain)
    return room[:end]


class Ours:
    def __init__(self, cache: Path) -> None:
        self.store = MemoryStore()
        self.parent: Parent | None = None
        self.blobs: list[Blob] = []
        self.cache = cache
        self.number = 0

    def save(self, image: Path) -> tuple[float, int]:
        """Seconds, and new bytes."""
        began = time.perf_counter()
        writer = Writer(self.store, "run", seal)
        saving = Saving(key=KEY, writer=writer, parent=self.parent)
        with open(image, "rb", buffering=0) as file:
            size = image.stat().st_size
            runs = ((RUNS[0][0], size // PAGE),)
            self.blobs = saving.save([Source(stream="pagemap-1.img", size=size, content=file, runs=runs)])
        table = saving.finish()
        self.number += 1
        snapshot = f"{self.number:064x}"
        saving.remember(self.cache, snapshot)
        self.parent = Parent(table=table, hashed=pages.read(self.cache, snapshot, KEY))
        return time.perf_counter() - began, writer.added

    def load(self, path: Path) -> None:
        assert self.parent

        def segments(pack: Pack, first: int, count: int) -> Opened:
            data = self.store.objects[prefix("run") + pack.id]
            return Opened(data[first * SEGMENT : (first + count) * SEGMENT], KEY)

        reader = Reader(table=self.parent.table, segments=segments)
        with open(path, "w+b") as file:
            reader.load([(self.blobs[0], file.fileno())])


def tar_zstd(image: Path) -> tuple[float, int]:
    command = f"tar -c -C {image.parent} {image.name} | zstd -q -1 -T2 | wc -c"
    began = time.perf_counter()
    done = subprocess.run(command, shell=True, check=True, capture_output=True)
    return time.perf_counter() - began, int(done.stdout)


def row(name: str, took: float, size: int, stored: int | None = None) -> None:
    text = f"{name:<28} {took:7.2f} s  {size / took / 1e9:5.2f} GB/s"
    print(text + ("" if stored is None else f"  {stored / 1e6:8.1f} MB new"), flush=True)


def measure(size: int, place: Path, generations: int) -> None:
    chance = random.Random(3)
    data = memory(size)
    image, out = place / "pages-1.img", place / "out"
    ours = Ours(place / "hashes")

    def save(which: str) -> None:
        took, added = ours.save(image)
        row(f"packs, {which}", took, size, added)

    def load(name: str) -> None:
        row(name, timed(lambda: ours.load(out)), size)
        assert out.read_bytes() == data
        out.unlink()

    image.write_bytes(data)
    took, stored = tar_zstd(image)
    row("tar | zstd -1 -T2", took, size, stored)
    save("first save")
    load("packs, load")
    for number in range(1 + generations):
        print(f"{dirty(data, chance) / (size // PAGE):.1%} of the pages changed")
        image.write_bytes(data)
        save(f"save {number + 2}")
    load("packs, load of the last")
    assert ours.parent
    table = ours.parent.table
    print(f"{len(table.pieces)} pieces in {len(table.packs)} packs, {len(ours.blobs[0].extents)} extents")


def main() -> None:
    size = int(sys.argv[1] if len(sys.argv) > 1 else 570) * 1000 * 1000 // PAGE * PAGE
    with tempfile.TemporaryDirectory(prefix="criu-agent-bench-", dir="/dev/shm") as place:
        measure(size, Path(place), int(os.environ.get("GENERATIONS", "0")))


if __name__ == "__main__":
    main()
