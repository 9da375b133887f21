"""What bad luck gets: full disks, Ctrl-C in the middle, a dying agent. The agent goes on, and nothing is left."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from criu_agent import runs
from criu_agent.criu import images
from criu_agent.criu.dump import Cancel, Dump
from criu_agent.criu.images import ImageDir
from criu_agent.errors import Failure, Interrupted, Refused
from criu_agent.ops import live
from tests.conftest import PATIENCE, Agent, await_true
from tests.counting import (
    assert_counts_on,
    assert_untouched,
    hold_criu,
    is_gone,
    numbers,
    processes,
    start_counter,
    started,
)
from tests.inside import config_of, in_private_mounts

SEED = 20261121


@contextmanager
def small_disk(agent: Agent, path: Path, size: str) -> Iterator[None]:
    """A file system of that size mounted on the path, until all runs of the test have been ended."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "criu-agent-test", str(path)], check=True)
    try:
        yield
    finally:
        agent.clean_up()
        # Lazily: a supervisor's own mount namespace holds it until that has ended.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def snapshots(agent: Agent) -> list[str]:
    return [one["snapshot"] for one in agent("snapshots", "--json").json]


# -- no room


@pytest.mark.parametrize("verb", ["checkpoint", "suspend"])
def test_a_full_repository_is_16_and_the_next_checkpoint_works(agent: Agent, verb: str) -> None:
    repository = agent.directory / "repository"
    with small_disk(agent, repository, "16m"):
        start_counter(agent, megabytes=40)
        for _ in range(2):
            outcome = agent(verb, "counter", check=False)
            assert outcome.code == 16, outcome
            assert f"no space left in the repository {repository}" in outcome.err
            assert "(the agent: running, unharmed)" in outcome.err
            assert "hint: free some space" in outcome.err
            assert_untouched(agent)
        assert_counts_on(agent)
        assert snapshots(agent) == []
        assert not list((repository / ".tmp").iterdir())
        subprocess.run(["mount", "-o", "remount,size=300m", str(repository)], check=True)
        agent(verb, "counter")
        if verb == "suspend":
            agent("resume", "-d", "counter")
        assert_counts_on(agent)
        assert len(snapshots(agent)) == 1


