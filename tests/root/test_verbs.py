"""The verbs of docker's daily life, in pipes and detached: exit codes, streams, signals, and what they print."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Agent, Screen, await_true
from tests.counting import assert_counts_on, is_gone, numbers, processes, start_counter, started

MEGABYTES_50 = 50 * 1000 * 1000


def python(agent: Agent, name: str, text: str) -> list[str]:
    """The command of a program in the work directory."""
    (agent.workdir / name).write_text(text)
    return ["python3", "-u", name]


def print_when_asked(agent: Agent, *names: str) -> None:
    """Signal handlers are set: the run said so."""
    for name in names:
        await_true(lambda name=name: "ready" in agent("logs", name, check=False).out, f"{name} is ready")


# -- run


@pytest.mark.parametrize(
    ("command", "code"), [("exit 7", 7), ("kill -TERM $$", 128 + 15), ("kill -KILL $$", 128 + 9)]
)
def test_the_exit_status_of_the_command_is_that_of_run(agent: Agent, command: str, code: int) -> None:
    assert agent("run", "--name", "x", "--", "sh", "-c", command, check=False).code == code
    assert agent.run_of("x")["exit_code"] == code
    assert agent("wait", "x", check=False).code == code


def test_rm_leaves_no_run_behind(agent: Agent) -> None:
    outcome = agent("run", "--rm", "--", "sh", "-c", "echo hi; exit 3", check=False)
    assert (outcome.code, outcome.out) == (3, "hi\n")
    await_true(lambda: agent.runs() == [], "the run is removed")
    assert list((agent.directory / "state/runs").iterdir()) == []


def test_stdout_and_stderr_are_kept_apart(agent: Agent) -> None:
    outcome = agent("run", "--name", "x", "--", "sh", "-c", "echo out; echo err >&2")
    assert outcome.out == "out\n"
    assert outcome.err == "err\n"
    logs = agent("logs", "x")
    assert (logs.out, logs.err) == ("out\n", "err\n")


def test_environment_work_directory_and_labels_are_passed_on(agent: Agent) -> None:
    elsewhere = agent.directory / "elsewhere"
    elsewhere.mkdir()
    agent.env["FROM_OUTSIDE"] = "inherited"
    script = 'echo "$SET|$FROM_OUTSIDE|${UNSET-none}|$(pwd)"; env | grep -c ^CRIU_AGENT_'
    options = ["--name", "x", "-e", "SET=a b=c", "-e", "FROM_OUTSIDE", "-e", "NOT_THERE", "-l", "team=red"]
    outcome = agent("run", *options, "-w", str(elsewhere), "--", "sh", "-c", script, check=False)
    assert outcome.out == f"a b=c|inherited|none|{elsewhere}\n0\n"
    run = agent.run_of("x")
    assert run["labels"] == {"team": "red"}
    assert run["workdir"] == str(elsewhere)
    assert "a b=c" not in agent("inspect", "x").out, "values of the environment are nobody's business"


def test_through_writes_to_the_real_file_and_directory(agent: Agent) -> None:
    directory, file = agent.directory / "shared", agent.directory / "settings"
    directory.mkdir()
    file.write_text("old")
    script = f"echo new >{file}; echo made >{directory}/made; echo lost >{agent.directory}/lost"
    options = ["--name", "x", "--through", str(directory), "--through", str(file)]
    agent("run", *options, "--", "sh", "-c", script)
    assert file.read_text() == "new\n"
    assert (directory / "made").read_text() == "made\n"
    assert not (agent.directory / "lost").exists()
    upper = agent.files_of("x")
    assert (upper / str(agent.directory / "lost")[1:]).read_text() == "lost\n"


def test_input_from_a_pipe_reaches_the_command_and_its_end_too(agent: Agent) -> None:
    outcome = agent("run", "--", "cat", input="hi\n")
    assert outcome.out == "hi\n"


def test_a_detached_run_has_no_input_unless_it_is_interactive(agent: Agent) -> None:
    agent("run", "-d", "--name", "closed", "--", "cat")
    assert agent("wait", "closed").code == 0, "it read the end of its input at once"
    agent("run", "-d", "-i", "--name", "open", "--", "cat")
    with started(agent, "attach", "open", stdin=subprocess.PIPE) as attached:
        out, _ = attached.communicate(b"typed\n", timeout=PATIENCE)
    assert out == b"typed\n"
    assert attached.returncode == 0


def test_a_detached_run_can_have_a_terminal(agent: Agent) -> None:
    agent("run", "-d", "-t", "--name", "x", "--", "sh", "-c", "tty; test -t 0 -a -t 1 -a -t 2 && echo yes; exit 4")
    assert agent("wait", "x", check=False).code == 4
    assert agent("logs", "x").out == "/dev/pts/0\nyes\n"


def test_run_works_with_all_standard_streams_closed(agent: Agent) -> None:
    marker = agent.workdir / "done"
    program = " ".join(agent.program)
    script = f"exec {program} run --name x -- sh -c 'echo yes >done; exit 6' <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", script], cwd=agent.workdir, env=agent.env, timeout=PATIENCE, check=False)
    assert done.returncode == 6
    assert marker.read_text() == "yes\n"


def test_50_megabytes_go_through_without_a_changed_byte(agent: Agent) -> None:
    """In and out at once, with a full buffer on every way: nobody may wait for the other for ever."""
    source = agent.directory / "source"
    source.write_bytes(os.urandom(MEGABYTES_50))
    with (
        open(source, "rb") as file,
        started(agent, "run", "--name", "x", "--", "cat", stdin=file) as process,
    ):
        assert process.stdout is not None
        digest = hashlib.file_digest(process.stdout, "sha256").hexdigest()
        assert process.wait(PATIENCE) == 0
    assert digest == hashlib.sha256(source.read_bytes()).hexdigest()


def test_a_program_that_reads_slowly_loses_no_input(agent: Agent) -> None:
    command = python(
        agent,
        "slow.py",
        "import hashlib, sys, time\n"
        "digest = hashlib.sha256()\n"
        "while data := sys.stdin.buffer.read1(1 << 20):\n"
        "    digest.update(data); time.sleep(0.0005)\n"
        "print(digest.hexdigest())\n",
    )
    data = os.urandom(20_000_000)
    with started(agent, "run", "--", *command, stdin=subprocess.PIPE) as process:
        out, _ = process.communicate(data, timeout=PATIENCE)
    assert out.decode().strip() == hashlib.sha256(data).hexdigest()


def test_a_program_that_reads_no_input_can_be_interrupted(agent: Agent) -> None:
    command = python(agent, "deaf.py", "import time\nprint('ready')\ntime.sleep(1000)\n")
    with (
        subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as zeros,
        started(agent, "run", "--name", "x", "--", *command, stdin=zeros.stdout) as process,
    ):
        print_when_asked(agent, "x")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        zeros.kill()
    assert process.returncode == 128 + 2 or process.returncode == 1, "Python turns SIGINT into KeyboardInterrupt"
    assert agent.state_of("x") == "exited"


def test_a_slow_reader_of_the_output_gets_every_byte(agent: Agent) -> None:
    script = "import sys\nfor n in range(2_000_000): sys.stdout.write(f'{n}\\n')\n"
    with started(agent, "run", "--", "python3", "-c", script) as process:
        assert process.stdout is not None
        for n, line in enumerate(process.stdout):
            assert int(line) == n
        assert process.wait(PATIENCE) == 0
    assert n == 1_999_999


@pytest.mark.parametrize("command", [["yes"], ["sh", "-c", "while :; do echo y; done"]])
def test_a_run_whose_reader_goes_away_ends(agent: Agent, command: list[str]) -> None:
    with started(agent, "run", "--name", "x", "--", *command) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        process.stdout = None
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + 13
    assert agent.run_of("x")["exit_code"] == 128 + 13


def test_a_run_that_ignores_the_end_of_its_reader_goes_on_and_the_pipeline_ends(agent: Agent) -> None:
    command = python(
        agent,
        "deaf.py",
        "import signal, time\nsignal.signal(signal.SIGPIPE, signal.SIG_IGN)\n"
        "while True: print('y'); time.sleep(0.01)\n",
    )
    with started(agent, "run", "--name", "x", "--", *command) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(timeout=PATIENCE)
    assert b"nobody reads its output; it goes on" in err
    assert agent.state_of("x") == "running"


@pytest.mark.parametrize("name", ["INT", "TERM", "QUIT"])
def test_a_signal_to_the_command_line_reaches_the_run(agent: Agent, name: str) -> None:
    command = python(
        agent,
        "catch.py",
        "import signal, sys, time\n"
        f"signal.signal(signal.SIG{name}, lambda *_: (print('caught'), sys.exit(5)))\n"
        "print('ready')\n"
        "time.sleep(1000)\n",
    )
    with started(agent, "run", "--name", "x", "--", *command) as process:
        print_when_asked(agent, "x")
        process.send_signal(signal.Signals[f"SIG{name}"])
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (5, b"ready\ncaught\n", b"")


# -- attach


def test_several_may_be_attached_and_all_see_the_output(agent: Agent) -> None:
    agent("run", "-d", "-i", "--name", "x", "--", "cat")
    with (
        started(agent, "attach", "x", stdin=subprocess.PIPE) as first,
        started(agent, "attach", "x", stdin=subprocess.PIPE) as second,
    ):
        assert first.stdin is not None
        assert second.stdin is not None
        for process, text in ((first, b"one\n"), (second, b"two\n")):
            assert process.stdin is not None
            process.stdin.write(text)
            process.stdin.flush()
            await_true(lambda text=text: text.decode() in agent("logs", "x").out, "it was echoed")
        agent("stop", "-t", "5", "x")
        outs = [first.communicate(timeout=PATIENCE)[0], second.communicate(timeout=PATIENCE)[0]]
    assert b"two\n" in outs[0]
    assert outs[1] == b"two\n" or outs[1] == b"one\ntwo\n", "attached before or after the first line"


# -- stop, kill, wait


def test_stop_lets_a_run_end_by_itself(agent: Agent) -> None:
    command = python(
        agent,
        "polite.py",
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(3)))\n"
        "print('ready')\n"
        "time.sleep(1000)\n",
    )
    agent("run", "-d", "--name", "x", "--", *command)
    print_when_asked(agent, "x")
    assert agent("stop", "-t", "60", "x").out == "x\n"
    assert agent.run_of("x")["exit_code"] == 3
    assert agent("logs", "x").out == "ready\nbye\n"


def test_stop_kills_what_does_not_end(agent: Agent) -> None:
    command = python(
        agent,
        "stubborn.py",
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('no'))\n"
        "print('ready')\n"
        "while True: time.sleep(1000)\n",
    )
    agent("run", "-d", "--name", "x", "--", *command)
    print_when_asked(agent, "x")
    with started(agent, "stop", "-t", "3", "x") as stopping:
        await_true(lambda: agent("logs", "x").out == "ready\nno\n", "it was asked, and does not want to")
        assert stopping.wait(PATIENCE) == 0
    assert agent.run_of("x")["exit_code"] == 128 + 9


def test_stop_and_rm_take_several_runs(agent: Agent) -> None:
    for name in ("a", "b"):
        agent("run", "-d", "--name", name, "--", "sleep", "1000")
    assert agent("stop", "a", "b").out == "a\nb\n"
    assert [run["exit_code"] for run in agent.runs()] == [128 + 15, 128 + 15]
    agent("rm", "a", "b")
    assert agent.runs() == []


def test_stop_kill_and_rm_say_in_json_what_they_did(agent: Agent) -> None:
    for verb in (["stop"], ["kill"], ["rm", "-f"]):
        for name in ("a", "b"):
            agent("run", "-d", "--name", name, "--", "sleep", "1000")
        ids = [run["run"] for run in agent.runs()]
        said = [json.loads(line) for line in agent(*verb, "--json", "a", "b").out.splitlines()]
        assert said == [
            {"message_type": "summary", "run": run, "name": name} for run, name in zip(ids, ("a", "b"), strict=True)
        ]
        agent("rm", "-f", "a", "b")


def test_kill_sends_the_signal_that_is_named(agent: Agent) -> None:
    command = python(
        agent,
        "names.py",
        "import signal, time\n"
        "for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):\n"
        "    signal.signal(number, lambda number, _: print(signal.Signals(number).name))\n"
        "print('ready')\n"
        "while True: time.sleep(1000)\n",
    )
    agent("run", "-d", "--name", "x", "--", *command)
    print_when_asked(agent, "x")
    for spelling, name in (("USR1", "SIGUSR1"), ("SIGUSR2", "SIGUSR2"), ("hup", "SIGHUP"), ("10", "SIGUSR1")):
        before = agent("logs", "x").out
        agent("kill", "-s", spelling, "x")
        await_true(lambda before=before, name=name: agent("logs", "x").out == f"{before}{name}\n", f"{name} came")
    agent("kill", "x")
    assert agent.run_of("x")["exit_code"] == 128 + 9


def test_kill_ends_every_process_of_the_run(agent: Agent) -> None:
    script = "setsid sh -c 'trap \"\" TERM HUP; echo ready; while :; do sleep 1; done' & exec sleep 1000"
    agent("run", "-d", "--name", "x", "--", "sh", "-c", script)
    print_when_asked(agent, "x")
    pids = processes(agent, "x")
    assert len(pids) >= 3
    agent("kill", "x")
    assert all(is_gone(pid) for pid in pids)


def test_wait_waits_and_gives_the_code(agent: Agent) -> None:
    agent("run", "-d", "-i", "--name", "x", "--", "sh", "-c", "read line; exit 9")
    outcome = agent("wait", "--timeout", "0.3", "x", check=False)
    assert outcome.code == 124
    assert "x still runs" in outcome.err
    with (
        started(agent, "wait", "x") as waiting,
        started(agent, "attach", "x", stdin=subprocess.PIPE) as attached,
    ):
        attached.communicate(b"go\n", timeout=PATIENCE)
        waiting.communicate(timeout=PATIENCE)
    assert (attached.returncode, waiting.returncode) == (9, 9)


def test_wait_and_run_say_75_when_the_run_is_suspended(agent: Agent) -> None:
    with started(agent, "run", "--name", "x", "--", "sleep", "1000") as foreground:
        await_true(lambda: [run["state"] for run in agent.runs()] == ["running"], "it runs")
        with started(agent, "wait", "x") as waiting:
            agent("suspend", "x")
            waiting.communicate(timeout=PATIENCE)
        _, err = foreground.communicate(timeout=PATIENCE)
    assert (waiting.returncode, foreground.returncode) == (75, 75)
    assert b"criu-agent resume x" in err
    assert agent("wait", "x", check=False).code == 75


def test_ctrl_c_ends_a_wait_and_not_the_run(agent: Agent) -> None:
    start_counter(agent)
    with started(agent, "wait", "counter") as waiting:
        await_true(lambda: b"wait" in Path(f"/proc/{waiting.pid}/cmdline").read_bytes(), "it started")
        await_true(lambda: "unix" in wchan(waiting.pid), "it waits")
        waiting.send_signal(signal.SIGINT)
        _, err = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 130, err
    assert_counts_on(agent)


def wchan(pid: int) -> str:
    return Path(f"/proc/{pid}/wchan").read_text()


# -- exec


def test_exec_gives_the_code_and_the_streams_of_the_command(agent: Agent) -> None:
    start_counter(agent)
    outcome = agent("exec", "counter", "sh", "-c", "echo out; echo err >&2; exit 6", check=False)
    assert (outcome.code, outcome.out, outcome.err) == (6, "out\n", "err\n")
    assert agent("exec", "counter", "sh", "-c", "kill -TERM $$", check=False).code == 128 + 15
    assert agent("exec", "counter", "cat", input="piped\n").out == "piped\n"


def test_exec_of_what_cannot_be_run_is_127_or_126(agent: Agent) -> None:
    start_counter(agent)
    outcome = agent("exec", "counter", "no-such-program", check=False)
    assert outcome.code == 127
    assert "no-such-program: command not found" in outcome.err
    outcome = agent("exec", "counter", "./counter.py", check=False)
    assert outcome.code == 126
    assert "./counter.py cannot be executed" in outcome.err
    assert_counts_on(agent)


def test_exec_is_in_the_box_with_the_environment_of_the_run(agent: Agent) -> None:
    (agent.workdir / "sleeper.sh").write_text("echo x >/only-in-the-box; exec sleep 1000")
    agent("run", "-d", "--name", "x", "-e", "COLOUR=red", "--", "sh", "sleeper.sh")
    await_true(lambda: (agent.files_of("x") / "only-in-the-box").exists(), "it wrote")
    script = "echo $COLOUR $EXTRA; cat /proc/1/comm; cat /only-in-the-box; pwd; cat /proc/sys/kernel/hostname"
    lines = agent("exec", "-e", "EXTRA=blue", "x", "sh", "-c", script).out.splitlines()
    assert lines[0] == "red blue"
    assert lines[1].startswith("criu-agent-init"[:15])
    assert lines[2:4] == ["x", str(agent.workdir)]
    assert lines[4] == box_file(agent, "x", "/proc/sys/kernel/hostname")
    assert agent("exec", "-w", "/usr", "x", "pwd").out == "/usr\n"
    assert not Path("/only-in-the-box").exists()


def box_file(agent: Agent, name: str, path: str) -> str:
    return agent("exec", name, "cat", path).out.strip()


def test_exec_in_a_terminal_has_one(agent: Agent, screen: Screen) -> None:
    start_counter(agent)
    screen.agent_command("exec counter -- sh -c 'tty; stty size; read x </dev/tty; exit 5'")
    screen.await_text(r"^/dev/pts/\d+\n30 100$")
    screen.keys("Enter")
    screen.await_text(r"^\$$")
    screen.command("echo code $?")
    screen.await_text("code 5")
    assert_counts_on(agent)


def test_exec_ends_with_the_run(agent: Agent) -> None:
    start_counter(agent)
    with started(agent, "exec", "counter", "sh", "-c", "echo ready; exec sleep 1000") as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == b"ready\n"
        agent("stop", "counter")
        guest.communicate(timeout=PATIENCE)
    assert guest.returncode == 128 + 9


def test_a_guest_is_in_no_snapshot_and_survives_a_checkpoint(agent: Agent) -> None:
    start_counter(agent)
    with started(agent, "exec", "counter", "cat", stdin=subprocess.PIPE) as guest:
        await_true(lambda: len(processes(agent)) >= 4, "the guest is in the box")
        agent("checkpoint", "counter")
        out, _ = guest.communicate(b"still here\n", timeout=PATIENCE)
    assert (guest.returncode, out) == (0, b"still here\n")
    agent("suspend", "counter")
    agent("resume", "-d", "counter")
    assert agent("exec", "counter", "sh", "-c", "pgrep -c '^cat$'", check=False).out == "0\n"
    assert_counts_on(agent)


# -- logs


@pytest.mark.parametrize("count", [0, 1, 3, 5, 19, 20, 1000])
def test_logs_shows_the_last_lines(agent: Agent, count: int) -> None:
    command = python(
        agent,
        "lines.py",
        "import sys, time\n"
        "for n in range(1, 11): sys.stdout.write(f'{n}\\n')\n"
        "for n in range(11, 16):\n"
        "    sys.stdout.write(f'{n}'); time.sleep(0.01); sys.stdout.write('\\n')\n"
        "sys.stdout.write('16\\n17\\n18\\n19\\n20')\n",
    )
    agent("run", "-d", "--name", "x", "--", *command)
    agent("wait", "x")
    wanted = [str(n) for n in range(max(21 - count, 1), 21)]
    assert agent("logs", "-n", str(count), "x").out == "\n".join(wanted)
    assert agent("logs", "x").out == "\n".join(str(n) for n in range(1, 21))


def test_logs_counts_the_lines_of_both_streams(agent: Agent) -> None:
    # The order of two streams is that in which they are read: each line waits until the one before it was.
    say = "say() { until [ -e $1 ]; do sleep 0.02; done; echo $1; }; "
    agent("run", "-d", "--name", "x", "--", "sh", "-c", f"{say} for n in 1 2 3; do say o$n; say e$n >&2; done")
    for line in ("o1", "e1", "o2", "e2", "o3", "e3"):
        (agent.workdir / line).touch()
        await_true(lambda line=line: f"{line}\n" in agent("logs", "x").out + agent("logs", "x").err, "it is read")
    agent("wait", "x")
    logs = agent("logs", "--tail", "3", "x")
    assert (logs.out, logs.err) == ("o3\n", "e2\ne3\n")


def test_logs_shows_when_each_line_was_printed(agent: Agent) -> None:
    command = python(agent, "lines.py", "import sys\nsys.stdout.write('one\\ntwo\\n')\nsys.stdout.write('three')\n")
    agent("run", "-d", "--name", "x", "--", *command)
    agent("wait", "x")
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
    assert re.fullmatch(f"{stamp} one\n{stamp} two\n{stamp} three", agent("logs", "-t", "x").out)
    assert re.fullmatch(f"{stamp} two\n{stamp} three", agent("logs", "-t", "-n", "2", "x").out)


def test_logs_follows_a_run_to_its_end_and_misses_nothing(agent: Agent) -> None:
    start_counter(agent)
    with started(agent, "logs", "-f", "-n", "0", "counter") as following:
        assert following.stdout is not None
        first = int(following.stdout.readline())
        agent("stop", "counter")
        rest = following.stdout.read()
        assert following.wait(PATIENCE) == 0
    shown = [first, *map(int, rest.split())]
    assert shown == list(range(shown[0], numbers(agent)[-1] + 1))


def test_ctrl_c_ends_logs_and_not_the_run(agent: Agent) -> None:
    start_counter(agent)
    with started(agent, "logs", "-f", "counter") as following:
        assert following.stdout is not None
        following.stdout.readline()
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=PATIENCE)
    assert following.returncode == 130
    assert_counts_on(agent)


def test_logs_into_a_pipe_that_is_closed_ends_quietly(agent: Agent) -> None:
    agent("run", "--name", "x", "--", "seq", "200000")
    with started(agent, "logs", "x") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (128 + 13, b"")


# -- ps, inspect, version, completion


def test_ps_shows_what_runs_and_with_all_what_has_ended(agent: Agent) -> None:
    start_counter(agent)
    agent("run", "--name", "gone", "--", "sh", "-c", "exit 3", check=False)
    plain = agent("ps").out
    assert re.search(r"counter +running +python3 counter.py", plain)
    assert "gone" not in plain
    assert re.search(r"gone +exited \(3\) +sh -c 'exit 3'", agent("ps", "-a").out)
    assert [run["name"] for run in agent("ps", "--json").json] == ["counter"]
    ids = [run["run"] for run in agent.runs()]
    assert agent("ps", "-a", "-q").out.split() == ids
    assert agent.root_pid("counter") in processes(agent)


def test_a_run_is_found_by_name_id_prefix_and_directory(agent: Agent) -> None:
    start_counter(agent)
    run = agent.run_of("counter")["run"]
    for wanted in ("counter", run, run[:6], "."):
        assert agent("inspect", wanted).json[0]["spec"]["id"] == run
    elsewhere = agent.directory / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [*agent.program, "inspect", "."], cwd=elsewhere, env=agent.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 10, "nothing was started there"


def test_inspect_tells_everything_but_secrets(agent: Agent) -> None:
    agent("run", "-d", "--name", "x", "-e", "TOKEN=hush", "--", "sleep", "1000")
    (document,) = agent("inspect", "x").json
    assert document["spec"]["argv"] == ["sleep", "1000"]
    assert "TOKEN" in document["spec"]["env"]
    assert "hush" not in json.dumps(document)
    assert document["state"]["state"] == "running"
    assert document["state"]["supervised"] is True
    assert Path(document["socket"]).is_socket()


def test_version_and_completion(agent: Agent) -> None:
    versions = agent("version", "--json").json
    assert set(versions) == {"criu-agent", "criu", "python", "kernel"}
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", versions["criu"])
    assert agent("version").out.splitlines()[0] == f"criu-agent {versions['criu-agent']}"
    assert "none" in agent("version", env={"CRIU_AGENT_CRIU": "/nonexistent"}).out
    for shell in ("bash", "zsh", "fish"):
        assert "_CRIU_AGENT_COMPLETE" in agent("completion", shell).out
    asked = {"_CRIU_AGENT_COMPLETE": "bash_complete", "COMP_WORDS": "criu-agent che", "COMP_CWORD": "1"}
    done = subprocess.run(
        [Path(sys.executable).parent / "criu-agent"],
        env={**agent.env, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert sorted(done.stdout.split()) == ["plain,check", "plain,checkpoint"]


def test_help_of_every_verb_is_quick_to_read(agent: Agent) -> None:
    listed = re.findall(r"^  ([a-z]+) {2,}", agent("--help").out, re.MULTILINE)
    assert {"run", "ps", "checkpoint", "suspend", "resume", "doctor"} <= set(listed)
    for verb in listed:
        text = agent(verb, "--help").out
        assert text.startswith(f"Usage: criu-agent {verb}")
        assert len(text.splitlines()) < 60


def test_logs_and_wait_answer_in_json(agent: Agent) -> None:
    agent("run", "-d", "--name", "x", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    outcome = agent("--json", "wait", "x", check=False)
    assert outcome.code == 7
    assert {key: outcome.json[key] for key in ("name", "exit_code", "suspended")} == {
        "name": "x",
        "exit_code": 7,
        "suspended": False,
    }
    printed = agent("--json", "logs", "x").json_lines
    assert sorted((one["stream"], one["text"]) for one in printed) == [("stderr", "err\n"), ("stdout", "out\n")]
    assert all(one["message_type"] == "output" and one["time"].endswith("Z") for one in printed)
