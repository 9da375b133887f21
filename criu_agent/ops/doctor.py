"""What this host needs for the main job (checkpoint, kill, restore), and whether it has it."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from criu_agent.box import cgroup
from criu_agent.config import POLICY_FILE
from criu_agent.criu import images, selftest
from criu_agent.errors import HostCannot
from criu_agent.linux import process
from criu_agent.ops import host_policy, probes

_OLDEST_KERNEL = (5, 14)  # cgroup.kill, with which a restore that does not end is rolled back
_ENOUGH = 1 << 30  # bytes: an agent of a gigabyte is an ordinary one
_INSTALL = "run scripts/install-criu"

# Names and numbers of linux/capability.h; what is lost without it; whether the main job is lost with it.
_CAPABILITIES = (
    ("CAP_SYS_ADMIN", 21, "no box can be made and nothing restored", True),
    ("CAP_SYS_PTRACE", 19, "CRIU cannot look into other processes", True),
    ("CAP_SYS_RESOURCE", 24, "runs of other users than root get a user namespace of their own", False),
    ("CAP_CHECKPOINT_RESTORE", 40, "the kernel takes CAP_SYS_ADMIN in its place", False),
    ("CAP_NET_ADMIN", 12, "open TCP connections cannot be kept", False),
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One requirement. "warn": something is lost or limited; "missing": the main job cannot work.

    fix is what to do about it, "" when ok. Only what is vital to the main job is ever missing.
    """

    requirement: str
    state: Literal["ok", "warn", "missing"]
    detail: str
    fix: str = ""
    vital: bool = False


def verdict(findings: Sequence[Finding]) -> bool:
    """Whether the main job works on this host."""
    return not any(finding.vital and finding.state == "missing" for finding in findings)


def examine(*, criu: Path, init: Path, state_dir: Path, runtime_dir: Path) -> list[Finding]:
    """One finding per requirement, in the order in which to fix them. Takes about half a second.

    The directories need not exist yet. Without root there is one finding: the others could not be tried.
    """
    if os.geteuid() != 0:
        return [_needs("root", "not root", "run it again with sudo", ok="", vital=True)]
    state, runtime = _existing(state_dir), _existing(runtime_dir)
    return [
        _ok("root", "uid 0", vital=True),
        kernel(os.uname().release),
        *capabilities(Path("/proc/self/status").read_text()),
        *_kernel_features(),
        _cgroup(runtime),
        _overlay(state),
        _image_tmpfs(runtime),
        _needs(
            "nftables",
            probes.connection_lock(),
            "apt-get install nftables, and load the module nf_tables",
            ok="can hold live connections during a checkpoint",
        ),
        _needs("init", probes.runs([str(init), "--version"]), _INSTALL, ok=str(init), vital=True),
        *_criu(criu, runtime),
        policy(POLICY_FILE),
        memory(images.available_memory(Path("/proc/meminfo").read_text())),
        disk(state, shutil.disk_usage(state).free),
    ]


def kernel(release: str) -> Finding:
    """From the release of uname. It only warns: what we need of a kernel is tried one by one."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) >= _OLDEST_KERNEL:
        return _ok("kernel", release)
    oldest = "{}.{}".format(*_OLDEST_KERNEL)
    return _warn("kernel", f"{release} is older than {oldest}", f"boot Linux {oldest} or newer")


def capabilities(status: str) -> list[Finding]:
    """One finding per capability, from the text of /proc/self/status."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    return [
        _needs(
            name,
            "" if effective >> number & 1 else without,
            f"start criu-agent where {name} is not dropped (a container or sandbox does)",
            ok="effective",
            vital=vital,
        )
        for name, number, without, vital in _CAPABILITIES
    ]


def policy(path: Path) -> Finding:
    """Of the file that says what may be restored here: one that is not good forbids everything."""
    try:
        found = host_policy.read(path)
    except HostCannot as error:
        fix = f"put {path} right ({error.hint})"
        return Finding(requirement="policy", state="missing", detail=error.message, fix=fix, vital=True)
    limited = found != host_policy.Policy(path=path)
    return _ok("policy", f"{path} limits what is restored" if limited else "every snapshot may be restored")


def memory(available: int) -> Finding:
    """available: bytes. The images of a checkpoint are held in memory."""
    return _enough("memory for images", available, "available", "stop something, or add memory")


def disk(path: Path, free: int) -> Finding:
    """free: bytes that are left on the file system of path."""
    return _enough("disk space", free, f"free at {path}", "free some, or set CRIU_AGENT_STATE_DIR to another disk")


def _enough(requirement: str, amount: int, where: str, fix: str) -> Finding:
    detail = f"{amount / (1 << 30):.1f} GiB {where}"
    if amount >= _ENOUGH:
        return _ok(requirement, detail)
    return _warn(requirement, detail, fix)