@pytest.mark.parametrize("first", [True, False], ids=["first checkpoint", "later one"])
def test_a_full_state_directory_is_16_and_the_run_goes_on(agent: Agent, first: bool) -> None:
    """The log, the stage script and the copy of the upper layer have no room; nor has the state of the run, nor, at
    first, the key of the repository."""
    state = agent.directory / "state"
    with small_disk(agent, state, "64m"):
        start_counter(agent)
        if not first:
            agent("checkpoint", "counter")
        agent("exec", "counter", "sh", "-c", "head -c 8000000 /dev/urandom >/root/written")
        with open(state / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        outcome = agent("checkpoint", "counter", check=False)
        assert outcome.code == 16, outcome
        assert "(the agent: running, unharmed)" in outcome.err
        assert_untouched(agent)
        assert agent.state_of("counter") in ("running", "checkpointing")
        pid = agent.root_pid("counter")
        (state / "filler").unlink()
        agent("checkpoint", "counter")
        assert agent.root_pid("counter") == pid
        before = numbers(agent)
        await_true(lambda: numbers(agent)[-1] > before[-1], "it counts on")


def test_a_repository_that_has_gone_is_not_made_anew_where_it_was(agent: Agent) -> None:
    """Its file system was unmounted: the next snapshots must not go to what lies below, with keys of its own."""
    start_counter(agent)
    agent("checkpoint", "counter")
    repository, aside = agent.directory / "repository", agent.directory / "aside"
    repository.rename(aside)
    for verb in ("checkpoint", "suspend"):
        outcome = agent(verb, "counter", check=False)
        assert outcome.code == 10, outcome
        assert f"there is no repository at {repository}" in outcome.err
        assert "mount it" in outcome.err
        assert "(the agent: running, unharmed)" in outcome.err
        assert not repository.exists()
    aside.rename(repository)
    agent("suspend", "counter")
    repository.rename(aside)
    assert agent("resume", "-d", "counter", check=False).code == 10
    aside.rename(repository)
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def test_images_that_need_more_memory_than_there_is_are_refused_before_the_freeze() -> None:
    have = images.available_memory(Path("/proc/meminfo").read_text())
    images.check_memory(1 << 20)
    with pytest.raises(Refused, match="MiB of memory") as refused:
        images.check_memory(2 * have)
    assert refused.value.exit_code == 16
    assert refused.value.agent_state == "running, unharmed"
    assert refused.value.hint


def dump_of(agent: Agent, image_dir: ImageDir, *, cancel: Cancel | None = None, limit: float = 60.0) -> Dump:
    """A dump of the counter as its supervisor would take one."""
    config = config_of(agent)
    run = runs.find(config, "counter")
    return Dump(
        config.criu,
        pid=run.state.root_pid,
        images=image_dir,
        work=run.directory,
        externals=live.layout(config, run.spec).dump_externals(),
        leave_running=True,
        network_lock="skip",
        limit=limit,
        cancel=cancel or Cancel(),
    )


def test_images_that_outgrow_their_tmpfs_are_16_and_the_run_goes_on(agent: Agent) -> None:
    def dumped() -> None:
        for megabytes in (0.1, 1, 8, 30):
            with ImageDir(agent.directory / "images", int(megabytes * (1 << 20))) as image_dir:
                with pytest.raises(Refused) as refused, dump_of(agent, image_dir):
                    raise AssertionError("it cannot have been dumped")
                assert refused.value.agent_state == "running, unharmed"
                assert "space" in refused.value.message
            assert_untouched(agent)

    start_counter(agent, megabytes=40)
    in_private_mounts(dumped)
    assert_counts_on(agent)
    agent("checkpoint", "counter")


def test_a_dump_that_does_not_end_in_time_is_undone(agent: Agent) -> None:
    def dumped() -> None:
        with (
            ImageDir(agent.directory / "images", 400 << 20) as image_dir,
            pytest.raises(Failure, match="did not end within 0 s"),
            dump_of(agent, image_dir, limit=0.03),
        ):
            raise AssertionError("it cannot have been dumped")

    start_counter(agent, megabytes=200)
    in_private_mounts(dumped)
    assert_untouched(agent)
    assert_counts_on(agent)


def test_a_dump_that_is_given_up_after_the_freeze_is_undone(agent: Agent) -> None:
    def given_up() -> None:
        with (
            ImageDir(agent.directory / "images", 100 << 20) as image_dir,
            contextlib.suppress(Interrupted),
            dump_of(agent, image_dir),
        ):
            assert not is_free(agent.root_pid("counter")), "it is frozen"
            raise Interrupted("given up")

    start_counter(agent, megabytes=10)
    in_private_mounts(given_up)
    assert_untouched(agent)
    assert_counts_on(agent)


# -- Ctrl-C


def test_a_checkpoint_given_up_at_any_time_leaves_the_run_as_it_was(agent: Agent) -> None:
    dice = random.Random(SEED)
    start_counter(agent, megabytes=300)
    agent("checkpoint", "counter")  # the next ones store nothing new
    longest = 0.5  # seconds from the beginning of the checkpoint until it is given up
    ended: list[int] = []
    for _ in range(20):
        with checkpoint_under_way(agent) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(0, longest))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode in (0, 130, -signal.SIGINT), (out, err)
        assert process.returncode != 130 or b"given up" in err or b"interrupted" in err
        await_true(lambda: agent.state_of("counter") == "running", "it is over")
        assert_untouched(agent)
        ended.append(process.returncode)
        if process.returncode == 0:  # it was quicker: be earlier, or most of them would never be given up
            longest *= 0.7
    taken = len(snapshots(agent)) - 1
    assert ended.count(0) <= taken <= 20 - ended.count(130), "what was given up is in no list"
    assert ended.count(130) > 5
    assert_counts_on(agent)
    agent("suspend", "counter")
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def test_a_suspend_given_up_leaves_the_run_running_or_suspends_it_and_says_which(agent: Agent) -> None:
    dice = random.Random(SEED)
    start_counter(agent, megabytes=100)
    began = time.monotonic()
    agent("suspend", "counter")
    takes = time.monotonic() - began
    agent("resume", "-d", "counter")
    for _ in range(8):
        with started(agent, "suspend", "counter") as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(0.3, 1.0) * takes)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode in (0, 130, -signal.SIGINT), (out, err)
        await_true(lambda: agent.state_of("counter") in ("running", "suspended"), "it is over")
        if b"suspended at snapshot" in out:
            assert agent.state_of("counter") == "suspended"
        elif b"running, unharmed" in err:
            assert agent.state_of("counter") == "running"
        if agent.state_of("counter") == "suspended":
            agent("resume", "-d", "counter")
        assert_counts_on(agent)


