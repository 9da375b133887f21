"""Memory and files are of one instant: what changed while a run slept is named, and nothing is lost by going back."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from criu_agent import config, runs
from criu_agent.fs.difference import Proven, compare, unproven
from criu_agent.fs.entry import Entry
from criu_agent.ops import saved, through, trees, vault
from tests.conftest import Agent, Outcome, await_true
from tests.counting import started
from tests.inside import config_of

# Has files open for reading, writing and appending, and knows one that is not open. At USR1 it goes on with them.
PROGRAM = """
import json, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
for name in ("read", "write", "closed"):
    open(name, "w").write("0123456789")
read = open("read", "rb", buffering=0); read.read(4)
write = open("write", "r+b", buffering=0); write.write(b"abcd")
append = open("append", "ab", buffering=0); append.write(b"one\\n")
print("ready", flush=True)
while True:
    signal.sigwait([signal.SIGUSR1])
    write.write(b"ef"); append.write(b"two\\n")
    print(json.dumps([read.read().decode(), open("closed").read()]), flush=True)
"""
TRANSCRIPT = """
import json, time
with open("transcript.jsonl", "a") as transcript:
    for n in range(1 << 30):
        transcript.write(json.dumps({"n": n}) + "\\n"); transcript.flush()
        time.sleep(0.005)
