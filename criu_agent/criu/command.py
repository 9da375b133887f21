"""The command line of `criu dump`, as a pure function (DESIGN section 5: dump by command line, restore by RPC)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

GHOST_LIMIT = 1 << 30  # bytes of a deleted file that go into the image; CRIU's own default is 1 MB
# The least level at which an error of a dump can be traced to its pid and fd; it costs 5 % more time than 2.
LOG_LEVEL = 3

NetworkLock = Literal["nftables", "skip"]


def dump(
    criu: Path,
    *,
    pid: int,
    images: Path,
    work: Path,
    log_file: str,
    externals: Sequence[str],
    stage_script: Path,
    leave_running: bool,
    network_lock: NetworkLock,
) -> list[str]:
    """argv of the dump of the tree below `pid` into the directory `images`; logs go to work/log_file."""
    argv = [str(criu), "dump"]
    argv += ["--tree", str(pid)]
    argv += ["--images-dir", str(images)]
    argv += ["--work-dir", str(work)]  # not in the image tmpfs: the log must survive it
    argv += ["--log-file", log_file]
    argv += [f"-v{LOG_LEVEL}"]
    argv += ["--no-default-config"]  # an administrator's /etc/criu/default.conf is about other trees
    argv += ["--manage-cgroups=ignore"]  # the box makes the cgroup, on any host
    argv += ["--shell-job"]  # lets the console pass, whose master the supervisor holds
    argv += ["--file-locks"]  # SQLite in a transaction, flock: both are refused without it
    argv += ["--link-remap"]  # a deleted file of which another name is left
    argv += ["--ghost-limit", str(GHOST_LIMIT)]
    argv += ["--tcp-established"]  # whether it is kept is decided at the restore
    argv += ["--skip-in-flight"]  # else one client that was not yet accepted refuses the whole dump
    argv += ["--network-lock", network_lock]
    argv += ["--action-script", str(stage_script)]
    # Suspend leaves it stopped instead of letting CRIU kill it: CRIU takes a killed action script for success,
    # and the original must not die before its snapshot is durable. The supervisor kills it then.
    argv += ["--leave-running" if leave_running else "--leave-stopped"]
    for external in externals:
        argv += ["--external", external]
    return argv