def test_ctrl_c_while_a_run_comes_up_leaves_nothing_or_ends_it(agent: Agent) -> None:
    dice = random.Random(SEED)
    (agent.workdir / "counter.py").write_text("import time\ntime.sleep(1000)\n")
    began = time.monotonic()
    agent("run", "-d", "--name", "x", "--", "python3", "counter.py")
    takes = time.monotonic() - began
    agent("rm", "-f", "x")
    for _ in range(20):
        with started(agent, "run", "-d", "--name", "x", "--", "python3", "counter.py") as process:
            time.sleep(dice.uniform(0.3, 1.0) * takes)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        if process.returncode == 0:
            assert agent.state_of("x") == "running"
        else:
            assert process.returncode in (130, -signal.SIGINT), (out, err)
            up = any(run["state"] == "running" for run in agent.runs())
            assert not up or out, "it ended after it had said that the run is up"
        agent("rm", "-f", "x")


def test_ctrl_c_while_a_run_is_restored_leaves_it_suspended_or_ends_it(agent: Agent) -> None:
    dice = random.Random(SEED)
    start_counter(agent, megabytes=50)
    agent("suspend", "counter")
    began = time.monotonic()
    agent("resume", "-d", "counter")
    takes = time.monotonic() - began
    agent("suspend", "counter")
    interrupted = 0
    for _ in range(10):
        with started(agent, "resume", "-d", "counter") as process:
            time.sleep(dice.uniform(0.3, 0.9) * takes)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)
        await_true(lambda: agent.state_of("counter") in ("running", "suspended", "exited"), "it is over")
        state = agent.state_of("counter")
        if process.returncode == 0:
            assert state == "running"
            takes *= 0.8  # the first one was slower
        interrupted += process.returncode != 0
        if state == "exited":
            agent("restore", "-d", "counter")
        if state != "suspended":
            agent("suspend", "counter")
    assert interrupted > 0
    agent("resume", "-d", "counter")
    assert agent.state_of("counter") == "running"
    last = numbers(agent)[-1]
    await_true(lambda: numbers(agent)[-1] > last, "it counts on")


# -- two at once, and an end in the middle


@contextmanager
def checkpoint_under_way(agent: Agent, *, verb: str = "checkpoint") -> "Iterator[subprocess.Popen[bytes]]":
    config = config_of(agent)

    def state() -> str:  # read here: a command line that asks takes as long as a small checkpoint
        return runs.find(config, "counter").state.state

    with started(agent, verb, "counter") as process:
        # Or over already, on a machine that had no time for us meanwhile.
        await_true(lambda: state() == "checkpointing" or process.poll() is not None, "the checkpoint is under way")
        yield process


def test_of_two_checkpoints_at_once_the_second_says_that_one_is_under_way(agent: Agent) -> None:
    go = hold_criu(agent, "dump")
    start_counter(agent)
    with checkpoint_under_way(agent) as first:
        second = agent("checkpoint", "counter", check=False)
        go.touch()
        _, err = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, err
    assert second.code == 1, second
    assert "a checkpoint of this run is under way" in second.err
    assert len(snapshots(agent)) == 1
    assert_counts_on(agent)


@pytest.mark.parametrize("verb", ["checkpoint", "suspend"])
@pytest.mark.parametrize("how", ["stop", "kill", "SIGTERM to the supervisor"])
def test_a_run_told_to_end_while_it_is_saved_ends(agent: Agent, verb: str, how: str) -> None:
    start_counter(agent, megabytes=200)
    supervisor = agent("inspect", "counter").json[0]["state"]["supervisor_pid"]
    with checkpoint_under_way(agent, verb=verb) as saving:
        if how == "stop":
            agent("stop", "-t", "30", "counter")
        elif how == "kill":
            told = agent("kill", "counter", check=False)
            assert told.code == 0 or "is suspended, not running" in told.err, told
        else:
            with contextlib.suppress(ProcessLookupError):  # the suspend was quicker
                os.kill(supervisor, signal.SIGTERM)
        out, err = saving.communicate(timeout=PATIENCE)
    await_true(lambda: agent.state_of("counter") in ("exited", "suspended"), "it has ended")
    if agent.state_of("counter") == "exited":
        assert saving.returncode != 0 or verb == "checkpoint", (out, err)
        assert b"unharmed" not in err, "it is not any more"
        assert agent.run_of("counter")["exit_code"] == (128 + 9 if how == "kill" else 128 + 15)
    else:
        assert (verb, saving.returncode) == ("suspend", 0), "the suspend was quicker"
    await_true(lambda: is_gone(supervisor), "the supervisor has ended")
    assert processes(agent) == []


