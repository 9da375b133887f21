"""The file systems that the host has mounted below its root: an overlay of / shows nothing of them.

Those that an overlay can lie on are layered in the same way as the root, each with an upper layer of its own; network
file systems, FUSE, single files and what cannot be written to anyway are bound, and are the host's own.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from criu_agent.linux import syscalls
from criu_agent.linux.proc import Mount

LAYER, BOUND = "layer", "bound"  # their keys are these and a number
_KEY = re.compile(f"({LAYER}|{BOUND})-[0-9]{{1,9}}")  # it is a name of a directory, too
# fmt: off
# Which the kernel takes as a lower layer. A vfat, for one, it does not: its names have no case. Not an overlay: CRIU
# does not find the mount of a file that is mapped from an overlay over an overlay (`Can't lookup mount`).
_LAYERED = frozenset({
    "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "reiserfs", "tmpfs", "xfs", "zfs",
})
_WITHOUT_FILES = frozenset({
    "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
    "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "selinuxfs",
    "sysfs", "tracefs",
})
# fmt: on
_OF_THE_BOX = ("/dev", "/proc", "/run", "/sys")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A mount of the host that the box has, too, at the same path."""

    key: str
    path: str

    @property
    def layered(self) -> bool:
        return self.key.startswith(LAYER)


def outer(mounts: Iterable[Mount], *, hidden: Collection[str], through: Collection[str], layers: bool) -> list[Outer]:
    """What the box has of the mounts of this process, outer ones first. Nothing below the hidden paths.

    What lies below a path that is written through is written through as well; without layers everything is.
    """
    apart = (*_OF_THE_BOX, *hidden)
    last = {mount.point: mount for mount in mounts}  # of several on one place the last is seen
    chosen = [
        mount
        for path, mount in sorted(last.items())
        if path != "/" and mount.fstype not in _WITHOUT_FILES and not is_in(path, apart) and _is_seen(mount)
    ]
    keys = [LAYER if layers and _can_be_layered(mount, through) else BOUND for mount in chosen]
    return [
        Outer(key=f"{key}-{number}", path=mount.point)
        for number, (key, mount) in enumerate(zip(keys, chosen, strict=True))
        if mount.point not in through
    ]


def can_root_be_layered(mounts: Iterable[Mount]) -> bool:
    """Not where the root of the host is an overlay itself, as in a container."""
    root = [mount for mount in mounts if mount.point == "/"]
    return not root or root[-1].fstype != "overlay"


def again(mounted: Mapping[str, str]) -> list[Outer]:
    """Those of a box that was dumped, from its mounts, key to target."""
    found = [Outer(key=key, path=path) for key, path in mounted.items() if _KEY.fullmatch(key)]
    return sorted(found, key=lambda one: one.path)


def is_in(path: str, directories: Iterable[str]) -> bool:
    """Whether it is one of the directories, or lies in one."""
    return any(f"{path}/".startswith(f"{directory.rstrip('/')}/") for directory in directories)


def _is_seen(mount: Mount) -> bool:
    """Whether it is what one finds at its place: another one may have been mounted over a directory above it."""
    try:
        return syscalls.mount_id(mount.point) == mount.id
    except OSError:
        return False


def _can_be_layered(mount: Mount, through: Collection[str]) -> bool:
    if mount.fstype not in _LAYERED or is_in(mount.point, through):
        return False
    facts = os.statvfs(mount.point)
    return os.path.isdir(mount.point) and not facts.f_flag & os.ST_RDONLY  # noqa: PTH112 - a str
