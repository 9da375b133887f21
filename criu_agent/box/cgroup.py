"""The cgroup of a run: version 2, on hosts with v2, hybrid or v1 hierarchies (man 7 cgroups).

Only the core files are used (cgroup.procs, cgroup.kill, cgroup.freeze), no controller; so a version 2
hierarchy that is mounted beside v1 controllers serves as well, and where none is mounted we mount one of our own.
"""

import errno
import time
from contextlib import suppress
from pathlib import Path

from criu_agent.errors import Failure, HostCannot
from criu_agent.linux import files, syscalls

_PARENT = "criu-agent"


def find_root(mountinfo: str) -> Path | None:
    """Where a cgroup2 hierarchy is mounted, from the text of /proc/self/mountinfo."""
    for line in mountinfo.splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            return Path(fields[4])
    return None


def layout(mountinfo: str) -> str:
    """The hierarchies in the text of /proc/self/mountinfo: "v2", "v1", "hybrid" for both, or "none"."""
    types = {fields[fields.index("-") + 1] for fields in map(str.split, mountinfo.splitlines())}
    return {
        (True, False): "v2",
        (False, True): "v1",
        (True, True): "hybrid",
        (False, False): "none",
    }["cgroup2" in types, "cgroup" in types]


def root(private_mount: Path) -> Path:
    """The cgroup2 hierarchy; without one it is mounted on `private_mount` (in the caller's mount namespace)."""
    found = find_root(Path("/proc/self/mountinfo").read_text())
    if found is not None:
        return found
    files.make_private(private_mount)
    try:
        syscalls.mount("cgroup2", str(private_mount), "cgroup2")
    except OSError as error:
        raise HostCannot(
            f"cannot mount a cgroup2 hierarchy: {error.strerror}",
            hint="criu-agent doctor says what is missing",
        ) from error
    return private_mount


class Cgroup:
    """One cgroup directory. `kill` ends every process in it, also one that forks meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, hierarchy: Path, name: str) -> "Cgroup":
        """Make `criu-agent/<name>` in the hierarchy; it may exist already, empty."""
        path = hierarchy / _PARENT / name
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HostCannot(
                f"cannot make the cgroup {path}: {error.strerror}", hint="run criu-agent doctor"
            ) from error
        if not (path / "cgroup.kill").exists():
            raise HostCannot("the kernel has no cgroup.kill", hint="Linux 5.14 or newer is needed")
        return cls(path)

    @classmethod
    def existing(cls, hierarchy: Path, name: str) -> "Cgroup | None":
        path = hierarchy / _PARENT / name
        return cls(path) if path.is_dir() else None

    def add(self, pid: int) -> None:
        """Move a process here; 0 is the caller."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def pids(self) -> list[int]:
        try:
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        except FileNotFoundError:
            return []

    def cpu_seconds(self) -> float:
        """The CPU time that all its processes have used, those that have ended as well.

        The kernel counts it in every cgroup of version 2, also where the cpu controller is one of version 1.
        """
        found = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(found["usage_usec"]) / 1e6

    def kill(self, timeout: float = 10.0) -> None:
        """SIGKILL everything in the cgroup and wait until nothing that still runs is left (zombies may be)."""
        try:
            (self.path / "cgroup.kill").write_text("1")
        except FileNotFoundError:
            return
        deadline = time.monotonic() + timeout
        while "populated 1" in (self.path / "cgroup.events").read_text():
            if time.monotonic() > deadline:
                raise Failure(
                    f"processes of {self.path.name} do not die: {self.pids()}",
                    hint="one of them may hang in the kernel (state D)",
                    agent_state="killed, but still there",
                )
            time.sleep(0.005)

    def remove(self, timeout: float = 2.0) -> None:
        """Remove the empty cgroup. The kernel may call it busy for a moment after the last process ended."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.path.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        with suppress(OSError):  # the common parent goes with the last run
            self.path.parent.rmdir()
