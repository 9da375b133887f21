"""Keeping programs to the instruction sets of an older x86-64 processor (x86-64 psABI, "micro-architecture levels").

No setting of Linux hides instructions from a process, but for a CPUID that faults (arch_prctl(2) ARCH_CPUID_SET): few
processors and hypervisors have it, and somebody would have to answer. What asks the environment is told there:

* glibc: GLIBC_TUNABLES takes features from what its functions and its dynamic linker choose by. Counted by single
  steps with glibc 2.36: grep executes 23,402 AVX instructions without it, and none when it is kept to x86-64-v2.
  AVX_Fast_Unaligned_Load is a preference of its own: with AVX gone and it left, memmove is still that of AVX.
  XSAVE cannot go without AVX, and is dangerous without XSAVEC: the dynamic linker has room for what the processor
  saves on which the program began, and a larger one writes behind it. So x86-64-v3 needs XSAVEC, too.
* OpenSSL, also the one in Node: OPENSSL_ia32cap, two words and more of CPUID bits (man 3 OPENSSL_ia32cap).
"""

from collections.abc import Mapping
from types import MappingProxyType

_BASE = "fpu tsc cx8 cmov mmx fxsr sse sse2 syscall"
_V2 = f"{_BASE} cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2"
_V3 = f"{_V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave xsavec"
_V4 = f"{_V3} avx512f avx512bw avx512cd avx512dq avx512vl"
# By level, the flags of /proc/cpuinfo that a program may then count on.
LEVELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"x86-64-v2": tuple(_V2.split()), "x86-64-v3": tuple(_V3.split()), "x86-64-v4": tuple(_V4.split())}
)

TUNABLES = "GLIBC_TUNABLES"
_HWCAPS = "glibc.cpu.hwcaps"
OPENSSL = "OPENSSL_ia32cap"
# glibc's names (sysdeps/x86/cpu-tunables.c); one that it does not know is ignored.
_NOT_V4 = "RTM"
_NOT_V3 = f"{_NOT_V4} AVX512F AVX512CD AVX512ER AVX512PF AVX512VL AVX512BW AVX512DQ"
_NOT_V2 = f"{_NOT_V3} AVX AVX2 BMI1 BMI2 FMA F16C LZCNT MOVBE XSAVE XSAVEC AVX_Fast_Unaligned_Load"
_GLIBC = {"x86-64-v2": _NOT_V2, "x86-64-v3": _NOT_V3, "x86-64-v4": _NOT_V4}

# Bits of CPUID leaf 1, ECX, from bit 32 of OpenSSL's first word on, and of leaf 7, EBX, which begins the second word.
_LEAF_1 = {"pclmulqdq": 1, "xop": 11, "fma": 12, "movbe": 22, "aes": 25, "xsave": 26, "osxsave": 27} | {
    "avx": 28,
    "f16c": 29,
    "rdrand": 30,
}
_LEAF_7 = {"bmi1": 3, "avx2": 5, "bmi2": 8, "avx512f": 16, "avx512dq": 17, "avx512cd": 28, "avx512bw": 30} | {
    "avx512vl": 31
}
_WORD = (1 << 64) - 1
_LATER_WORDS = ":0:0:0"  # from OpenSSL 3.5 on; before, nothing looks behind the second


def environment(level: str, given: Mapping[str, str]) -> dict[str, str]:
    """What keeps programs that look there to the level, beside the other tunables that are `given`.

    ValueError, with the variable, where it is given for the same purpose already.
    """
    tunables = given.get(TUNABLES, "")
    for name, taken in ((TUNABLES, _HWCAPS in tunables), (OPENSSL, OPENSSL in given)):
        if taken:
            raise ValueError(name)
    ours = f"{_HWCAPS}={','.join(f'-{name}' for name in _GLIBC[level].split())}"
    return {TUNABLES: f"{tunables}:{ours}" if tunables else ours, OPENSSL: _openssl(level)}


def _openssl(level: str) -> str:
    flags = {*LEVELS[level], *(["osxsave"] if "xsave" in LEVELS[level] else [])}
    first = sum(1 << 32 + bit for name, bit in _LEAF_1.items() if name not in flags)
    kept = sum(1 << bit for name, bit in _LEAF_7.items() if name in flags)
    return f"~{first:#x}:~{_WORD & ~kept:#x}{_LATER_WORDS}"