"""
FILES = ("append", "closed", "read", "write")


def each(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def work(directory: Path) -> None:
        for name in FILES:
            change(directory / name)

    return work


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def of_the_same_size(path: Path) -> None:
    """Another file, with the same size and time, in its place."""
    before = path.stat()
    new = path.with_name("new")
    new.write_bytes(b"#" * before.st_size)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "grows": (append, "appended, 4 bytes"),
    "shrinks": (lambda path: os.truncate(path, 2), "cut off, "),
    "is replaced by one of the same size": (of_the_same_size, "content, of the same size"),
    "is deleted": (Path.unlink, "gone here: file"),
    "is renamed": (lambda path: path.rename(path.with_name(f"{path.name}-renamed")), "gone here: file"),
    "is made read-only": (lambda path: path.chmod(0o444), "mode 0644 -> 0444"),
}


def suspended(agent: Agent, program: str = PROGRAM, *options: str) -> str:
    """The id of the snapshot that a run `work` of the program is suspended at."""
    (agent.workdir / "program.py").write_text(program)
    agent("run", "-d", "--name", "work", *options, "--", "python3", "program.py")
    await_true(lambda: "ready" in agent("logs", "work").out, "it is ready")
    return str(agent("suspend", "work", "--json").json_lines[-1]["snapshot"])


def assert_goes_on(agent: Agent, directory: Path) -> None:
    """The program finds exactly the bytes of the freeze, and writes on where it was."""
    agent("kill", "--signal", "USR1", "work")
    await_true(lambda: "[" in agent("logs", "work").out, "it goes on")
    assert json.loads(agent("logs", "work").out.splitlines()[-1]) == ["456789", "0123456789"]
    assert {name: (directory / name).read_text() for name in FILES} == {
        "append": "one\ntwo\n",
        "closed": "0123456789",
        "read": "0123456789",
        "write": "abcdef6789",
    }


def refused(agent: Agent, *arguments: str) -> Outcome:
    """That a restore is refused, and nothing was changed."""
    before = contents(agent.workdir)
    outcome = agent("resume", "-d", "work", *arguments, check=False)
    assert outcome.code == 13, repr(outcome)
    assert contents(agent.workdir) == before
    assert agent.state_of("work") == "suspended"
    return outcome


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): (path.stat().st_mode, path.read_bytes()) for path in files}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_changed_is_named_and_can_be_put_back(agent: Agent, name: str) -> None:
    change, said = CHANGES[name]
    suspended(agent)
    each(change)(agent.workdir)
    outcome = refused(agent)
    lines = outcome.err.splitlines()
    for file in FILES:
        assert any(f"{agent.workdir}/{file}: {said}" in line for line in lines), outcome.err
    assert all(option in lines[-1] for option in ("--into DIR", "--theirs", "--ours"))
    agent("resume", "-d", "work", "--theirs")
    assert_goes_on(agent, agent.workdir)


def test_what_was_here_is_kept_when_it_is_replaced(agent: Agent) -> None:
    snapshot = suspended(agent)
    append(agent.workdir / "append")
    (agent.workdir / "notes").write_text("mine")
    here = contents(agent.workdir)
    restored = agent("resume", "-d", "work", "--theirs", "--json").json
    safety = restored["safety"]
    assert restored["snapshot"] == snapshot
    assert not (agent.workdir / "notes").exists()

    agent("restore", "--files-only", "work:safety", "--into", str(agent.directory / "mine"))
    assert contents(agent.directory / "mine" / str(agent.workdir)[1:]) == here
    assert agent("dump", safety[:8], str(agent.workdir / "notes")).out == "mine"
    agent("suspend", "work")
    outcome = agent("restore", "-d", safety, check=False)
    assert (outcome.code, f"restore --files-only {safety[:8]}" in outcome.err) == (1, True)
    assert agent("snapshots", "work", "-q").out.splitlines()[1] == safety
    agent("diff", "work~1", "work")  # what has files only is not counted
    rows = agent("diff", safety, "work", "--json").json["rows"]
    assert ("-", str(agent.workdir / "notes")) in {(row["change"], row["what"]) for row in rows}
    agent.forget_everything("work")
    agent("restore", "-d", "work")


def test_files_alone_are_made_below_a_directory(agent: Agent) -> None:
    suspended(agent)
    whole, some = agent.directory / "whole", agent.directory / "some"
    agent("restore", "--files-only", "work", "--into", str(whole))
    assert contents(whole / str(agent.workdir)[1:]) == contents(agent.workdir)
    agent("restore", "--files-only", "work", str(agent.workdir / "read"), "--into", str(some))
    assert set(contents(some)) == {str(agent.workdir / "read")[1:]}
    outcome = agent("restore", "--files-only", "work", "--into", str(some), check=False)
    assert (outcome.code, "is not empty" in outcome.err) == (1, True)
    outcome = agent("restore", "--files-only", "work", "/no/such", "--into", str(some / "new"), check=False)
    assert outcome.code == 10
    assert not (some / "new").exists()


def test_the_files_here_can_be_kept(agent: Agent) -> None:
    suspended(agent)
    (agent.workdir / "closed").write_text("mine")
    refused(agent)
    agent("resume", "-d", "work", "--ours")
    agent("kill", "--signal", "USR1", "work")
    await_true(lambda: "[" in agent("logs", "work").out, "it goes on")
    assert json.loads(agent("logs", "work").out.splitlines()[-1]) == ["456789", "mine"]


def test_the_files_can_lie_elsewhere_and_the_run_does_not_notice(agent: Agent) -> None:
    suspended(agent)
    append(agent.workdir / "append")
    here = contents(agent.workdir)
    elsewhere = agent.directory / "a/b"
    agent("resume", "-d", "work", "--into", str(elsewhere))
    assert_goes_on(agent, elsewhere)
    assert agent("exec", "work", "--", "pwd").out == f"{agent.workdir}\n"
    assert contents(agent.workdir) == here
    agent("suspend", "work")
    assert agent("dump", "work", str(agent.workdir / "append")).out == "one\ntwo\n"
    append(elsewhere / "append")
    assert f"~ {elsewhere}/append: appended, 4 bytes" in refused(agent).err
    assert contents(agent.workdir) == here
    agent("resume", "-d", "work", "--theirs")
    assert (elsewhere / "append").read_text() == "one\ntwo\n"


def test_into_wants_a_directory_that_is_free(agent: Agent) -> None:
    suspended(agent)
    taken = agent.directory / "taken"
    taken.mkdir()
    (taken / "mine").touch()
    outcome = agent("resume", "-d", "work", "--into", str(taken), check=False)
    assert (outcome.code, f"{taken} is not empty" in outcome.err) == (1, True)
    assert [path.name for path in taken.iterdir()] == ["mine"]
    agent("resume", "-d", "work")
    assert_goes_on(agent, agent.workdir)


def test_a_directory_that_is_gone_is_made_again(agent: Agent) -> None:
    """As on another host, of which nothing is known but the repository."""
    suspended(agent)
    agent.forget_everything("work")
    kept = agent.directory / "moved"
    agent.workdir.rename(kept)
    agent.workdir = agent.directory  # for the command lines
    agent("resume", "-d", "work")
    assert_goes_on(agent, kept.with_name("work"))


def test_a_single_file_is_compared_and_made_as_a_directory_is(agent: Agent) -> None:
    file = agent.directory / "settings"
    file.write_text("as it was")
    suspended(agent, PROGRAM, "--through", str(file))
    file.write_text("another")
    outcome = agent("resume", "-d", "work", check=False)
    assert (outcome.code, f"~ {file}: cut off, 9 -> 7 bytes" in outcome.err) == (13, True)
    agent("resume", "-d", "work", "--theirs")
    assert file.read_text() == "as it was"
    assert agent("dump", "work:safety", str(file)).out == "another"
    agent("suspend", "work")
    file.unlink()
    agent("resume", "-d", "work")
    assert agent("exec", "work", "--", "cat", str(file)).out == file.read_text() == "as it was"


def test_what_is_certain_to_be_the_same_is_not_read(agent: Agent) -> None:
    old = agent.workdir / "old"
    old.write_text("of before the run")
    time.sleep(2.1)  # the time of its change is not the clock's present any more
    snapshot = suspended(agent)
    here = config_of(agent)
    repository = vault.open_repository(here)
    found = repository.find(snapshot)
    contents = repository.contents(found)

    spec = saved.read(here, found.manifest).spec

    def compared(proven: Callable[[str], Proven]) -> list[str]:
        reader, captured = repository.reader(found, contents), saved.captured(found.manifest)
        places = {one.path: place for one, place in through.places(reader, contents, captured, spec, proven)}
        place = places[str(agent.workdir)]
        read: list[str] = []

        def data(entry: Entry) -> Iterator[bytes]:
            read.append(entry.path)
            return place.data(entry)

        assert compare(replace(place, data=data)) == []
        return read

    directory = runs.directory(here, found.manifest.run_id)
    assert "old" not in compared(trees.proven(directory, snapshot))
    assert "old" in compared(trees.proven(directory, "f" * 64))
    assert "old" in compared(lambda _: unproven)


def test_what_agents_keep_of_themselves_stays_as_it_is_here(agent: Agent) -> None:
    """Others use it, too. That of the run's own agent goes back with the run if the user says so."""
    home = agent.directory / "home"
    own, others = home / ".claude/history", home / ".codex/history"
    for path in (own, others):
        path.parent.mkdir(parents=True)
        path.write_text("one\n")
    (agent.workdir / "claude").write_text(PROGRAM)
    agent("run", "-d", "--name", "work", "-e", f"HOME={home}", "--", "python3", "claude")
    await_true(lambda: "ready" in agent("logs", "work").out, "it is ready")
    agent("suspend", "work")
    for path in (own, others, own.with_name("new")):
        append(path)
    outcome = agent("resume", "-d", "work")
    assert f"warning: 1 change since the snapshot in {own.parent}, " in outcome.err
    assert str(others.parent) not in outcome.err
    assert (own.read_text(), others.read_text()) == ("one\nmore", "one\nmore")
    agent("kill", "work")
    agent("wait", "work", check=False)
    agent("restore", "-d", "work", "--theirs")
    assert (own.read_text(), others.read_text()) == ("one\n", "one\nmore")
    assert own.with_name("new").read_text() == "more"
    assert agent("dump", "work:safety", str(own)).out == "one\nmore"


