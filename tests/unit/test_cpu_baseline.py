"""What keeps programs to a level of processors, and what of it another host must have."""

import os
import subprocess

import pytest

from criu_agent.errors import HostCannot
from criu_agent.linux import cpu, cpu_baseline
from criu_agent.ops import host
from tests.unit.test_cpu import a_host

V2, V3, V4 = cpu_baseline.LEVELS
LOADER = "/lib64/ld-linux-x86-64.so.2"


def test_each_level_has_what_the_one_below_has_and_is_checked_flag_by_flag() -> None:
    flags = [set(level) for level in cpu_baseline.LEVELS.values()]
    assert flags[0] < flags[1] < flags[2]
    for level in cpu_baseline.LEVELS.values():
        assert cpu.missing("x86_64", level, ()) == sorted(level), "the check before a restore knows them all"


def test_other_tunables_stay_and_what_would_be_overwritten_is_named() -> None:
    found = cpu_baseline.environment(V3, {"GLIBC_TUNABLES": "glibc.malloc.check=3", "PATH": "/bin"})
    assert found["GLIBC_TUNABLES"].startswith("glibc.malloc.check=3:glibc.cpu.hwcaps=-")
    assert set(found) == {"GLIBC_TUNABLES", "OPENSSL_ia32cap"}
    for name, value in (("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2"), ("OPENSSL_ia32cap", "~0x1")):
        with pytest.raises(ValueError, match=f"^{name}$"):
            cpu_baseline.environment(V2, {name: value})


def test_openssl_keeps_of_the_second_word_what_the_level_has() -> None:
    def second(level: str) -> int:
        text = cpu_baseline.environment(level, {})["OPENSSL_ia32cap"].split(":")[1]
        return ~int(text.removeprefix("~"), 16) & (1 << 64) - 1

    assert second(V2) == 0
    assert second(V3) == 1 << 3 | 1 << 5 | 1 << 8  # bmi1, avx2, bmi2
    assert second(V4) == second(V3) | 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31


@pytest.mark.skipif(not os.path.exists(LOADER), reason="no glibc of x86-64")  # noqa: PTH110 - a str
def test_the_dynamic_linker_believes_it() -> None:
    def supported(level: str) -> set[str]:
        env = cpu_baseline.environment(level, {})
        said = subprocess.run([LOADER, "--help"], env=env, capture_output=True, text=True, check=True).stdout
        return {one for one in cpu_baseline.LEVELS if f"  {one} (supported" in said}

    here = {
        level for level, flags in cpu_baseline.LEVELS.items() if not cpu.missing("x86_64", flags, cpu.read().flags)
    }
    assert supported(V2) == here & {V2}
    assert supported(V3) == here & {V2, V3}


def test_with_a_baseline_another_host_needs_the_baseline_and_no_more() -> None:
    there = a_host("a", "x86_64", *cpu_baseline.LEVELS[V4], "gfni")
    here = a_host("b", "x86_64", *cpu_baseline.LEVELS[V3])
    host.require_like(here, there, V3)
    with pytest.raises(HostCannot, match="it needs a processor with avx512bw avx512cd"):
        host.require_like(here, there)
    older = a_host("c", "x86_64", *cpu_baseline.LEVELS[V2], "avx")
    with pytest.raises(HostCannot, match="as x86-64-v3 has, this host has Model c without") as refused:
        host.require_like(older, there, V3)
    assert "avx2" in refused.value.message
    assert "gfni" not in refused.value.message
