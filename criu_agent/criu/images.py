"""The place of CRIU's image files: a private tmpfs that is limited in size. No image ever lies on a disk."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from criu_agent import log
from criu_agent.errors import HostCannot, Refused
from criu_agent.linux import files, syscalls

_FIXED = 64 << 20  # bytes for everything that does not grow with memory: small images, tmpfs archives
_KEEP_FREE = 128 << 20  # bytes that stay available to the host
# What not every kernel has, the best first. noswap: since Linux 6.4. huge: a dump spends most of its time in getting
# pages for the images, one by one (lab/performance.md section 1); here it gets hundreds at a time, and small files
# none that they do not fill. Not where the kernel has no transparent huge pages (Documentation/mm/transhuge).
_OPTIONS = (",noswap,huge=within_size", ",noswap", ",huge=within_size", "")


def capacity(memory: int) -> int:
    """Bytes of tmpfs for the images of a tree with `memory` bytes to dump: a fifth more, since it still runs."""
    return memory + memory // 5 + _FIXED


def available_memory(meminfo: str) -> int:
    """MemAvailable in bytes, from the text of /proc/meminfo."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no MemAvailable in /proc/meminfo")


def check_memory(need: int) -> None:
    """Refused when the host has not `need` bytes of memory for the images: better now than in the freeze."""
    have = available_memory(Path("/proc/meminfo").read_text()) - _KEEP_FREE
    if need > have:
        raise Refused(
            f"the images need up to {need >> 20} MiB of memory and {max(have, 0) >> 20} MiB are available",
            hint="free memory on this host, or stop what the agent no longer needs",
            agent_state="running, unharmed",
        )


class ImageDir:
    """A tmpfs mounted on `path` in the caller's (private) mount namespace; unmounted at the end."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        files.make_private(path)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        options = f"mode=0700,size={size}"
        for more in _OPTIONS:
            try:
                syscalls.mount("criu-images", str(path), "tmpfs", flags, options + more)
            except OSError as error:
                if more:
                    continue
                raise HostCannot(
                    f"cannot mount a tmpfs for the images: {error.strerror}", hint="criu-agent doctor"
                ) from error
            return

    def __enter__(self) -> "ImageDir":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Detached: a criu that still ends may hold it; the memory is freed with the last user.
        syscalls.umount2(str(self.path), syscalls.MNT_DETACH)
        self.path.rmdir()

    def fill(self) -> None:
        """Leave no room, so that a dump that writes here fails and undoes itself.

        Killing CRIU harms the agent in more than half of the cases, a full file system in none of 44
        (lab/failures.md). The size is set to what is used already, which takes no memory as a file would.
        """
        flags = syscalls.MS_REMOUNT | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        for _ in range(1000):
            facts = os.statvfs(self.path)
            used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
            with suppress(OSError):  # it grew meanwhile: a tmpfs cannot be made smaller than its content
                syscalls.mount("criu-images", str(self.path), "tmpfs", flags, f"size={max(used, 4096)}")
            facts = os.statvfs(self.path)
            if facts.f_bfree <= 1:  # an empty tmpfs keeps room for a page, and no dump is so small
                log.info("filled the image tmpfs at %d bytes", used)
                return
        raise RuntimeError("the image tmpfs could not be filled")

    def files(self) -> Iterator[Path]:
        """The images, in order of their names."""
        yield from sorted(path for path in self.path.iterdir() if path.suffix == ".img")