def _ok(requirement: str, detail: str, *, vital: bool = False) -> Finding:
    return Finding(requirement=requirement, state="ok", detail=detail, vital=vital)


def _warn(requirement: str, detail: str, fix: str, *, vital: bool = False) -> Finding:
    return Finding(requirement=requirement, state="warn", detail=detail, fix=fix, vital=vital)


def _needs(requirement: str, reason: str, fix: str, *, ok: str, vital: bool = False) -> Finding:
    """The finding of a probe: reason is why it failed, "" when it did not; then ok is the detail."""
    if not reason:
        return _ok(requirement, ok, vital=vital)
    if not vital:
        return _warn(requirement, reason, fix)
    return Finding(requirement=requirement, state="missing", detail=reason, fix=fix, vital=True)


def _existing(path: Path) -> Path:
    """path, or the nearest directory above it that is there: the one that it will be made in."""
    return next(above for above in (path, *path.parents) if above.is_dir())


def _kernel_features() -> Iterator[Finding]:
    def feature(name: str, reason: str, config: str, *, ok: str, vital: bool = False) -> Finding:
        return _needs(name, reason, f"boot a kernel with {config}", ok=ok, vital=vital)

    namespaces = "pid, mount, ipc, uts"
    filters, clocks = probes.seccomp_filter(), probes.kernel_file("/proc/self/ns/time")
    pagemap = probes.kernel_file("/proc/self/pagemap")
    userfaultfd = probes.kernel_file("/proc/sys/vm/unprivileged_userfaultfd")
    yield feature("namespaces", probes.namespaces(), "CONFIG_NAMESPACES", ok=namespaces, vital=True)
    yield feature("seccomp", filters, "CONFIG_SECCOMP_FILTER", ok="filters", vital=True)
    yield feature("pagemap", pagemap, "CONFIG_PROC_PAGE_MONITOR", ok="finds memory in use", vital=True)
    yield feature("pidfd", probes.pidfd(), "pidfd_open (5.3)", ok="no signal reaches a reused pid", vital=True)
    yield feature("userfaultfd", userfaultfd, "CONFIG_USERFAULTFD", ok="memory can come on demand")
    yield feature("time namespaces", clocks, "CONFIG_TIME_NS", ok="clocks can go on on another host")


def _cgroup(mount_point: Path) -> Finding:
    hierarchy = cgroup.find_root(Path("/proc/self/mountinfo").read_text())
    reason = probes.cgroup_features(hierarchy) if hierarchy else probes.cgroup_mount(mount_point)
    fix = "make a cgroup2 hierarchy writable here (with Linux 5.14 or newer)"
    return _needs("cgroup v2", reason, fix, ok=str(hierarchy or "can be mounted"), vital=True)


def _overlay(state: Path) -> Finding:
    if probes.file_system(Path("/")) == "overlay":
        return _warn("overlay", "/ is an overlay, and nothing in a second one over it can be saved", "run --fs host")
    where = f"{state} ({probes.file_system(state)})"
    reason = probes.overlay(state)
    return _needs(
        "overlay",
        reason and f"no upper layer on {where}: {reason}",
        "set CRIU_AGENT_STATE_DIR to a directory on ext4, xfs, btrfs or tmpfs",
        ok=f"upper layer on {where}",
        vital=True,
    )


def _image_tmpfs(runtime: Path) -> Finding:
    name = "tmpfs for images"
    if not probes.image_tmpfs(runtime, noswap=True):
        return _ok(name, "never swapped out", vital=True)
    reason = probes.image_tmpfs(runtime, noswap=False)
    if not reason and probes.swap():
        return _warn(name, "images may be swapped to a disk", "swapoff -a, or encrypt the swap", vital=True)
    return _needs(name, reason, "set CRIU_AGENT_RUNTIME_DIR to a writable directory", ok="no swap here", vital=True)


def _criu(criu: Path, runtime: Path) -> Iterator[Finding]:
    reason = probes.runs([str(criu), "--version"])
    if reason:
        yield _needs("criu", reason, _INSTALL, ok="", vital=True)
        return
    version = re.search(rb"Version: (\S+)", process.run([str(criu), "--version"]).stdout)
    yield _ok("criu", f"{version[1].decode() if version else 'unknown version'} at {criu}", vital=True)
    yield _needs("criu check", probes.runs([str(criu), "check"]), f"see {criu} check", ok="looks good")
    reason = ""
    try:
        with tempfile.TemporaryDirectory(prefix=".criu-agent-doctor-", dir=runtime) as directory:
            selftest.round_trip(criu, Path(directory))
    except (OSError, HostCannot) as error:  # OSError: also a time limit that was reached
        reason = str(error)
    yield _needs("criu dump and restore", reason, _INSTALL, ok="a process went on after it", vital=True)
