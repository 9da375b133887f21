"""What a run wrote in its layer: diff lists it, merge carries it to the host, rm says what would be lost."""

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from criu_agent import runs
from criu_agent.linux import syscalls
from criu_agent.ops import layer
from tests import packages
from tests.conftest import Agent, await_true
from tests.inside import config_of


@pytest.fixture
def host() -> Iterator[Path]:
    """A directory of the host that is no work directory, outside of /tmp (which a box has to itself)."""
    path = Path(f"/var/lib/criu-agent-test-{os.getpid()}")
    path.mkdir()
    for name in ("changed", "removed", "kept"):
        (path / name).write_text(f"{name} of the host\n")
    (path / "old").mkdir()
    for name in ("a", "b"):
        (path / "old" / name).write_text(name)
    yield path
    shutil.rmtree(path)


def script(agent: Agent, host: Path, text: str, *, name: str = "x") -> None:
    """Run a shell script in `host`, as a run that has ended then."""
    agent("run", "--name", name, "--", "sh", "-ec", f"cd {host}; {text}")
    config = config_of(agent)
    await_true(lambda: not runs.find(config, name).alive, "its supervisor has ended")


def diff(agent: Agent, host: Path, name: str = "x") -> dict[str, str]:
    """Changes below `host`: paths relative to it, and A, C or D."""
    rows = [line.split(" ", 1) for line in agent("diff", name).out.splitlines()]
    return {os.path.relpath(path, host): kind for kind, path in rows if path.startswith(f"{host}/")}


def tree(path: Path) -> dict[str, str]:
    """Every file below a directory, and what is in it."""
    return {
        str(file.relative_to(path)): file.read_text() if file.is_file() else "-"
        for file in sorted(path.rglob("*"))
        if not file.is_symlink()
    }


def leftovers(host: Path) -> list[Path]:
    return list(host.rglob(".criu-agent-*"))


def test_diff_lists_what_was_added_changed_and_deleted_as_docker_does(agent: Agent, host: Path) -> None:
    script(agent, host, "echo more >>changed; rm removed; mkdir new; echo 1 >new/file; chmod 600 kept; : >>old/a")
    assert diff(agent, host) == {"changed": "C", "removed": "D", "new": "A", "new/file": "A", "kept": "C"}
    assert f"C {host}" in agent("diff", "x").out.splitlines(), "a directory in which something changed"
    listed = agent("diff", "x", "--json").json
    assert {"change": "D", "path": f"{host}/removed"} in listed["changes"]
    assert listed["name"] == "x"
    assert tree(host)["changed"] == "changed of the host\n", "the host has nothing of it"


def test_neither_the_work_directory_nor_tmp_of_the_host_is_a_change(agent: Agent, host: Path) -> None:
    agent("run", "--name", "x", "--", "sh", "-c", f"touch /tmp/mine work {host}/new")
    changed = [line for line in agent("diff", "x").out.splitlines() if not line.startswith("C ")]
    assert sorted(changed) == sorted(["A /tmp/mine", f"A {host}/new"])


def test_a_renamed_and_a_replaced_directory_are_understood(agent: Agent, host: Path) -> None:
    (host / "whole").mkdir()
    (host / "whole/gone").touch()
    script(agent, host, "mv old new; rm new/b; echo c >new/c; rm -r whole; mkdir whole; touch whole/mine")
    wanted = {"old": "D", "new": "A", "new/a": "A", "new/c": "A", "whole/gone": "D", "whole/mine": "A"}
    assert {path: kind for path, kind in diff(agent, host).items() if path != "whole"} == wanted
    agent("merge", "x")
    assert tree(host) == {
        "changed": "changed of the host\n",
        "kept": "kept of the host\n",
        "removed": "removed of the host\n",
        "new": "-",
        "new/a": "a",
        "new/c": "c\n",
        "whole": "-",
        "whole/mine": "",
    }
    assert diff(agent, host) == {}


