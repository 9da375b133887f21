"""What a program has not loaded yet: `run --closure full` brings it along, the others do not."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Agent, await_true

SCRIPT = """
import os, sys, time
print("waits", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
import lazy
print(lazy.TEXT, flush=True)
time.sleep(1000)
"""
NODE_SCRIPT = """
const fs = require("fs");
console.log("waits");
setInterval(() => {
    if (fs.existsSync("go")) { console.log(require("lazy").text); fs.unlinkSync("go"); }
}, 20);
"""


@pytest.fixture
def own(agent: Agent) -> Iterator[Path]:
    """A directory of the host, where the box sees it."""
    path = Path(tempfile.mkdtemp(prefix="criu-agent-test-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    agent("rm", "-f", "late", check=False)
    shutil.rmtree(path)


@pytest.fixture
def virtual(own: Path) -> Path:
    """A virtual environment with a module, which needs a library that nothing else does, through a link."""
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", own], check=True)
    (packages,) = own.glob("lib/python3*/site-packages")
    (packages / "lazy").mkdir()
    (packages / "lazy/__init__.py").write_text(
        'import ctypes\nctypes.CDLL(__path__[0] + "/one.so")\nTEXT = "loaded"\n'
    )
    (own / "libs").mkdir()
    source = own / "empty.c"
    source.write_text("int nothing;")
    other = own / "libs/libother.so.1.0"
    subprocess.run(["cc", "-shared", "-o", other, source, "-Wl,-soname,libother.so.1"], check=True)
    (own / "libs/libother.so.1").symlink_to("libother.so.1.0")
    search = f"-Wl,--no-as-needed,-rpath,{own}/libs"
    subprocess.run(["cc", "-shared", "-o", packages / "lazy/one.so", source, search, other], check=True)
    return own


def start(agent: Agent, *argv: str) -> None:
    agent("run", "-d", "--name", "late", *argv)
    await_true(lambda: "waits" in agent("logs", "late").out, "it waits")


def lazily(agent: Agent) -> str:
    """What it says when it has come back and goes on to load: that it did, or why not."""
    agent("resume", "-d", "late")
    (agent.workdir / "go").touch()

    def said() -> str:
        logs = agent("logs", "late")
        return logs.out + logs.err

    await_true(lambda: "loaded" in said() or "Error" in said(), "it loads", 30.0)
    return said()


def start_python(agent: Agent, virtual: Path, kind: str) -> None:
    (agent.workdir / "late.py").write_text(SCRIPT)
    start(agent, "--closure", kind, "--", str(virtual / "bin/python"), "late.py")


def test_a_module_that_has_gone_from_the_host_is_imported_after_the_restore(agent: Agent, virtual: Path) -> None:
    start_python(agent, virtual, "full")
    row = next(row["object"] for row in agent("plan", "late", "--json").json if "closure" in row["object"])
    assert row.startswith("closure full: ")
    assert int(row.split()[2]) > 500
    assert agent("inspect", "late").json[0]["spec"]["closure"] == "full"
    agent("checkpoint", "late")
    agent("suspend", "late")
    (packages,) = virtual.glob("lib/python3*/site-packages")
    for path in (packages / "lazy", virtual / "libs"):
        shutil.rmtree(path)
    agent.forget_everything("late")
    assert "loaded" in lazily(agent).splitlines()
    assert not (virtual / "libs").exists(), "the host is as it was"
    agent("suspend", "late")  # and once more from there
    agent("resume", "-d", "late")
    assert agent("exec", "late", str(virtual / "bin/python"), "-c", "import lazy; print(lazy.TEXT)").out == "loaded\n"


def test_a_lean_one_finds_the_hosts(agent: Agent, virtual: Path) -> None:
    start_python(agent, virtual, "lean")
    agent("suspend", "late")
    (packages,) = virtual.glob("lib/python3*/site-packages")
    shutil.rmtree(packages / "lazy")
    assert "No module named 'lazy'" in lazily(agent)


def test_none_stores_nothing_of_the_host(agent: Agent) -> None:
    (agent.workdir / "late.py").write_text(SCRIPT)
    start(agent, "--closure", "none", "--", "python3", "late.py")
    objects = [row["object"] for row in agent("plan", "late", "--json").json]
    assert "closure none: 0 files, 0 bytes" in objects
    none = agent("checkpoint", "late", "--json").json_lines[-1]
    agent("rm", "-f", "late")
    start(agent, "--", "python3", "late.py")
    lean = agent("checkpoint", "late", "--json").json_lines[-1]
    assert none["bytes_raw"] < lean["bytes_raw"] - (5 << 20), "an interpreter and its libraries"


def test_a_package_of_node_is_required_after_the_restore(agent: Agent, own: Path) -> None:
    (own / "node_modules/lazy").mkdir(parents=True)
    (own / "node_modules/lazy/index.js").write_text('exports.text = "loaded";\n')
    (own / "bin").mkdir()
    (own / "bin/late.js").write_text(NODE_SCRIPT)
    start(agent, "--closure", "full", "--", "node", str(own / "bin/late.js"))
    agent("suspend", "late")
    shutil.rmtree(own / "node_modules")
    assert "loaded" in lazily(agent).splitlines()


def test_what_is_captured_of_the_host_comes_from_the_snapshot(agent: Agent, own: Path) -> None:
    """Files that the run has not read yet, as they were: gone, changed and another link on the host."""
    data = own / "data"
    (data / "empty").mkdir(parents=True)
    (data / "__pycache__").mkdir()
    for name in ("gone", "changed", "same", "left.tmp", "__pycache__/x.pyc"):
        (data / name).write_text(f"{name}, of the host that it began on\n")
    (data / "link").symlink_to("gone")
    script = (
        f"echo waits; while ! test -e go; do sleep 0.05; done; cd {data}; echo run >> same; cat gone changed link"
    )
    options = ("--capture", str(data), "--exclude", "*.tmp")
    start(agent, *options, "--", "sh", "-c", f"{script}; ls -A; echo loaded; exec sleep 1000")
    row = next(row for row in agent("plan", "late", "--json").json if "closure" in row["object"])
    assert row["reason"].endswith("and what --capture names")
    agent("suspend", "late")
    assert agent("inspect", "late").json[0]["spec"]["capture"] == [str(data)]
    for name in ("gone", "left.tmp", "link"):
        (data / name).unlink()
    (data / "link").symlink_to("changed")
    (data / "changed").write_text("changed\n")
    shutil.rmtree(data / "empty")
    agent.forget_everything("late")
    said = lazily(agent).splitlines()
    gone, changed = (f"{name}, of the host that it began on" for name in ("gone", "changed"))
    assert said == [gone, changed, gone, "__pycache__", "changed", "empty", "gone", "link", "same", "loaded"]
    assert sorted(path.name for path in data.iterdir()) == ["__pycache__", "changed", "link", "same"]
    assert (data / "same").read_text() == "same, of the host that it began on\n", "the host has nothing of the run"
    agent("suspend", "late")  # what it wrote there is in its layer, and what it read in the snapshot again
    agent("resume", "-d", "late")
    assert agent("exec", "late", "cat", f"{data}/gone", f"{data}/same").out.splitlines() == [
        gone,
        "same, of the host that it began on",
        "run",
    ]


def test_a_link_alone_that_leads_elsewhere_is_noticed(agent: Agent, own: Path) -> None:
    for name in ("one", "other"):
        (own / name).write_text(f"loaded {name}\n")
    (own / "link").symlink_to("one")
    script = f"echo waits; while ! test -e go; do sleep 0.05; done; cat {own}/link; exec sleep 1000"
    start(agent, "--capture", str(own), "--", "sh", "-c", script)
    agent("suspend", "late")
    (own / "link").unlink()
    (own / "link").symlink_to("other")
    assert "loaded one" in lazily(agent).splitlines()


@pytest.mark.parametrize(("path", "why"), [("/nowhere", "does not exist"), ("/", "is everything")])
def test_what_cannot_be_captured_is_said(agent: Agent, path: str, why: str) -> None:
    refused = agent("run", "-d", "--capture", path, "--", "sleep", "1000", check=False)
    assert (refused.code, why in refused.err, agent.runs()) == (2, True, [])
