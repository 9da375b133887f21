"""What doctor makes of text and numbers; what it tries is in tests/root/test_doctor_on_host.py."""

from pathlib import Path

import pytest

from criu_agent.ops import doctor, probes
from criu_agent.ops.doctor import Finding

ALL = (1 << 41) - 1


def status(effective: int) -> str:
    return f"Name:\tpython\nCapPrm:\t{ALL:016x}\nCapEff:\t{effective:016x}\nCapBnd:\t{ALL:016x}\n"


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.requirement: finding for finding in findings}


@pytest.mark.parametrize("release", ["5.14.0", "6.1.0-40-amd64", "6.18.44-fc-v657", "10.0-rc1"])
def test_a_kernel_with_cgroup_kill_is_ok(release: str) -> None:
    assert doctor.kernel(release) == Finding(requirement="kernel", state="ok", detail=release)


@pytest.mark.parametrize("release", ["4.19.0", "5.4.0-200-generic", "5.13.19", "unheard-of"])
def test_an_older_or_unknown_kernel_is_warned_of_and_says_what_to_boot(release: str) -> None:
    finding = doctor.kernel(release)
    assert finding.state == "warn"
    assert release in finding.detail
    assert "5.14" in finding.fix


def test_all_capabilities_are_ok_for_full_root() -> None:
    assert {finding.state for finding in doctor.capabilities(status(ALL))} == {"ok"}


def test_without_sys_resource_only_a_warning_is_given_and_the_main_job_works() -> None:
    findings = doctor.capabilities(status(ALL & ~(1 << 24)))
    lacking = [finding for finding in findings if finding.state != "ok"]
    assert [(finding.requirement, finding.state) for finding in lacking] == [("CAP_SYS_RESOURCE", "warn")]
    assert "user namespace" in lacking[0].detail
    assert doctor.verdict(findings)


def test_the_main_job_needs_sys_admin_and_sys_ptrace() -> None:
    findings = doctor.capabilities(status(0))
    missing = {finding.requirement for finding in findings if finding.state == "missing"}
    assert missing == {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"}
    assert not doctor.verdict(findings)
    assert all(finding.fix for finding in findings)


def test_the_effective_set_counts_and_no_other() -> None:
    only_admin = by_name(doctor.capabilities(status(1 << 21)))
    assert only_admin["CAP_SYS_ADMIN"].state == "ok"
    assert only_admin["CAP_NET_ADMIN"].state == "warn"


@pytest.mark.parametrize(("size", "state"), [((1 << 30) - 1, "warn"), (1 << 30, "ok"), (0, "warn")])
def test_memory_and_disk_are_warned_of_below_one_gibibyte(size: int, state: str) -> None:
    assert doctor.memory(size).state == state
    assert doctor.disk(Path("/srv"), size).state == state


def test_the_disk_finding_names_the_place_and_what_is_free() -> None:
    assert doctor.disk(Path("/srv"), 3 << 29).detail == "1.5 GiB free at /srv"


def test_the_verdict_is_good_while_nothing_vital_is_missing() -> None:
    fine = Finding(requirement="a", state="ok", detail="", vital=True)
    limited = Finding(requirement="b", state="warn", detail="", vital=True)
    optional = Finding(requirement="c", state="missing", detail="", vital=False)
    vital = Finding(requirement="d", state="missing", detail="", vital=True)
    assert doctor.verdict([])
    assert doctor.verdict([fine, limited, optional])
    assert not doctor.verdict([fine, vital])


def test_a_program_that_is_not_there_is_named() -> None:
    assert probes.runs(["no-such-program"]) == "no-such-program is not installed"


def test_a_probe_says_the_first_line_of_why_not() -> None:
    assert probes.runs(["sh", "-c", "echo one >&2; echo two >&2; exit 3"]) == "one"


def test_a_silent_failure_says_its_status() -> None:
    assert probes.runs(["sh", "-c", "exit 3"]) == "sh ended with 3"


def test_a_warning_of_a_program_that_succeeds_is_no_reason() -> None:
    assert probes.runs(["sh", "-c", "echo careful >&2"]) == ""


def test_a_file_that_the_kernel_lacks_is_named() -> None:
    assert probes.kernel_file("/proc/self/ns/pid") == ""
    assert probes.kernel_file("/proc/self/ns/nonsense") == "the kernel has no /proc/self/ns/nonsense"


def test_a_policy_is_told_of_and_one_that_forbids_everything_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    assert doctor.policy(path).detail == "every snapshot may be restored"
    path.write_text("uids = [0]")
    path.chmod(0o644)
    assert doctor.policy(path) == Finding(requirement="policy", state="ok", detail=f"{path} limits what is restored")
    path.chmod(0o666)
    found = doctor.policy(path)
    assert (found.state, found.vital) == ("missing", True)
    assert "can be written by others" in found.detail
    assert "chmod go-w" in found.fix
