"""Which of the kernel's words for a processor a snapshot needs."""

import pytest

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
    with pytest.raises(HostCannot, match="needs a processor with avx2 avx512f, as Model a of a has") as refused:
        host.require_like(weak, strong)
    assert "this host has Model b without" in refused.value.message
    host.require_like(strong, weak)


def test_a_snapshot_that_says_nothing_of_its_processor_is_not_refused() -> None:
    host.require_like(a_host("b", "x86_64", "sse2"), a_host("a", "x86_64"))