@pytest.mark.parametrize("verb", ["checkpoint", "suspend"])
def test_an_agent_that_dies_while_it_is_saved_is_an_error_and_no_snapshot(agent: Agent, verb: str) -> None:
    """CRIU alone would hang in some of these moments: see Dump._ended."""
    dice = random.Random(SEED)
    for _ in range(5):
        start_counter(agent, megabytes=100)
        root, taken = agent.root_pid("counter"), len(snapshots(agent))
        with checkpoint_under_way(agent, verb=verb) as saving:
            await_true(
                lambda root=root: is_gone(root) or not is_free(root) or saving.poll() is not None, "it is dumped"
            )
            time.sleep(dice.uniform(0, 0.1))
            with contextlib.suppress(ProcessLookupError):
                os.kill(root, signal.SIGKILL)
            out, err = saving.communicate(timeout=PATIENCE)
        await_true(lambda: agent.state_of("counter") in ("exited", "suspended"), "it has ended")
        if agent.state_of("counter") == "suspended":
            assert (verb, saving.returncode) == ("suspend", 0), "the suspend was quicker"
        else:
            assert agent.run_of("counter")["exit_code"] == 128 + 9
        if saving.returncode == 0:  # everything had been dumped
            assert len(snapshots(agent)) == taken + 1, out
            agent("restore", "-d", "counter")
            before = numbers(agent)
            await_true(lambda before=before: len(numbers(agent)) > len(before) + 2, "it counts on from the snapshot")
        else:
            assert b"unharmed" not in err, err
            assert len(snapshots(agent)) == taken
        agent("rm", "-f", "counter")


# -- resume


def test_a_run_that_runs_is_not_resumed_again(agent: Agent) -> None:
    start_counter(agent)
    agent("checkpoint", "counter")
    pid = agent.root_pid("counter")
    for verb in ("resume", "restore"):
        outcome = agent(verb, "-d", "counter", check=False)
        assert outcome.code == 1
        assert "counter is running; a run is there only once" in outcome.err
        assert "running, unharmed" in outcome.err
    assert agent.root_pid("counter") == pid
    assert_counts_on(agent)


def test_what_is_asked_of_a_run_that_comes_back_is_answered_when_it_is_there(agent: Agent) -> None:
    start_counter(agent)
    agent("suspend", "counter")
    go = hold_criu(agent, "swrk")
    with started(agent, "resume", "-d", "counter") as resume:
        await_true(lambda: agent.state_of("counter") == "restoring", "it is being restored")
        with (
            started(agent, "exec", "counter", "echo", "here") as asking,
            started(agent, "wait", "counter") as waiting,
        ):
            await_true(lambda: all(is_connected(one.pid) for one in (asking, waiting)), "they wait")
            go.touch()
            assert asking.communicate(timeout=PATIENCE) == (b"here\n", b"")
            agent("kill", "counter")
            assert waiting.wait(PATIENCE) == 128 + 9
        assert resume.wait(PATIENCE) == 0


def is_connected(pid: int) -> bool:
    fds = Path(f"/proc/{pid}/fd")
    return any(os.readlink(fd).startswith("socket:") for fd in fds.iterdir())


def test_ctrl_c_in_the_middle_of_a_restore_leaves_the_run_suspended(agent: Agent) -> None:
    start_counter(agent)
    agent("suspend", "counter")
    go = hold_criu(agent, "swrk")
    for _ in range(2):
        with started(agent, "resume", "-d", "counter") as resume:
            await_true(lambda: agent.state_of("counter") == "restoring", "it is being restored")
            resume.send_signal(signal.SIGINT)
            _, err = resume.communicate(timeout=PATIENCE)
        assert resume.returncode == 130, err
        assert agent.state_of("counter") == "suspended"
        assert processes(agent) == []
    go.touch()
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def test_of_two_resumes_at_once_one_wins_and_the_other_says_why(agent: Agent) -> None:
    start_counter(agent, megabytes=30)
    for _ in range(5):
        agent("suspend", "counter")
        with started(agent, "resume", "-d", "counter") as first, started(agent, "resume", "-d", "counter") as second:
            errors = [process.communicate(timeout=PATIENCE)[1] for process in (first, second)]
        codes = [first.returncode, second.returncode]
        assert sorted(codes) == [0, 1], errors
        loser = errors[codes.index(1)]
        assert b"has a supervisor already" in loser or b"a run is there only once" in loser, loser
        assert b"Traceback" not in loser
        assert_counts_on(agent)
        assert len(processes(agent)) == 2


