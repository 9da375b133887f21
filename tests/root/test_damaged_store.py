"""A damaged repository never reaches CRIU, and a restore that the host's files do not allow names the file.

In all cases the run stays as it was, and can be resumed when what is wrong has been put right; where it cannot be
put right any more, it is said how to go on with what is left.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from criu_agent import runs
from criu_agent.errors import Corrupt
from criu_agent.ops import restore
from tests.conftest import Agent, Outcome, await_true
from tests.counting import assert_counts_on, assert_untouched, numbers, start_counter
from tests.inside import config_of, in_private_mounts

NEEDED = {"config", "heads", "keys", "packs", "snapshots", "tags"}
FLIPPED = "flipped"
TRUNCATED = "truncated"
MISSING = "missing"


@contextmanager
def damaged(path: Path, damage: str) -> Iterator[None]:
    """The file with one bit changed in its middle, cut in half, or gone; as it was before at the end."""
    before = path.read_bytes()
    half = len(before) // 2
    if damage == MISSING:
        path.unlink()
    elif damage == TRUNCATED:
        path.write_bytes(before[:half])
    else:
        path.write_bytes(before[:half] + bytes([before[half] ^ 0x10]) + before[half + 1 :])
    try:
        yield
    finally:
        path.write_bytes(before)


def small_snapshot(agent: Agent) -> list[Path]:
    """A suspended run of a shell that wrote a file, with a tag; the objects of the repository."""
    script = "echo kept >/root/kept; n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done"
    agent("run", "-d", "--name", "counter", "--", "sh", "-c", script)
    await_true(lambda: len(numbers(agent)) > 3, "it counts")
    agent("suspend", "counter")
    agent("tag", "counter", "--add", "tagged")
    repository = agent.directory / "repository"
    return [repository / "config", *sorted(path for path in repository.glob("[!.]*/**/*") if path.is_file())]


def criu_was_started(agent: Agent) -> bool:
    return (agent.directory / "state/runs" / agent.run_of("counter")["run"] / "criu-restore.log").exists()


@pytest.mark.parametrize("damage", [FLIPPED, TRUNCATED, MISSING])
def test_no_damaged_object_is_ever_restored(agent: Agent, damage: str) -> None:
    """Every object of the repository that a restore needs, one after the other."""
    objects = small_snapshot(agent)
    assert {kind(agent, path) for path in objects} == {*NEEDED, "locks"}
    config = config_of(agent)
    run = runs.find(config, "counter")
    for path in needed(agent, objects, damage):

        def restored(says: str = named(agent, path, damage)) -> None:
            with pytest.raises(Corrupt) as error:
                restore.restore(config, run, run.state.last_snapshot, here=restore.Here(), commit=not_that_far)
            assert says in error.value.message

        with damaged(path, damage):
            in_private_mounts(restored)
        assert not criu_was_started(agent), path
    assert_resumes(agent)


@pytest.mark.parametrize("damage", [FLIPPED, TRUNCATED, MISSING])
def test_resume_of_a_damaged_snapshot_is_14_names_the_object_and_leaves_the_run_suspended(
    agent: Agent, damage: str
) -> None:
    objects = small_snapshot(agent)
    for path in {kind(agent, path): path for path in needed(agent, objects, damage)}.values():
        with damaged(path, damage):
            outcome = agent("resume", "-d", "counter", check=False)
        assert outcome.code == 14, outcome
        assert named(agent, path, damage) in outcome.err
        assert "hint: " in outcome.err, path
        assert not criu_was_started(agent), path
        assert agent.state_of("counter") == "suspended"
    assert_resumes(agent)


def kind(agent: Agent, path: Path) -> str:
    return path.relative_to(agent.directory / "repository").parts[0]


def needed(agent: Agent, objects: list[Path], damage: str) -> list[Path]:
    """Those without which nothing is restored. Tags that are gone are no tags."""
    wanted = NEEDED - ({"tags"} if damage == MISSING else set())
    return [path for path in objects if kind(agent, path) in wanted]


def named(agent: Agent, path: Path, damage: str) -> str:
    """What a message must say of the object."""
    return {
        "config": "config of the repository",
        "keys": "no keys" if damage == MISSING else path.name,
        "snapshots": path.name.rpartition("-")[2],
    }.get(kind(agent, path), path.name)


def not_that_far(_root_pid: int) -> None:
    raise AssertionError("a damaged snapshot was restored")


def assert_resumes(agent: Agent) -> None:
    """What was damaged is as it was before: so is the run."""
    agent("resume", "-d", "counter")
    assert_counts_on(agent)
    assert agent("exec", "counter", "cat", "/root/kept").out == "kept\n"


def test_a_damaged_snapshot_leaves_the_older_one_usable(agent: Agent) -> None:
    start_counter(agent)
    agent("checkpoint", "counter")
    agent("suspend", "counter")
    old, new = (one["snapshot"] for one in agent("snapshots", "--json").json)
    (manifest,) = agent.directory.glob(f"repository/snapshots/*/*-{new}")
    with damaged(manifest, FLIPPED):
        outcome = agent("resume", "-d", "counter", check=False)
        assert outcome.code == 14
        assert "criu-agent snapshots" in outcome.err
        listing = agent("snapshots", "--json")
        assert [one["snapshot"] for one in listing.json] == [old]
        assert new in listing.err
        agent("restore", "-d", "--at", old[:16])
        await_true(lambda: agent.state_of("counter") == "running", "the older one runs")


def test_a_repository_of_a_newer_format_is_15_and_left_alone(agent: Agent) -> None:
    small_snapshot(agent)
    config = agent.directory / "repository/config"
    body = config.read_bytes()[:-65].replace(b"repository 2\n", b"repository 3\n")
    config.write_bytes(body + blake3(body).hexdigest().encode() + b"\n")
    outcome = agent("resume", "-d", "counter", check=False)
    assert outcome.code == 15
    assert "config of the repository has format 3, this criu-agent reads up to 2" in outcome.err
    assert not criu_was_started(agent)
    assert agent.state_of("counter") == "suspended"


@pytest.mark.parametrize("damage", [FLIPPED, TRUNCATED, MISSING])
def test_a_key_file_that_is_damaged_is_12_and_the_run_stays_as_it_is(agent: Agent, damage: str) -> None:
    start_counter(agent)
    agent("checkpoint", "counter")
    (key_file,) = agent.directory.glob("state/keys/*.key")
    whole = key_file.read_text()
    comments, key = whole[: whole.index("AGE-SECRET-KEY-")], whole[whole.index("AGE-SECRET-KEY-") :]
    if damage == MISSING:
        key_file.unlink()
    else:
        key_file.write_text(comments + (key[:40] if damage == TRUNCATED else key.replace(key[40], "B", 1)))
    for verb in ("checkpoint", "suspend"):
        outcome = agent(verb, "counter", check=False)
        assert outcome.code == 12, outcome
        assert str(key_file) in outcome.err
        assert "(the agent: running, unharmed)" in outcome.err
        assert key[:40] not in outcome.err
        assert_counts_on(agent)
        assert_untouched(agent)
    key_file.write_text(whole)
    key_file.chmod(0o600)
    agent("suspend", "counter")
    key_file.chmod(0o644)
    outcome = agent("resume", "-d", "counter", check=False)
    assert outcome.code == 12
    assert f"others can read or write the key file {key_file}" in outcome.err
    assert agent.state_of("counter") == "suspended"
    key_file.chmod(0o600)
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


@pytest.mark.parametrize("damage", [FLIPPED, TRUNCATED])
def test_a_damaged_lock_does_not_keep_a_run_from_being_saved_for_ever(agent: Agent, damage: str) -> None:
    start_counter(agent)
    agent("checkpoint", "counter")
    run = agent.run_of("counter")["run"]
    lock = agent.directory / "repository/locks" / run
    with damaged(lock, damage):
        outcome = agent("suspend", "counter", check=False)
        assert outcome.code == 14
        assert f"register locks/{run}" in outcome.err
        assert f"criu-agent unlock {run}" in outcome.err
        assert_counts_on(agent)
        agent("unlock", run)
        agent("suspend", "counter")
        agent("resume", "-d", "counter")
        assert_counts_on(agent)


@pytest.mark.parametrize("damage", [FLIPPED, TRUNCATED, MISSING])
def test_a_run_goes_on_without_its_head_when_the_user_says_so(agent: Agent, damage: str) -> None:
    start_counter(agent)
    agent("checkpoint", "counter")
    run = agent.run_of("counter")["run"]
    head = agent.directory / "repository/heads" / run
    with damaged(head, damage):
        outcome = agent("suspend", "counter", check=False)
        assert outcome.code == 14
        assert run in outcome.err
        assert f"criu-agent forget --lost {run}" in outcome.err
        assert_counts_on(agent)
        agent("forget", "--lost", run)
        assert len(agent("snapshots", "--json").json) == 1, "what can be read is kept"
        agent("suspend", "counter")
        agent("resume", "-d", "counter")
        assert_counts_on(agent)


def test_a_repository_that_lost_everything_but_its_data_is_not_given_new_keys(agent: Agent) -> None:
    """They would make all of it unreadable, also when the old ones are brought back."""
    start_counter(agent)
    agent("checkpoint", "counter")
    (key,) = agent.directory.glob("repository/keys/*")
    with damaged(key, MISSING):
        outcome = agent("suspend", "counter", check=False)
        assert outcome.code == 14
        assert "no keys" in outcome.err
        assert not key.exists()
        assert_counts_on(agent)
    agent("suspend", "counter")


def reader_of(agent: Agent, name: str) -> Path:
    """A suspended run that holds a file of the work directory open at its third line, and counts."""
    path = agent.workdir / name
    path.write_text("".join(f"line {n}\n" for n in range(100)))
    (agent.workdir / "reader.py").write_text(
        "import time\n"
        f"file = open({name!r}, 'r+', buffering=1)\n"
        "for _ in range(3): file.readline()\n"
        "n = 0\n"
        "while True: n += 1; print(n, flush=True); time.sleep(0.05)\n"
    )
    agent("run", "-d", "--name", "counter", "--", "python3", "reader.py")
    await_true(lambda: len(numbers(agent)) > 2, "it counts")
    agent("suspend", "counter")
    return path


def refused(agent: Agent, path: Path) -> Outcome:
    """A restore that this host cannot do now: the file is named, the run is still suspended, nothing is left.

    By us, and by CRIU when it is told to go on with the files here: that is what is returned.
    """
    for options, code in (((), 13), (("--ours",), 15)):
        outcome = agent("resume", "-d", "counter", *options, check=False)
        assert outcome.code == code, outcome
        assert str(path) in outcome.err
        assert "hint: " in outcome.err
        assert agent.state_of("counter") == "suspended"
    return outcome


def test_an_open_file_that_was_deleted_is_named_and_the_run_can_be_resumed_with_it(agent: Agent) -> None:
    path = reader_of(agent, "notes.txt")
    aside = path.with_name("aside")
    path.rename(aside)
    refused(agent, path)
    aside.rename(path)
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


@pytest.mark.parametrize("change", ["grown", "shorter", "replaced"])
def test_an_open_file_that_was_changed_is_named_and_the_run_can_be_resumed_with_the_old_one(
    agent: Agent, change: str
) -> None:
    path = reader_of(agent, "notes.txt")
    before = path.read_bytes()
    if change == "grown":
        path.write_bytes(before + b"one line more\n")
    elif change == "shorter":
        os.truncate(path, 10)
    else:
        path.unlink()
        path.write_bytes(b"another file altogether\n")
    outcome = refused(agent, path)
    assert str(len(before)) in outcome.err, "its size then is said"
    path.write_bytes(before)
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def test_an_open_file_whose_mode_was_changed_is_named(agent: Agent) -> None:
    path = reader_of(agent, "notes.txt")
    mode = path.stat().st_mode
    path.chmod(0)
    refused(agent, path)
    path.chmod(mode)
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def test_an_executable_that_is_gone_is_named(agent: Agent) -> None:
    program = agent.workdir / "my-python"
    program.write_bytes(Path("/bin/sh").resolve().read_bytes())
    program.chmod(0o755)
    script = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done"
    agent("run", "-d", "--name", "counter", "--", "./my-python", "-c", script)
    await_true(lambda: len(numbers(agent)) > 2, "it counts")
    agent("suspend", "counter")
    aside = program.with_name("aside")
    program.rename(aside)
    outcome = refused(agent, program)
    assert "program or library" in outcome.err
    aside.rename(program)
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def test_a_work_directory_that_is_gone_is_named(agent: Agent) -> None:
    inner = agent.workdir / "inner"
    inner.mkdir()
    (agent.workdir / "other").touch()  # all of an empty directory is made
    script = "cd inner; n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done"
    agent("run", "-d", "--name", "counter", "--", "sh", "-c", script)
    await_true(lambda: len(numbers(agent)) > 2, "it counts")
    agent("suspend", "counter")
    inner.rmdir()
    outcome = refused(agent, inner)
    assert "working directory" in outcome.err
    inner.mkdir()
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def test_a_through_path_that_is_gone_is_made_again(agent: Agent) -> None:
    shared = agent.directory / "shared"
    (shared / "deep").mkdir(parents=True)
    (agent.workdir / "n.sh").write_text("n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done")
    agent("run", "-d", "--name", "counter", "--through", str(shared), "--", "sh", "n.sh")
    await_true(lambda: len(numbers(agent)) > 2, "it counts")
    agent("suspend", "counter")
    (shared / "deep").rmdir()
    shared.rmdir()
    agent("resume", "-d", "counter")
    assert (shared / "deep").is_dir()
    assert_counts_on(agent)