def test_merge_carries_everything_of_a_file_and_the_layer_has_it_no_more(agent: Agent, host: Path) -> None:
    script(
        agent,
        host,
        "echo more >>changed; rm removed; mkdir -m 1750 new; echo 1 >new/one; ln new/one new/two;"
        " ln -s nowhere new/link; mkfifo -m 640 new/fifo; chown 1234:4321 new/one; chmod 4755 new/one;"
        " touch -d @1000000000.5 new/one;"
        " truncate -s 1M new/holes; python3 -c \"import os; os.setxattr('new/one', 'user.x', b'y')\"; mv old/a old/z;"
        " rm kept; mkdir kept",
    )
    agent("merge", "x")
    one, two = (host / "new/one").stat(), (host / "new/two").stat()
    assert (one.st_uid, one.st_gid, stat.S_IMODE(one.st_mode)) == (1234, 4321, 0o4755)
    assert (one.st_ino, one.st_nlink, one.st_mtime_ns) == (two.st_ino, 2, 1000000000_500000000)
    assert os.getxattr(host / "new/one", "user.x") == b"y"
    assert os.readlink(host / "new/link") == "nowhere"
    assert stat.S_ISFIFO((host / "new/fifo").stat().st_mode)
    assert (host / "new/holes").stat().st_blocks * 512 < 1 << 20
    assert stat.S_IMODE((host / "new").stat().st_mode) == 0o1750
    assert (host / "changed").read_text() == "changed of the host\nmore\n"
    assert sorted(os.listdir(host)) == ["changed", "kept", "new", "old"]
    assert (host / "kept").is_dir()
    assert sorted(os.listdir(host / "old")) == ["b", "z"]
    assert diff(agent, host) == {}
    upper = agent.files_of("x") / str(host).lstrip("/")
    assert tree(upper) == {"old": "-"}, "what a directory is made of stays, and says nothing"


@pytest.mark.parametrize("restored", [False, True], ids=["first life", "restored"])
def test_what_the_host_changed_meanwhile_is_refused_and_named(agent: Agent, host: Path, restored: bool) -> None:
    (host / "shared").mkdir()
    (host / "shared/a").touch()
    command = f"cd {host}; for f in changed old/a; do echo run >>$f; done; rm removed; rm -r shared; echo run >made; "
    agent("run", "-d", "-i", "--name", "x", "--", "sh", "-ec", f"{command} touch ready; exec sleep 1000")
    await_true(lambda: (agent.workdir / "ready").exists() or "A" in diff(agent, host).get("ready", ""), "it wrote")
    if restored:
        agent("suspend", "x")
        agent("resume", "-d", "x")
    for name in ("changed", "removed", "made", "shared/new"):
        (host / name).write_text("host\n")
    (host / "old/a").unlink()
    before = tree(host)
    agent("suspend", "x")
    refused = agent("merge", "x", check=False)
    assert refused.code == 1
    for name in ("changed was made or changed", "removed was made or changed", "made was made or changed"):
        assert f"{host}/{name} on the host meanwhile" in refused.err
    assert f"{host}/shared holds what was made or changed" in refused.err
    if not restored:  # else nobody knows that it was a copy
        assert f"{host}/old/a was removed on the host meanwhile" in refused.err
    assert tree(host) == before
    agent("merge", "x", f"{host}/ready")
    assert tree(host) == {**before, "ready": ""}
    agent("merge", "--force", "x")
    after = tree(host)
    assert (after["changed"], after["made"], after["old/a"]) == ("changed of the host\nrun\n", "run\n", "arun\n")
    assert not {"removed", "shared"} & after.keys()


def test_paths_choose_and_a_dry_run_does_nothing(agent: Agent, host: Path) -> None:
    script(agent, host, "mkdir -p new/deep; touch new/deep/one new/two; rm removed; touch /tmp/mine")
    before = tree(host)
    said = agent("merge", "--dry-run", "x")
    assert f"D {host}/removed" in said.out.splitlines()
    assert "/tmp/mine" not in said.out
    assert tree(host) == before
    agent("merge", "x", f"{host}/new/deep/one")
    assert tree(host) == {**before, "new": "-", "new/deep": "-", "new/deep/one": ""}
    assert diff(agent, host) == {"new": "C", "new/two": "A", "removed": "D"}
    assert agent("merge", "x", f"{host}/kept", check=False).code == 10


def test_a_link_in_the_way_leads_nowhere(agent: Agent, host: Path) -> None:
    elsewhere = host / "elsewhere"
    elsewhere.mkdir()
    script(agent, host, "mkdir -p old/sub; touch old/sub/evil old/new")
    shutil.rmtree(host / "old")
    (host / "old").symlink_to(elsewhere)
    refused = agent("merge", "x", check=False)
    assert refused.code == 1
    assert f"{host}/old was made or changed on the host meanwhile" in refused.err
    assert list(elsewhere.iterdir()) == []
    agent("merge", "--force", "x")
    assert list(elsewhere.iterdir()) == []
    assert sorted(os.listdir(host / "old")) == ["new", "sub"]


