"""Which of the kernel's words for a processor a snapshot needs."""

from dataclasses import replace

import pytest

from criu_agent.box import cgroup
from criu_agent.errors import HostCannot
from criu_agent.linux import cpu
from criu_agent.model import Host
from criu_agent.ops import host


def a_host(name: str, machine: str, *flags: str) -> Host:
    return Host(
        hostname=name,
        boot_id="",
        kernel="6",
        machine=machine,
        page_size=4096,
        criu="4.2",
        cpu_model=f"Model {name}",
        cpu_flags=flags,
    )


def test_a_block_of_x86_and_one_of_arm() -> None:
    x86 = "processor\t: 0\nmodel name\t: A (R) CPU @ 2.00GHz: fast\nflags\t\t: fpu sse2 avx2\nbugs\t\t: x\n"
    assert cpu.parse(x86) == cpu.Cpu(model="A (R) CPU @ 2.00GHz: fast", flags=("fpu", "sse2", "avx2"))
    assert cpu.parse("processor\t: 0\nFeatures\t: fp asimd sve\n").flags == ("fp", "asimd", "sve")
    assert cpu.parse("") == cpu.Cpu(model="", flags=())


def test_this_machine_has_some() -> None:
    assert cpu.read().flags


def test_only_instruction_sets_count() -> None:
    needed = ("avx512f", "avx2", "pti", "constant_tsc", "hypervisor", "erms")
    assert cpu.missing("x86_64", needed, ("avx2",)) == ["avx512f"]
    assert cpu.missing("aarch64", ("sve", "fp"), ("fp",)) == ["sve"]


def test_a_weaker_processor_is_refused_by_name_and_a_stronger_one_is_not() -> None:
    strong, weak = a_host("a", "x86_64", "sse2", "avx2", "avx512f"), a_host("b", "x86_64", "sse2", "pti")
    with pytest.raises(
        HostCannot, match="running on a: it needs a processor with avx2 avx512f, as Model a has"
    ) as refused:
        host.require_like(weak, strong)
    assert "this host has Model b without" in refused.value.message
    host.require_like(strong, weak)


def test_a_snapshot_that_says_nothing_of_its_processor_is_not_refused() -> None:
    host.require_like(a_host("b", "x86_64", "sse2"), a_host("a", "x86_64"))


def test_everything_that_a_host_lacks_is_said_at_once_with_both_values() -> None:
    there = replace(a_host("a", "x86_64", "avx2"), page_size=4096, criu="4.2.1", kernel="6.18", time_namespaces=True)
    here = replace(a_host("b", "x86_64", "sse2"), page_size=65536, criu="4.1", kernel="5.4")
    with pytest.raises(HostCannot) as refused:
        host.require_like(here, there)
    for said in (
        "it needs pages of 4096 bytes, this host has pages of 65536",
        "it needs a processor with avx2, as Model a has, this host has Model b without",
        "it needs time namespaces, as Linux 6.18 has, this host has Linux 5.4 without",
        "it needs CRIU 4.2.1, this host has 4.1",
    ):
        assert said in refused.value.message
    assert "scripts/install-criu" in refused.value.hint
    assert "CONFIG_TIME_NS" in refused.value.hint


def test_of_another_machine_its_flags_are_not_told() -> None:
    with pytest.raises(HostCannot) as refused:
        host.require_like(a_host("b", "aarch64", "fp"), a_host("a", "x86_64", "sse2"))
    assert "it needs the machine x86_64, this host has aarch64" in refused.value.message
    assert "sse2" not in refused.value.message


@pytest.mark.parametrize(
    ("types", "layout"),
    [(["cgroup2"], "v2"), (["cgroup", "cgroup"], "v1"), (["cgroup", "cgroup2"], "hybrid"), (["tmpfs"], "none")],
)
def test_the_layout_of_cgroups_is_known_from_the_mounts(types: list[str], layout: str) -> None:
    lines = [f"36 35 98:0 / /x rw,noatime - {one} {one} rw" for one in types]
    assert cgroup.layout("\n".join(lines) + "\n") == layout
