"""The files of the host that a run uses: it goes on where they are others, or not there at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from criu_agent.linux import elf
from tests.conftest import Agent, await_true
from tests.counting import assert_counts_on, numbers

COUNT = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done"


@pytest.fixture
def own(agent: Agent) -> Iterator[Path]:
    """A directory of the host, where the box sees it: it has a shell, and a file that the shell reads."""
    path = Path(tempfile.mkdtemp(prefix="criu-agent-test-", dir="/var/tmp"))
    path.chmod(0o755)
    shutil.copy("/bin/bash", path / "shell")
    (path / "input").write_text("one\ntwo\n")
    yield path
    agent("rm", "-f", "counter", check=False)
    shutil.rmtree(path)


def suspend_counter(agent: Agent, own: Path) -> None:
    agent("run", "-d", "--name", "counter", "--", str(own / "shell"), "-c", f"exec 5<{own}/input; {COUNT}")
    await_true(lambda: len(numbers(agent)) > 3, "it counts")
    agent("suspend", "counter")


def test_it_goes_on_where_its_program_and_an_open_file_have_gone(agent: Agent, own: Path) -> None:
    suspend_counter(agent, own)
    (own / "shell").rename(own / "elsewhere")
    (own / "input").unlink()
    agent("resume", "-d", "counter")
    assert_counts_on(agent)
    assert agent("exec", "counter", "cat", str(own / "input")).out == "one\ntwo\n"
    assert not (own / "input").exists(), "the host is as it was"
    agent("suspend", "counter")  # and once more from there
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def test_it_keeps_its_build_where_another_is_installed(agent: Agent, own: Path) -> None:
    suspend_counter(agent, own)
    ours = (own / "shell").read_bytes()
    with open("/bin/bash", "rb") as file:
        at = ours.index(bytes.fromhex(elf.build_id(file)))
    (own / "new").write_bytes(ours[:at] + bytes(20) + ours[at + 20 :])
    (own / "new").chmod(0o755)
    (own / "new").rename(own / "shell")
    (own / "input").write_text("ONE\nTWO\n")  # the same size
    agent("resume", "-d", "counter")
    assert_counts_on(agent)
    assert agent("exec", "counter", "cat", str(own / "input")).out == "one\ntwo\n"
    said = (agent.directory / "state/runs" / agent.run_of("counter")["run"] / "supervisor.log").read_text()
    assert f"{own}/shell is another build" in said
    assert f"{own}/input has another content" in said


def test_it_goes_on_where_its_interpreter_and_its_libc_have_gone(agent: Agent, own: Path) -> None:
    """Python with an own libc, loader and extension modules; nothing of them is left when it comes back."""
    with open(f"/proc/{os.getpid()}/maps", encoding="ascii") as maps:
        mapped = {Path(line.split()[5]) for line in maps if line.endswith(".so\n") or ".so." in line}
    libc = {path.resolve() for path in mapped if path.name.startswith(("libc.so", "libm.so", "ld-linux"))}
    for path in libc:
        shutil.copy(path, own / path.name)
    loader = next(path.name for path in libc if path.name.startswith("ld-linux"))
    script = "import time, math, json\nn = 0\nwhile True:\n n += 1\n print(n, flush=True)\n time.sleep(0.05)"
    python = shutil.copy("/usr/bin/python3", own / "python3")
    agent(
        *("run", "-d", "--name", "counter", "--"),
        *(str(own / loader), "--library-path", str(own), str(python), "-c", script),
    )
    await_true(lambda: len(numbers(agent)) > 3, "it counts")
    agent("suspend", "counter")
    for path in own.iterdir():
        path.unlink()
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def test_where_nothing_differs_the_host_is_seen(agent: Agent, own: Path) -> None:
    suspend_counter(agent, own)
    agent("resume", "-d", "counter")
    (own / "input").write_text("new\n")
    assert agent("exec", "counter", "cat", str(own / "input")).out == "new\n"


def test_what_the_run_has_changed_is_in_its_layer_only(agent: Agent, own: Path) -> None:
    suspend_counter(agent, own)
    agent("resume", "-d", "counter")
    agent("exec", "counter", "sh", "-c", f"echo three >>{own}/input")
    agent("suspend", "counter")
    agent("resume", "-d", "counter")
    assert agent("exec", "counter", "cat", str(own / "input")).out == "one\ntwo\nthree\n"
    assert (own / "input").read_text() == "one\ntwo\n"


def test_a_program_without_a_build_id_has_none() -> None:
    with open(os.devnull, "rb") as nothing:
        assert elf.build_id(nothing) == ""
