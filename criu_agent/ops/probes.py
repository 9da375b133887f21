"""What this host lets us do, tried rather than concluded from a version.

A probe returns "" when it works, else why not in one line. Mounts are made in a mount namespace and nftables
tables in a network namespace that end with the probe: nothing is left.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from criu_agent.linux import process

_TIMEOUT = 30.0  # seconds; each takes milliseconds, but on a busy machine

# The shape of CRIU's lock: what belongs to a connection of the set is dropped while the tree is frozen.
_LOCK = b"""table inet criu-agent-doctor {
  set connections { type ipv4_addr . inet_service . ipv4_addr . inet_service; }
  chain input {
    type filter hook input priority 0;
    ip saddr . tcp sport . ip daddr . tcp dport @connections meta mark != 0xc114 drop
  }
}
"""


def runs(argv: Sequence[str], *, input: bytes = b"") -> str:
    """Whether a program ends well; why not is the first line that it wrote to stderr."""
    try:
        done = process.run(argv, input=input, timeout=_TIMEOUT)
    except FileNotFoundError:
        return f"{argv[0]} is not installed"
    except OSError as error:  # TimeoutError is one
        return str(error)
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return "" if done.ok else (said[0] if said else f"{argv[0]} ended with {done.code}")


def namespaces() -> str:
    return runs(["unshare", "--pid", "--mount", "--ipc", "--uts", "--fork", "true"])


def overlay(directory: Path) -> str:
    """An overlay of the host's root with its upper layer below `directory`, with the options of the box."""
    try:
        with tempfile.TemporaryDirectory(prefix=".criu-agent-doctor-", dir=directory) as base:
            upper, work = Path(base, "upper"), Path(base, "work")
            upper.mkdir()
            work.mkdir()
            options = f"lowerdir=/,upperdir={upper},workdir={work},index=on,nfs_export=on"
            return _mounts("overlay", options, base)
    except OSError as error:
        return f"{directory}: {error.strerror}"


def image_tmpfs(directory: Path, *, noswap: bool) -> str:
    """The private tmpfs for images, mounted below `directory`."""
    try:
        with tempfile.TemporaryDirectory(prefix=".criu-agent-doctor-", dir=directory) as target:
            return _mounts("tmpfs", "size=1m,mode=0700" + (",noswap" if noswap else ""), target)
    except OSError as error:
        return f"{directory}: {error.strerror}"


def cgroup_features(hierarchy: Path) -> str:
    """cgroup.kill and cgroup.freeze: the root of a hierarchy has neither, so that a child must be made."""
    try:
        child = Path(tempfile.mkdtemp(prefix="criu-agent-doctor-", dir=hierarchy))
    except OSError as error:
        return f"cannot make a cgroup in {hierarchy}: {error.strerror}"
    lacks = [name for name in ("cgroup.kill", "cgroup.freeze") if not (child / name).exists()]
    child.rmdir()
    return f"{hierarchy} has no {' and no '.join(lacks)}" if lacks else ""


def cgroup_mount(directory: Path) -> str:
    """A cgroup2 hierarchy of our own, for hosts where none is mounted."""
    return _mounts("cgroup2", "rw", str(directory))


def connection_lock() -> str:
    return runs(["unshare", "--net", "nft", "--file", "-"], input=_LOCK)


def kernel_file(path: str) -> str:
    """A file that only a kernel with the feature has."""
    return "" if Path(path).exists() else f"the kernel has no {path}"


def seccomp_filter() -> str:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    return "" if actions.exists() and "errno" in actions.read_text().split() else f"no errno in {actions}"


def swap() -> bool:
    """Whether the host swaps at all: there is a line below the heading."""
    return len(Path("/proc/swaps").read_text().splitlines()) > 1


def pidfd() -> str:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"pidfd_open: {error.strerror}"
    return ""


def file_system(path: Path) -> str:
    """The type of the file system that path is on, as findmnt names it."""
    try:
        done = process.run(["findmnt", "-no", "FSTYPE", "--target", str(path)], timeout=_TIMEOUT)
    except OSError:
        return "unknown"
    return (done.stdout.decode().split() or ["unknown"])[-1]  # the last of several mounts on one place is seen


def _mounts(fstype: str, options: str, target: str) -> str:
    return runs(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "mount",
            "-t",
            fstype,
            "-o",
            options,
            fstype,
            target,
        ]
    )
