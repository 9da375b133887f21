"""A run that is kept to older processors comes back on one; another run does not."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from criu_agent.linux import cpu, cpu_baseline
from tests.conftest import Agent, await_true

OLDER = "x86-64-v2"
PROGRAM = """
import hashlib, os, time
n = 0
while True:
    n += 1
    print(n, hashlib.sha256(str(n).encode()).hexdigest(), flush=True)
    time.sleep(0.05)
"""
# It asks nobody: vpcmpeqd ymm0,ymm0,ymm0 and a jump to itself.
AVX = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex("c5fd76c0ebfe"))
print("now", flush=True)
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
"""


@pytest.fixture
def on_older_processor(agent: Agent) -> Callable[[], None]:
    """From then on the agent's commands read of a processor that is of the older level."""
    extra = set(cpu.read().flags) - set(cpu_baseline.LEVELS[OLDER])
    lost = sorted(extra & set(cpu_baseline.LEVELS["x86-64-v4"]) | extra & {"aes", "pclmulqdq", "sha_ni", "vaes"})
    if not lost:
        pytest.skip(f"this processor is of {OLDER} itself: it has nothing to lose")

    def move() -> None:
        known = Path("/proc/cpuinfo").read_text()
        (agent.directory / "cpuinfo").write_text(re.sub(rf"\b({'|'.join(lost)})\b", "", known))
        script = f'mount --bind {agent.directory}/cpuinfo /proc/cpuinfo && exec "$@"'
        agent.program = ["unshare", "-m", "sh", "-c", script, "sh", *agent.program]

    return move


def lines(agent: Agent) -> int:
    return len(agent("logs", "it").out.splitlines())


def start(agent: Agent, *options: str) -> None:
    (agent.workdir / "program.py").write_text(PROGRAM)
    agent("run", "-d", "--name", "it", *options, "--", "python3", "program.py")
    await_true(lambda: lines(agent) > 2, "it runs")


def test_a_run_with_a_baseline_goes_on_where_the_processor_has_no_more(
    agent: Agent, on_older_processor: Callable[[], None]
) -> None:
    start(agent, "--cpu-baseline", OLDER, "-e", "GLIBC_TUNABLES=glibc.malloc.arena_max=2")
    inside = agent("exec", "it", "--", "env").out
    assert "GLIBC_TUNABLES=glibc.malloc.arena_max=2:glibc.cpu.hwcaps=-" in inside
    assert "OPENSSL_ia32cap=~" in inside
    for forget in (False, True):
        agent("suspend", "it")
        if forget:
            agent.forget_everything("it")
            on_older_processor()
        agent("restore", "-d", "it")
        seen = lines(agent)
        await_true(lambda seen=seen: lines(agent) > seen + 2, "it goes on")


def test_a_run_without_one_is_refused_there(agent: Agent, on_older_processor: Callable[[], None]) -> None:
    start(agent)
    agent("suspend", "it")
    on_older_processor()
    outcome = agent("resume", "-d", "it", check=False)
    assert outcome.code == 15
    assert "it needs a processor with " in outcome.err
    assert agent.state_of("it") == "suspended"


def test_what_cannot_be_kept_is_refused_at_the_start(agent: Agent, on_older_processor: Callable[[], None]) -> None:
    words = ["run", "-d", "--name", "it", "--cpu-baseline", OLDER]
    outcome = agent(*words, "-e", "OPENSSL_ia32cap=~0", "--", "true", check=False)
    assert outcome.code == 2, outcome
    assert "--cpu-baseline sets OPENSSL_ia32cap, which is set for the same already" in outcome.err
    on_older_processor()
    outcome = agent("run", "-d", "--name", "it", "--cpu-baseline", "x86-64-v4", "--", "true", check=False)
    assert outcome.code == 15, outcome
    assert "this host is no x86-64-v4 itself: its processor lacks " in outcome.err


@pytest.mark.skipif("avx" not in cpu.read().flags, reason="this processor has no AVX")
def test_a_program_that_is_not_held_back_is_told_of_and_not_restored_there(
    agent: Agent, on_older_processor: Callable[[], None]
) -> None:
    (agent.workdir / "avx.py").write_text(AVX)
    agent("run", "-d", "--name", "it", "--cpu-baseline", OLDER, "--", "python3", "avx.py")
    await_true(lambda: "now" in agent("logs", "it").out, "it is there")
    outcome = agent("suspend", "it")
    assert "warning: --cpu-baseline x86-64-v2 does not hold back avx in python3 (2): it cannot be " in outcome.err
    agent("resume", "-d", "it")
    agent("suspend", "it")
    on_older_processor()
    outcome = agent("resume", "-d", "it", check=False)
    assert outcome.code == 15, outcome
    assert "processor lacks registers that are in use in the snapshot: avx in python3 (2)" in outcome.err
    assert agent.state_of("it") == "suspended"
