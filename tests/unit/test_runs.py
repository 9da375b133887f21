"""Run directories: found by the rules, never half, with one supervisor each."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent import runs
from criu_agent.config import Config
from criu_agent.errors import Failure, HostCannot, NotFound, Usage
from criu_agent.model import RunSpec, RunState


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        state_dir=tmp_path / "state",
        runtime_dir=tmp_path / "run",
        repository=str(tmp_path / "repository"),
        endpoint_url="",
        key_file=None,
        passphrase_file=None,
        criu=Path("/nonexistent"),
        init=Path("/nonexistent"),
    )


def create(config: Config, run_id: str, name: str, *, workdir: str = "/", created: str = "") -> runs.Run:
    spec = RunSpec(
        id=run_id,
        name=name,
        argv=("sh", "-c", "\udcff"),
        workdir=workdir,
        env={"A": "1"},
        through=(workdir,),
        created=created or f"2026-11-21T00:00:00.{len(runs.every(config)):06}Z",
    )
    runs.create(config, spec)
    run = runs.by_id(config, run_id)
    assert run is not None
    assert run.spec == spec
    return run


def test_a_new_run_is_starting_and_for_nobody_else_to_read(config: Config) -> None:
    run = create(config, "aa11", "one")
    assert run.state.state == "starting"
    assert not run.alive
    assert (run.directory.stat().st_mode & 0o777, run.runtime.stat().st_mode & 0o777) == (0o700, 0o700)
    assert {path.stat().st_mode & 0o777 for path in run.directory.iterdir()} == {0o600}


def test_a_name_is_given_once(config: Config) -> None:
    create(config, "aa11", "one")
    with pytest.raises(Failure, match="the name one is taken"):
        create(config, "bb22", "one")
    assert [run.spec.id for run in runs.every(config)] == ["aa11"]


def test_a_name_is_given_once_also_when_many_ask_at_once(config: Config) -> None:
    made: list[str] = []

    def ask(number: int) -> None:
        spec = RunSpec(id=f"id{number}", name="same", argv=("x",), workdir="/", env={}, created=runs.now())
        try:
            runs.create(config, spec)
        except Failure:
            return
        made.append(spec.id)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(runs.every(config)) == 1


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path, config: Config) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(HostCannot, match=re.escape(str(tmp_path / "state"))):
        create(config, "aa11", "one", created=runs.now())


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "0" * 63])
def test_good_names_pass(name: str) -> None:
    assert runs.check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-f", "_x", "a b", "a/b", "../x", "a\n", "ä", "x" * 64, "a\x1b[2J"])
def test_a_name_that_could_be_taken_for_something_else_is_refused(name: str) -> None:
    with pytest.raises(Usage):
        runs.check_name(name)


@given(st.text(max_size=70))
def test_a_name_that_passes_is_a_plain_file_name(name: str) -> None:
    try:
        runs.check_name(name)
    except Usage:
        return
    assert re.fullmatch("[A-Za-z0-9._-]+", name)
    assert name[0] not in "._-"


def test_a_run_is_found_by_name_by_id_and_by_the_beginning_of_its_id(config: Config) -> None:
    create(config, "aa11", "one")
    create(config, "aa22", "two")
    assert runs.find(config, "one").spec.id == "aa11"
    assert runs.find(config, "aa22").spec.id == "aa22"
    assert runs.find(config, "aa2").spec.id == "aa22"


def test_a_name_goes_before_the_beginning_of_an_id(config: Config) -> None:
    create(config, "aa11", "one")
    create(config, "bb22", "aa")
    assert runs.find(config, "aa").spec.id == "bb22"


def test_what_means_several_runs_is_refused_with_their_names(config: Config) -> None:
    create(config, "aa11", "one")
    create(config, "aa22", "two")
    with pytest.raises(NotFound, match=r"aa11 \(one\), aa22 \(two\)"):
        runs.find(config, "aa")


@pytest.mark.parametrize("wanted", ["", "x", "one ", "*", "../aa11", "/"])
def test_what_names_no_run_is_not_found_also_when_there_is_only_one(config: Config, wanted: str) -> None:
    create(config, "aa11", "one")
    with pytest.raises(NotFound):
        runs.find(config, wanted)


def test_a_dot_is_the_newest_run_of_this_directory(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create(config, "aa11", "newest", workdir=str(tmp_path), created="2026-11-22T00:00:00.000000Z")
    create(config, "bb22", "older", workdir=str(tmp_path), created="2026-11-21T00:00:00.000000Z")
    create(config, "cc33", "elsewhere", workdir="/", created="2026-11-23T00:00:00.000000Z")
    assert runs.find(config, ".").spec.name == "newest"


def test_a_dot_in_a_directory_that_was_removed_is_not_found(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(config, "aa11", "one")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(NotFound, match="removed"):
        runs.find(config, ".")


def test_a_state_that_cannot_be_written_leaves_the_old_one_whole(config: Config, tmp_path: Path) -> None:
    run = create(config, "aa11", "one")
    (tmp_path / "full").symlink_to("/dev/full")
    before = (run.directory / "state.json").read_bytes()
    (run.directory / f".state.json.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space"):
        runs.write_state(run.directory, RunState(state="running"))
    assert (run.directory / "state.json").read_bytes() == before
    assert sorted(path.name for path in run.directory.iterdir()) == ["run.json", "state.json"]


def test_a_reader_never_sees_half_a_state(config: Config) -> None:
    run = create(config, "aa11", "one")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            runs.write_state(run.directory, RunState(state="running", error="x" * (number % 5000), sequence=number))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = [runs.by_id(config, "aa11") for _ in range(500)]
    finally:
        stop.set()
        thread.join()
    sequences = [found.state.sequence for found in seen if found is not None]
    assert len(sequences) == 500
    assert sequences == sorted(sequences)


def test_a_run_has_one_supervisor(config: Config) -> None:
    run = create(config, "aa11", "one")
    lock = runs.hold_lock(run.directory)
    again = runs.by_id(config, "aa11")
    assert again is not None
    assert again.alive
    with pytest.raises(Failure, match="has a supervisor already"):
        runs.hold_lock(run.directory)
    os.close(lock)
    again = runs.by_id(config, "aa11")
    assert again is not None
    assert not again.alive
    os.close(runs.hold_lock(run.directory))


def test_who_only_looks_is_never_in_the_way_of_a_supervisor(config: Config) -> None:
    run = create(config, "aa11", "one")
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            runs.by_id(config, "aa11")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(1000):
            os.close(runs.hold_lock(run.directory))
    finally:
        stop.set()
        thread.join()


def test_the_lock_of_a_supervisor_that_was_killed_is_free(config: Config) -> None:
    run = create(config, "aa11", "one")
    code = "import sys; from pathlib import Path; from criu_agent import runs; runs.hold_lock(Path(sys.argv[1]))"
    argv = [sys.executable, "-c", f"{code}; print(1, flush=True); input()", str(run.directory)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"1\n"
        with pytest.raises(Failure):
            runs.hold_lock(run.directory)
        holder.kill()
    os.close(runs.hold_lock(run.directory))


def state_shown(config: Config, state: RunState) -> str:
    run = runs.by_id(config, "aa11") or create(config, "aa11", "one")
    runs.write_state(run.directory, state)
    found = runs.by_id(config, "aa11")
    assert found is not None
    return found.shown_state


def test_what_a_dead_supervisor_wrote_last_is_not_shown_as_true(config: Config) -> None:
    for state in ("starting", "running", "checkpointing", "restoring"):
        assert state_shown(config, RunState(state=state)) == "failed"  # type: ignore[arg-type]
    for state in ("exited", "suspended", "failed"):
        assert state_shown(config, RunState(state=state)) == state  # type: ignore[arg-type]


def test_a_process_that_has_the_pid_by_now_is_not_taken_for_the_box(config: Config) -> None:
    """Anybody can call a process criu-agent-init; being in the run's cgroup is what counts."""
    code = (
        "import pathlib; pathlib.Path('/proc/self/comm').write_text('criu-agent-init'); print(1, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        assert Path(f"/proc/{other.pid}/comm").read_text() == "criu-agent-init\n"
        shown = state_shown(config, RunState(state="running", root_pid=other.pid, boot_id=runs.boot_id()))
        other.kill()
    assert shown == "failed"


def test_removing_leaves_nothing(config: Config) -> None:
    run = create(config, "aa11", "one")
    (run.directory / "box/upper/etc").mkdir(parents=True)
    (run.directory / "box/upper/link").symlink_to("/")
    runs.remove(run)
    assert runs.every(config) == []
    assert not run.directory.exists()
    assert not run.runtime.exists()


def test_a_removal_that_was_cut_off_can_be_said_again(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create(config, "aa11", "one")
    for name in ("box", "box.new"):
        (run.directory / name).mkdir()
    for name in ("lock", "output.log", "supervisor.log"):
        (run.directory / name).touch()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nonexistent")  # rm is not found: it is cut off at the first directory
        with pytest.raises(FileNotFoundError):
            runs.remove(run)
    again = runs.find(config, "one")
    runs.remove(again)
    assert runs.every(config) == []
    assert not run.directory.exists()


def test_a_tree_of_any_depth_is_removed(config: Config) -> None:
    run = create(config, "aa11", "one")
    fd = os.open(run.directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    runs.remove(run)
    assert not run.directory.exists()


def test_a_run_that_is_being_made_or_removed_is_not_there(config: Config) -> None:
    create(config, "aa11", "one")
    (config.runs / "half").mkdir()
    (config.runs / "stray file").touch()
    assert [run.spec.id for run in runs.every(config)] == ["aa11"]
    assert runs.by_id(config, "half") is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"state": 1, "new": 2}', "null"])
def test_a_damaged_state_hides_no_run(config: Config, damage: str) -> None:
    run = create(config, "aa11", "one")
    (run.directory / "state.json").write_text(damage)
    found = runs.find(config, "one")
    assert found.shown_state == "failed"
    assert "cannot be read" in found.state.error
    runs.remove(found)


def test_the_files_are_json_that_a_person_can_read(config: Config) -> None:
    run = create(config, "aa11", "one")
    assert json.loads((run.directory / "run.json").read_text())["name"] == "one"
    assert json.loads((run.directory / "state.json").read_text())["state"] == "starting"
