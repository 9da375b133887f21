"""Standard input and output of runs without a terminal: every byte arrives once, whenever it was on its way."""

import hashlib
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE, PYTHON, Agent, await_true

Popen = subprocess.Popen[bytes]
Starter = Callable[..., Popen]

# Reads byte by byte: what it has not asked for stays in the pipe.
READER = """
import os, sys, time

def line():
    read = b""
    while not read.endswith(b"\\n") and (byte := os.read(0, 1)):
        read += byte
    return read

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.02)

print("got", line(), flush=True)
wait_for("go")
while got := line():
    print("got", got, flush=True)
print("the input has ended", flush=True)
"""


@pytest.fixture
def start(agent: Agent, ended: list["subprocess.Popen[Any]"]) -> Starter:
    """Start a run in the foreground, with pipes for its three streams."""

    def started(program: str, *options: str, **streams: Any) -> Popen:
        (agent.workdir / "program.py").write_text(program)
        argv = [*agent.program, "run", "--name", "streams", *options, "--", PYTHON, "program.py"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        process = subprocess.Popen(argv, cwd=agent.workdir, env=agent.env, **pipes)
        ended.append(process)
        return process

    return started


def output(agent: Agent) -> str:
    return agent("logs", "streams").out if agent.runs() else ""


def give(process: Popen, text: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def end(process: Popen) -> int:
    """Let go of our ends of its streams, and wait for its end: its exit status."""
    process.communicate(timeout=PATIENCE)
    return process.returncode


def test_a_program_that_read_one_line_of_three_gets_the_other_two(agent: Agent, start: Starter) -> None:
    process = start(READER)
    give(process, b"one\ntwo\nthree\n")
    await_true(lambda: "one" in output(agent), "it reads one line")
    agent("suspend", "streams")
    assert end(process) == 75
    for _ in range(2):  # what is unread in the second generation is unread in the third
        agent("restore", "-d", "streams")
        agent("suspend", "streams")
    agent("restore", "-d", "streams")
    (agent.workdir / "go").touch()
    await_true(lambda: "three" in output(agent), "it reads the others")
    assert output(agent) == "".join(f"got {text!r}\n" for text in (b"one\n", b"two\n", b"three\n"))


def test_a_checkpoint_takes_no_input_away(agent: Agent, start: Starter) -> None:
    process = start(READER)
    give(process, b"one\ntwo\n")
    await_true(lambda: "one" in output(agent), "it reads one line")
    agent("checkpoint", "streams")
    give(process, b"three\n")
    agent("checkpoint", "streams")
    (agent.workdir / "go").touch()
    out, errors = process.communicate(timeout=PATIENCE)
    assert out.decode().splitlines() == ["got b'one\\n'", "got b'two\\n'", "got b'three\\n'", "the input has ended"]
    assert errors == b""


def test_an_input_that_had_ended_is_still_at_its_end(agent: Agent, start: Starter) -> None:
    process = start(READER)
    give(process, b"one\ntwo\n")
    process.stdin.close()
    process.stdin = None
    await_true(lambda: "one" in output(agent), "it reads one line")
    agent("suspend", "streams")
    assert end(process) == 75
    agent("restore", "-d", "streams")
    (agent.workdir / "go").touch()
    assert agent("wait", "streams").code == 0
    assert output(agent) == "got b'one\\n'\ngot b'two\\n'\nthe input has ended\n"


def test_a_detached_run_with_open_input_waits_for_it_over_a_restore(
    agent: Agent, ended: list["subprocess.Popen[Any]"]
) -> None:
    (agent.workdir / "program.py").write_text(READER)
    (agent.workdir / "go").touch()
    agent("run", "-d", "-i", "--name", "streams", "--", PYTHON, "program.py")
    agent("suspend", "streams")
    agent("restore", "-d", "streams")
    attached = agent("attach", "streams", input="one\ntwo\n")
    assert attached.out == "got b'one\\n'\ngot b'two\\n'\nthe input has ended\n"


SUM = """
import hashlib, os, time
print("waits", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
read = hashlib.sha256()
count = 0
while data := os.read(0, 1 << 16):
    read.update(data)
    count += len(data)
print("read", count, read.hexdigest(), flush=True)
"""


def test_more_input_than_a_pipe_holds_is_kept_for_a_program_that_does_not_read(
    agent: Agent, start: Starter, tmp_path: Path
) -> None:
    text = b"".join(b"%d\n" % number for number in range(100_000))
    given = tmp_path / "given"
    given.write_bytes(text)
    with open(given, "rb") as stdin:
        process = start(SUM, stdin=stdin)
        await_true(lambda: "waits" in output(agent), "it waits")
        await_true(lambda: stdin.tell() == len(text), "all of it was handed over")
    agent("suspend", "streams")
    assert end(process) == 75
    agent("restore", "-d", "streams")
    agent("suspend", "streams")
    agent("restore", "-d", "streams")
    (agent.workdir / "go").touch()
    assert agent("wait", "streams").code == 0
    assert output(agent) == f"waits\nread {len(text)} {hashlib.sha256(text).hexdigest()}\n"


# Writes as fast as it can, to both streams; who reads is slower.
WRITER = """
import os, sys, time
n = 0
while not os.path.exists("end"):
    n += 1
    print(n, "x" * 100, flush=True)
    if n % 10 == 0:
        print(n, file=sys.stderr, flush=True)
    if n % 2000 == 0 and os.path.exists("slowly"):
        time.sleep(0.2)
print("end", n, flush=True)
"""


def test_output_that_nobody_had_read_is_there_once(
    agent: Agent, start: Starter, ended: list["subprocess.Popen[Any]"]
) -> None:
    process = start(WRITER)  # nobody reads its pipes: all buffers up to the program are full
    sizes: list[int] = []

    def stands_still() -> bool:
        path = next((agent.directory / "state/runs").glob("*/output.log"), None)
        sizes.append(path.stat().st_size if path else 0)
        return len(sizes) > 20 and sizes[-1] == sizes[-20] > 100_000

    await_true(stands_still, "the program is held back")
    (agent.workdir / "slowly").touch()  # now: between snapshot and restore it would be a change that is refused
    suspend = subprocess.Popen([*agent.program, "suspend", "streams"], env=agent.env, stdout=subprocess.DEVNULL)
    ended.append(suspend)
    # Suspended before anybody reads: what was on its way is in the buffers of five programs and pipes.
    await_true(lambda: agent("snapshots", "--json").json, "the snapshot is there")
    before, errors_before = process.communicate(timeout=PATIENCE)
    assert suspend.wait(timeout=PATIENCE) == 0
    assert process.returncode == 75
    agent("restore", "-d", "streams")
    (agent.workdir / "end").touch()
    assert agent("wait", "streams").code == 0
    logs = agent("logs", "streams")
    *lines, last = logs.out.splitlines()
    numbers = [int(line.split()[0]) for line in lines]
    assert numbers == list(range(1, len(numbers) + 1))
    assert last == f"end {len(numbers)}"
    assert [int(line) for line in logs.err.split()] == list(range(10, len(numbers) + 1, 10))
    # The one that was attached got what was printed until then, and no more.
    assert logs.out.startswith(before.decode())
    assert before.endswith(b"\n") or re.search(rb"\n\d+ ?x*$", before)
    told = re.sub(rb"\r\nstreams was suspended .*\n", b"", errors_before).decode()
    assert logs.err.startswith(told)