def test_a_link_in_the_place_of_the_directory_is_not_followed(agent: Agent) -> None:
    suspended(agent)
    kept, elsewhere = agent.directory / "moved", agent.directory / "elsewhere"
    agent.workdir.rename(kept)
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    agent.workdir.symlink_to(elsewhere)
    outcome = agent("resume", "-d", "work", check=False)
    assert (outcome.code, f"~ {agent.workdir}: directory -> symlink" in outcome.err) == (13, True)
    outcome = agent("resume", "-d", "work", "--theirs", check=False)
    assert (outcome.code, "is a symbolic link here" in outcome.err) == (1, True)
    assert [path.name for path in elsewhere.iterdir()] == ["mine"]
    agent.workdir.unlink()
    kept.rename(agent.workdir)
    agent("resume", "-d", "work")


def test_a_transcript_never_has_a_line_twice(agent: Agent) -> None:
    transcript = agent.workdir / "transcript.jsonl"
    (agent.workdir / "program.py").write_text(TRANSCRIPT)
    agent("run", "-d", "--name", "work", "--", "python3", "program.py")

    def lines() -> list[int]:
        text = transcript.read_text()
        return [json.loads(line)["n"] for line in text[: text.rfind("\n") + 1].splitlines()]

    await_true(lambda: transcript.exists() and len(lines()) > 5, "it writes")
    snapshot = agent("checkpoint", "work", "--json").json_lines[-1]["snapshot"]
    saved = len(lines())
    await_true(lambda: len(lines()) > saved + 20, "it has gone on since")
    agent("kill", "work")
    agent("wait", "work", check=False)
    outcome = agent("restore", "-d", "work", "--at", snapshot, check=False)
    assert (outcome.code, "transcript.jsonl: appended" in outcome.err) == (13, True)
    agent("restore", "-d", "work", "--at", snapshot, "--theirs")
    before = len(lines())
    await_true(lambda: len(lines()) > before + 20, "it goes on")
    (safety,) = (one for one in agent("snapshots", "work", "--json").json if one["tags"] == ["safety"])
    assert agent("dump", safety["snapshot"], str(transcript)).out.startswith(
        agent("dump", snapshot, str(transcript)).out
    )
    found = lines()
    assert found == list(range(len(found)))