def test_what_cannot_be_done_to_its_end_is_undone(agent: Agent, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(agent, host, "echo more >>changed; rm removed; mkdir new; touch new/file; chmod 700 old; touch zz")
    before = {path: path.stat() for path in host.rglob("*")}
    rename = syscalls.renameat2

    def fails_at_the_last(old_dir: int, old: str, new_dir: int, new: str, flags: int) -> None:
        if new == "zz":
            raise OSError(28, "No space left on device", new)
        rename(old_dir, old, new_dir, new, flags)

    monkeypatch.setattr(syscalls, "renameat2", fails_at_the_last)
    run = runs.find(config_of(agent), "x")
    with pytest.raises(layer.Failure, match="No space left on device"):
        layer.merge(config_of(agent), run, [str(host)])
    after = {path: path.stat() for path in host.rglob("*")}
    assert {path: (one.st_ino, one.st_mode) for path, one in after.items()} == {
        path: (one.st_ino, one.st_mode) for path, one in before.items()
    }


def test_a_merge_that_was_killed_is_done_by_the_next_one(agent: Agent, host: Path) -> None:
    script(agent, host, "echo more >>changed; rm removed; mkdir new; touch new/file zz")
    config = config_of(agent)
    rename, calls = syscalls.renameat2, []

    def dies_in_the_middle(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*arguments)  # type: ignore[arg-type]

    def merge() -> None:
        syscalls.renameat2 = dies_in_the_middle  # in a child of its own
        layer.merge(config, runs.find(config, "x"), [])

    child = get_context("fork").Process(target=merge)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert leftovers(host)
    agent("merge", "x")
    assert leftovers(host) == []
    assert tree(host) == {
        "changed": "changed of the host\nmore\n",
        "kept": "kept of the host\n",
        "new": "-",
        "new/file": "",
        "old": "-",
        "old/a": "a",
        "old/b": "b",
        "zz": "",
    }


def test_a_run_that_lives_is_not_merged_and_one_that_was_suspended_goes_on_with_it(agent: Agent, host: Path) -> None:
    agent("run", "-d", "--name", "x", "--", "sh", "-c", f"echo 1 >{host}/new; exec sleep 1000")
    await_true(lambda: diff(agent, host) == {"new": "A"}, "diff sees what a run that lives wrote")
    refused = agent("merge", "x", check=False)
    assert refused.code == 1
    assert "criu-agent suspend x" in refused.err
    assert not (host / "new").exists()
    agent("suspend", "x")
    agent("merge", "x")
    assert (host / "new").read_text() == "1\n"
    agent("resume", "-d", "x")
    assert agent("exec", "x", "--", "cat", f"{host}/new").out == "1\n"
    assert diff(agent, host) == {}


def test_rm_says_what_would_be_lost_and_takes_no_answer_for_no(agent: Agent, host: Path) -> None:
    script(agent, host, "mkdir -p /root/.cache/thing; touch new /tmp/x /root/.cache/thing/x; rm removed")
    refused = agent("rm", "x", check=False)
    assert refused.code == 1
    assert f"A {host}/new" in refused.err
    assert f"D {host}/removed" in refused.err
    assert "2 changes would be lost" in refused.err
    assert [run["name"] for run in agent.runs()] == ["x"]
    agent("-y", "rm", "x")
    assert agent.runs() == []


def test_rm_does_not_ask_for_noise_nor_for_what_a_snapshot_has(agent: Agent, host: Path) -> None:
    script(agent, host, "mkdir -p /root/.cache/thing; touch /tmp/x /root/.cache/thing/x /root/.bash_history")
    agent("rm", "x")
    agent("run", "-d", "--name", "y", "--", "sh", "-c", f"touch {host}/new; exec sleep 1000")
    await_true(lambda: diff(agent, host, "y") == {"new": "A"}, "it wrote")
    agent("suspend", "y")
    agent("rm", "y")
    assert agent.runs() == []


def test_packages_are_the_runs_own_until_they_are_merged(agent: Agent, host: Path) -> None:
    install = packages.make(agent, str(host))
    agent("run", "--name", "x", "--", "sh", "-ec", f"{install} && {host}/bin/{packages.NPM} && {packages.DEB}")
    program = Path("/usr/bin", packages.DEB)
    assert not program.exists()
    assert not (host / "bin").exists()
    before = Path("/var/lib/dpkg/status").read_bytes()
    try:
        agent("merge", "x", str(host), "/usr", "/var/lib/dpkg")
        for command in (str(program), str(host / "bin" / packages.NPM)):
            assert "works" in subprocess.run([command], capture_output=True, text=True, check=True).stdout
        assert subprocess.run(["dpkg", "-s", packages.DEB], capture_output=True, check=True)
    finally:
        subprocess.run(["dpkg", "--purge", packages.DEB], capture_output=True, check=False)
    assert packages.DEB.encode() not in before
    assert not program.exists()