# -- a supervisor that is killed. What prints to it dies of a broken pipe; what is silent lives on.


def start_silent(agent: Agent, *, megabytes: int = 0) -> int:
    """A run that prints nothing: the pid of its supervisor."""
    (agent.workdir / "silent.py").write_text(
        "import sys, time\nballast = open('/dev/urandom', 'rb').read(int(sys.argv[1]) << 20)\n"
        "open('ready', 'w').close()\n"
        "while True: time.sleep(0.05); open('ticks', 'a').write('x')\n"
    )
    agent("run", "-d", "--name", "counter", "--", "python3", "silent.py", str(megabytes))
    await_true((agent.workdir / "ready").exists, "it runs")
    return int(agent("inspect", "counter").json[0]["state"]["supervisor_pid"])


def assert_ticks(agent: Agent) -> None:
    ticks = agent.workdir / "ticks"
    before = ticks.stat().st_size
    await_true(lambda: ticks.stat().st_size > before + 2, "it goes on")


def test_a_run_whose_supervisor_was_killed_is_degraded_and_rm_cleans_it_up(agent: Agent) -> None:
    supervisor = start_silent(agent)
    pids = processes(agent)
    os.kill(supervisor, signal.SIGKILL)
    await_true(lambda: agent.state_of("counter") == "degraded", "ps tells it")
    assert_ticks(agent)
    for verb in (["checkpoint"], ["suspend"], ["plan"], ["attach"], ["exec"]):
        outcome = agent(*verb, "counter", *(["true"] if verb == ["exec"] else []), check=False)
        assert outcome.code in (1, 125)
        assert "counter is degraded" in outcome.err
    assert agent("wait", "counter", check=False).code == 125
    assert agent("rm", "counter", check=False).code == 1, "its processes live: not without -f"
    assert_ticks(agent)
    agent("rm", "-f", "counter")
    assert all(is_gone(pid) for pid in pids)
    assert agent.runs() == []


def test_a_talkative_run_whose_supervisor_was_killed_is_failed_and_can_be_removed(agent: Agent) -> None:
    start_counter(agent)
    supervisor = agent("inspect", "counter").json[0]["state"]["supervisor_pid"]
    os.kill(supervisor, signal.SIGKILL)
    await_true(lambda: agent.state_of("counter") == "failed", "it died of a broken pipe")
    agent("rm", "counter")
    assert agent.runs() == []


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_run_whose_supervisor_was_killed_can_be_ended_and_restored(agent: Agent, end: str) -> None:
    supervisor = start_silent(agent)
    agent("checkpoint", "counter")
    os.kill(supervisor, signal.SIGKILL)
    await_true(lambda: agent.state_of("counter") == "degraded", "ps tells it")
    outcome = agent("restore", "-d", "counter", check=False)
    assert outcome.code == 1
    assert "counter is degraded; a run is there only once" in outcome.err
    assert f"criu-agent {end} counter" in outcome.err or end == "stop"
    assert_ticks(agent)
    agent(end, "counter")
    assert agent.state_of("counter") == "failed"
    assert processes(agent) == []
    agent("restore", "-d", "--theirs", "counter")
    assert_ticks(agent)
    assert_untouched(agent)


def test_a_supervisor_killed_in_a_checkpoint_leaves_no_frozen_process(agent: Agent) -> None:
    dice = random.Random(SEED)
    for _ in range(5):
        supervisor = start_silent(agent, megabytes=100)
        root = agent.root_pid("counter")
        with checkpoint_under_way(agent) as saving:
            time.sleep(dice.uniform(0, 0.3))
            os.kill(supervisor, signal.SIGKILL)
            _, err = saving.communicate(timeout=PATIENCE)
        if saving.returncode:
            assert saving.returncode == 1
            assert b"the supervisor ended before it answered" in err
        await_true(lambda: agent.state_of("counter") == "degraded", "ps tells it")
        # CRIU notices that nobody answers it, undoes everything and ends.
        await_true(lambda: all(is_free(pid) for pid in processes(agent)), "every process goes on")
        assert not is_gone(root)
        assert_ticks(agent)
        agent("rm", "-f", "counter")
        assert agent.runs() == []
        (agent.workdir / "ready").unlink()


def is_free(pid: int) -> bool:
    """Neither traced nor stopped."""
    status = Path(f"/proc/{pid}/status").read_text()
    return "TracerPid:\t0\n" in status and "State:\tt" not in status and "State:\tT" not in status
