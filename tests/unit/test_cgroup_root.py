"""Where the cgroup2 hierarchy is, on hosts of every kind."""

from pathlib import Path

import pytest

from criu_agent.box.cgroup import Cgroup, find_root
from criu_agent.errors import HostCannot

PROC = "22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw"
V2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:9 - cgroup2 cgroup2 rw,nsdelegate"
TMPFS = "29 25 0:25 / /sys/fs/cgroup ro,nosuid shared:8 - tmpfs tmpfs ro,mode=755"
UNIFIED = "31 29 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw"
V1 = "32 29 0:28 / /sys/fs/cgroup/memory rw,nosuid shared:10 - cgroup cgroup rw,memory"


@pytest.mark.parametrize(
    ("mountinfo", "root"),
    [
        ([PROC, V2], "/sys/fs/cgroup"),
        ([PROC, TMPFS, V1, UNIFIED], "/sys/fs/cgroup/unified"),
        ([PROC, TMPFS, V1], None),
        ([], None),
        (["33 1 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw"], "/sys/fs/cgroup"),
        (["34 1 0:26 / /mnt/a rw shared:1 master:2 - cgroup2 none rw", V2], "/mnt/a"),
        (["35 1 8:1 / /cgroup2 rw - ext4 /dev/cgroup2 rw"], None),
    ],
    ids=["v2", "hybrid", "v1", "nothing", "container", "two, the first", "only a name"],
)
def test_the_hierarchy_is_found_by_its_type(mountinfo: list[str], root: str | None) -> None:
    found = find_root("".join(line + "\n" for line in mountinfo))
    assert found == (Path(root) if root else None)


def test_a_hierarchy_that_cannot_kill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostCannot, match=r"cgroup\.kill"):
        Cgroup.create(tmp_path, "run")


def test_a_hierarchy_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "criu-agent").write_text("in the way")
    with pytest.raises(HostCannot, match=str(tmp_path / "criu-agent/run")):
        Cgroup.create(tmp_path, "run")


def test_a_cgroup_that_has_gone_has_no_processes_and_is_killed_and_removed_without_an_error(tmp_path: Path) -> None:
    gone = Cgroup(tmp_path / "criu-agent/gone")
    assert gone.pids() == []
    gone.kill()
    gone.remove()
    assert Cgroup.existing(tmp_path, "gone") is None