def test_another_commit_that_is_checked_out_is_named(agent: Agent) -> None:
    git = agent.workdir / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "refs/heads/main").write_text(f"{'0123456789' * 4}\n")
    suspended(agent)
    (git / "refs/heads/main").write_text(f"{'a' * 40}\n")
    for number in range(30):
        (agent.workdir / f"new-{number:02}").touch()
    lines = refused(agent).err.splitlines()
    assert lines[1] == f"  ~ git HEAD of {agent.workdir}: main 01234567 -> main aaaaaaaa"
    assert lines[2] == f"  + {agent.workdir}/new-00: not in the snapshot: file, 0 bytes"
    assert lines[-2] == "  and 11 more"


def test_a_restore_that_fails_puts_the_files_back(agent: Agent) -> None:
    suspended(agent)
    append(agent.workdir / "append")
    (agent.workdir / "notes").write_text("mine")
    here = contents(agent.workdir)
    broken = agent.directory / "criu"
    broken.write_text(f'#!/bin/sh\n[ "$1" != swrk ] || exit 1\nexec {config.load().criu} "$@"\n')
    broken.chmod(0o755)
    outcome = agent("resume", "-d", "work", "--theirs", env={"CRIU_AGENT_CRIU": str(broken)}, check=False)
    assert (outcome.code != 0, "the files that were here are in snapshot" in outcome.err) == (True, True)
    assert contents(agent.workdir) == here
    elsewhere = agent.directory / "elsewhere"
    into = ["--into", str(elsewhere)]
    assert agent("resume", "-d", "work", *into, env={"CRIU_AGENT_CRIU": str(broken)}, check=False).code != 0
    assert not elsewhere.exists()
    assert contents(agent.workdir) == here
    agent("resume", "-d", "work", "--theirs")
    assert_goes_on(agent, agent.workdir)


def test_killed_in_the_middle_the_same_again_completes_it(agent: Agent) -> None:
    many = agent.workdir / "many"
    many.mkdir()
    for number in range(3000):
        (many / f"{number:04}").write_text("as it was")
    suspended(agent)
    then = contents(agent.workdir)
    for path in many.iterdir():
        path.write_text("as it is here")
    here = contents(agent.workdir)
    with started(agent, "resume", "-d", "work", "--theirs") as process:
        await_true(lambda: (many / "0100").read_text() == "as it was", "it replaces")
        os.kill(agent("inspect", "work").json[0]["state"]["supervisor_pid"], signal.SIGKILL)
        process.wait()
    between = contents(agent.workdir)
    assert between not in (here, then)
    assert set(then) <= set(between)
    agent("resume", "-d", "work", "--theirs")
    assert_goes_on(agent, agent.workdir)
    assert {path: now for path, now in contents(agent.workdir).items() if path.startswith("many/")} == {
        path: now for path, now in then.items() if path.startswith("many/")
    }
    safety = [one["snapshot"] for one in agent("snapshots", "work", "--json").json if "safety" in one["tags"]]
    agent("restore", "--files-only", safety[0], "--into", str(agent.directory / "mine"))
    assert contents(agent.directory / "mine" / str(agent.workdir)[1:]) == here
