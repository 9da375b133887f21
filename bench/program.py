"""The program that is measured; it is given to python as a text, and needs nothing but the standard library.

MB of memory in one mapping: half of it text, as agents have it (sources, never twice in the same order), a quarter
random, a quarter zeros that were written. At each SIGUSR1 5 % of the pages are changed, at random, in runs of 1 to
8, a few bytes here and there in each.
"""

import mmap
import os
import random
import signal
import sys
from pathlib import Path

PAGE = 4096
DIRTY = 0.05


def fill(memory: mmap.mmap, chance: random.Random) -> None:
    half, quarter = len(memory) // 2, len(memory) // 4
    sources = sorted(Path(os.__file__).parent.rglob("*.py"))
    while memory.tell() < half:
        chance.shuffle(sources)
        for path in sources:
            memory.write(path.read_bytes()[: half - memory.tell()])
    while memory.tell() < half + quarter:
        memory.write(os.urandom(min(1 << 20, half + quarter - memory.tell())))
    while memory.tell() < len(memory):
        memory.write(bytes(min(1 << 20, len(memory) - memory.tell())))


def dirty(memory: mmap.mmap, chance: random.Random) -> int:
    """How many pages were changed."""
    pages, changed = len(memory) // PAGE, 0
    while changed < pages * DIRTY:
        first = chance.randrange(pages)
        for page in range(first, min(first + chance.randint(1, 8), pages)):
            for _ in range(20):
                at = page * PAGE + chance.randrange(PAGE - 8)
                memory[at : at + 8] = chance.randbytes(8)
            changed += 1
    return changed


def main() -> None:
    size = int(sys.argv[1]) * 1000 * 1000 // PAGE * PAGE
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    chance = random.Random(size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    fill(memory, chance)
    print("ready", flush=True)
    number = 0
    while signal.sigwait({signal.SIGUSR1}):
        number += 1
        print(f"dirtied {dirty(memory, chance)} pages, time {number}", flush=True)


if __name__ == "__main__":
    main()
