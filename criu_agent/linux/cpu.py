"""The processor's instruction sets, as /proc/cpuinfo names them (arch/x86/include/asm/cpufeatures.h)."""

from dataclasses import dataclass
from pathlib import Path

# What an x86 program can find by cpuid and then execute: without it the same instruction ends in SIGILL, or does
# something else. Left out: what only the kernel uses or makes up (pti, xsaves, constant_tsc), and what is harmless on
# a processor that lacks it (hle, cldemote, prefetches, erms, fsrm).
_X86_TEXT = """
    fpu tsc cx8 sep cmov clflush mmx fxsr sse sse2 syscall rdtscp lm mmxext 3dnow 3dnowext pni pclmulqdq
    ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand lahf_lm abm sse4a misalignsse xop
    fma4 tbm lwp mwaitx clzero fsgsbase bmi1 bmi2 rtm rdseed adx clflushopt clwb sha_ni xsaveopt xsavec
    xgetbv1 pku waitpkg gfni vaes vpclmulqdq rdpid rdpru movdiri movdir64b enqcmd serialize tsxldtrk
    cmpccxadd sha512 sm3 sm4 user_shstk avx2 avx_vnni avx_ifma avx_vnni_int8 avx_vnni_int16 avx_ne_convert
    amx_bf16 amx_tile amx_int8 amx_fp16 avx512f avx512dq avx512ifma avx512pf avx512er avx512cd avx512bw
    avx512vl avx512_bf16 avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg avx512_vpopcntdq avx512_4vnniw
    avx512_4fmaps avx512_vp2intersect avx512_fp16
"""
_X86 = frozenset(_X86_TEXT.split())


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """model is "" where the kernel does not say; flags are in the kernel's order."""

    model: str
    flags: tuple[str, ...]


def read() -> Cpu:
    """Of the first processor: the file has a block for each, and the kernel writes them one by one."""
    with open(Path("/proc/cpuinfo"), encoding="utf-8", errors="replace") as file:
        lines: list[str] = []
        for line in file:
            if not line.strip():
                break
            lines.append(line)
    return parse("".join(lines))


def parse(block: str) -> Cpu:
    """One block of /proc/cpuinfo. The flags are called `flags` on x86 and `Features` on Arm."""
    values = dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in values.items()}
    flags = fields.get("flags") or fields.get("Features") or ""
    return Cpu(model=fields.get("model name", ""), flags=tuple(flags.split()))


def missing(machine: str, needed: tuple[str, ...], here: tuple[str, ...]) -> list[str]:
    """The instruction sets among the flags `needed` that are not `here`, sorted. machine as uname -m.

    Elsewhere than on x86 every flag is one that programs go by (hwcaps).
    """
    lacking = set(needed) - set(here)
    return sorted(lacking & _X86 if machine == "x86_64" else lacking)
