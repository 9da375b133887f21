"""doctor on this host: what it tries, what it says of what is not there, and that it leaves nothing."""

import stat
from pathlib import Path

import psutil
import pytest

from criu_agent import config
from criu_agent.criu import selftest
from criu_agent.errors import HostCannot
from criu_agent.ops import doctor
from criu_agent.ops.doctor import Finding


def examine(tmp_path: Path, **changed: Path) -> dict[str, Finding]:
    ours = config.load()
    paths = {
        "criu": ours.criu,
        "init": ours.init,
        "state_dir": tmp_path / "state/not/yet",
        "runtime_dir": tmp_path / "run/not/yet",
    }
    return {finding.requirement: finding for finding in doctor.examine(**{**paths, **changed})}


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_main_job_works_on_a_machine_that_runs_these_tests(tmp_path: Path) -> None:
    findings = examine(tmp_path)
    assert [finding for finding in findings.values() if finding.vital and finding.state == "missing"] == []
    assert doctor.verdict(list(findings.values()))
    assert findings["criu dump and restore"].state == "ok"


def test_everything_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    nowhere = Path("/nonexistent/program")
    findings = examine(tmp_path, criu=nowhere, init=nowhere, state_dir=Path("/proc/criu-agent"))
    assert {"criu", "init", "overlay"} <= {name for name, one in findings.items() if one.state == "missing"}
    assert all(bool(finding.fix) == (finding.state != "ok") for finding in findings.values())
    assert not doctor.verdict(list(findings.values()))


def test_it_leaves_no_file_mount_process_or_cgroup(tmp_path: Path) -> None:
    def left() -> tuple[object, ...]:
        cgroups = [path.name for path in Path("/sys/fs/cgroup").glob("**/*doctor*")]
        children = psutil.Process().children(recursive=True)
        return list(tmp_path.iterdir()), Path("/proc/self/mountinfo").read_text(), cgroups, children

    before = left()
    examine(tmp_path)
    assert left() == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exit 0", "criu restore restored nothing"),
        (
            "[ $1 != dump ] || { echo 'Error (criu/x.c:1): no' >&2; exit 1; }",
            "criu dump failed: Error (criu/x.c:1): no",
        ),
    ],
)
def test_a_criu_that_only_says_it_works_is_not_believed(tmp_path: Path, text: str, reason: str) -> None:
    finding = examine(tmp_path, criu=program(tmp_path / "criu", text))["criu dump and restore"]
    assert (finding.state, finding.detail) == ("missing", reason)


def test_the_self_test_restores_a_process_with_its_memory(tmp_path: Path) -> None:
    selftest.round_trip(config.load().criu, tmp_path)
    assert (tmp_path / "out").read_text() == "ready\n42\n"


def test_the_self_test_tells_a_broken_image_from_a_good_one(tmp_path: Path) -> None:
    criu = config.load().criu
    losing = program(
        tmp_path / "criu", f'[ "$1" != restore ] || rm {tmp_path}/images/inventory.img\nexec {criu} "$@"'
    )
    (tmp_path / "images").mkdir()
    with pytest.raises(HostCannot, match=r"criu restore failed: .*Error"):
        selftest.round_trip(losing, tmp_path / "images")
