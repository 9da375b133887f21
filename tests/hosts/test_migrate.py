"""migrate over a real sshd: the run goes on there, or here, and never in both places."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.conftest import Outcome, Screen, await_true
from tests.counting import COUNTER, started
from tests.hosts.conftest import Hosts
from tests.hosts.host import Host
from tests.hosts.trips import MIGRATE, assert_counts_on_only, box_pids, printed, start_counter_on_a, where

# A program there that does as the real one, but says nothing after a word of its output until a file is gone.
SILENT_AFTER = """
case "$*" in *--confirm*) ;; *) exec "$real" "$@" ;; esac
"$real" "$@" | while read -r line; do
    case $line in *{word}*) touch /run/silent; while [ -e /run/silent ]; do sleep 0.05; done ;; esac
    printf '%s\\n' "$line"
done
"""


def assert_never_left(hosts: Hosts, outcome: Outcome, code: int, *words: str) -> None:
    """It was refused before the run was touched: not even a snapshot was taken."""
    assert outcome.code == code, outcome
    for word in words:
        assert word in outcome.err
    assert hosts.a("snapshots", "--json").json == []
    assert_counts_on_only(hosts, hosts.a)


def assert_back_here(hosts: Hosts, outcome: Outcome, code: int, *words: str) -> None:
    """It was suspended, could not go on there, and goes on here as if nothing had been."""
    assert outcome.code == code, outcome
    for word in ("(the agent: running here, unharmed)", *words):
        assert word in outcome.err
    assert len(hosts.a("snapshots", "--json").json) == 1
    assert_counts_on_only(hosts, hosts.a)
    assert hosts.a("inspect", "counter").json[0]["state"]["moved_to"] == ""
    await_true(lambda: hosts.b.runs() == [], "nothing is left there")
    hosts.a("suspend", "counter")
    hosts.a("resume", "-d", "counter")
    assert_counts_on_only(hosts, hosts.a)


# -- it works


def test_a_run_goes_on_there_with_its_next_number(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    start_counter_on_a(hosts)
    pids = box_pids(a)
    assert len(pids) == 2
    outcome = a(*MIGRATE)
    assert re.search(r"counter runs on 10\.66\.0\.2 now; it stood still for \d+ ms", outcome.out)
    steps = ["asking whether 10.66.0.2 can", "suspending counter here", "restoring it on 10.66.0.2"]
    assert outcome.err.splitlines()[:3] == steps
    assert box_pids(b) == pids
    assert_counts_on_only(hosts, b)
    assert len(printed(b)) > 2
    assert a("ps").out.count("\n") == 1, "only the header"
    assert a.run_of("counter")["error"] == "moved to 10.66.0.2"
    assert a.state_of("counter") == "fenced"


@pytest.mark.parametrize(
    "arguments", [["resume", "-d"], ["resume", "-y", "-d"], ["restore", "-d", "--at", "counter"]]
)
def test_what_has_moved_is_not_resumed_here(hosts: Hosts, arguments: list[str]) -> None:
    start_counter_on_a(hosts)
    hosts.a(*MIGRATE)
    outcome = hosts.a(*arguments, "counter", check=False)
    assert outcome.code == 1
    assert "counter has moved to 10.66.0.2" in outcome.err
    for verb in ("attach", "checkpoint", "stop"):
        hosts.a(verb, "counter", check=False)
    assert_counts_on_only(hosts, hosts.b)


def test_there_and_back_again_and_there(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    start_counter_on_a(hosts)
    a.trust(b)
    a.start_sshd()
    for here, there in ((a, b), (b, a), (a, b)):
        here("migrate", "counter", f"root@{there.address}", "--shared-path")
        assert_counts_on_only(hosts, there)
        assert here.state_of("counter") == "fenced"


def test_json_tells_the_steps_and_the_downtime(hosts: Hosts) -> None:
    start_counter_on_a(hosts)
    lines = [json.loads(line) for line in hosts.a("--json", *MIGRATE).out.splitlines()]
    assert [line["phase"] for line in lines[:-1]] == ["doctor", "suspend", "restore", "go", "fence"]
    summary = lines[-1]
    assert summary["message_type"] == "summary"
    assert (summary["source"], summary["target"], summary["name"]) == ("a", "10.66.0.2", "counter")
    assert 0 < summary["downtime_ms"] < 60_000
    assert summary["snapshot"] == hosts.b("inspect", "counter").json[0]["state"]["restored"]
    assert summary["reset"] == []


def test_a_shell_goes_on_in_the_middle_of_the_line(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> None:
    a, b = hosts.a, hosts.b
    screens = [Screen(host, tmp_path_factory.mktemp("tmux") / "socket") for host in (a, b)]
    try:
        here, there = screens
        for screen in screens:
            screen.await_text(r"^\$")
        here.agent_command("run --name sh -- bash --norc")
        here.await_text(r"^\$")
        here.command("X=41; sleep 1000 & echo pid $$")
        here.await_text(r"^pid \d+$")
        pids = box_pids(a)
        here.type("echo hal")
        here.await_text("echo hal")
        a("migrate", "sh", "root@10.66.0.2", "--shared-path")
        here.await_text("sh was suspended at snapshot")
        there.agent_command("attach sh")
        there.await_text("echo hal")
        there.command("lo $((X + 1)); jobs")
        there.await_text(r"hallo 42\n\[1\].*Running +sleep 1000")
        assert box_pids(b) == pids
        there.command("exit 7")
        there.await_text(r"exit\n\$")
    finally:
        for screen in screens:
            screen.close()


def test_connections_are_reset_and_nothing_holds_them_here_any_more(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    client = "import socket, time\ns = socket.create_connection(('10.66.0.2', 22))\nprint(s.recv(100), flush=True)\n"
    for host in (a, b):
        (host.workdir / "client.py").write_text(client + "print(s.recv(100), flush=True)\ntime.sleep(1000)\n")
    a("run", "-d", "--name", "client", "--", "python3", "client.py")
    await_true(lambda: "SSH-2.0" in a("logs", "client").out, "it is connected")
    outcome = a("migrate", "client", "root@10.66.0.2", "--shared-path", check=False)
    assert outcome.code == 3
    assert "of python3 to 10.66.0.2:22 was reset: it cannot go to another host" in outcome.err
    await_true(lambda: b("logs", "client").out == "b''\n", "it has seen the end")
    for host in (a, b):
        assert "CRIU-" not in host.run("nft", "list", "tables")


# -- refused before anything is touched


def test_a_target_that_cannot_is_15_and_what_it_lacks_is_said(hosts: Hosts) -> None:
    start_counter_on_a(hosts)
    hosts.b.run("mkdir", "-p", "/etc/criu-agent")
    hosts.b.write("/etc/criu-agent/config.toml", 'criu = "/nonexistent"\n')
    assert_never_left(hosts, hosts.a(*MIGRATE, check=False), 15, "10.66.0.2 cannot: criu (")


def test_a_target_without_criu_agent_is_15(hosts: Hosts) -> None:
    start_counter_on_a(hosts)
    outcome = hosts.a(*MIGRATE, "--remote-program", "/nonexistent/criu-agent", check=False)
    assert_never_left(hosts, outcome, 15, "10.66.0.2 has no /nonexistent/criu-agent", "--remote-program")


@pytest.mark.parametrize("known", ["another", "none"])
def test_a_host_that_is_not_the_one_that_is_known_is_not_spoken_to(hosts: Hosts, known: str) -> None:
    start_counter_on_a(hosts)
    wrong = " ".join(hosts.a.run("cat", "/root/.ssh/id_ed25519.pub").split()[:2])
    hosts.a.write("/root/.ssh/known_hosts", f"10.66.0.2 {wrong}\n" if known == "another" else "")
    outcome = hosts.a(*MIGRATE, check=False)
    word = "another host key" if known == "another" else "an unknown host key"
    assert_never_left(hosts, outcome, 1, f"cannot reach 10.66.0.2: {word}", "hint: compare its key")
    key = " ".join(hosts.b.run("cat", "/etc/ssh/test_host_key.pub").split()[:2])
    hosts.a.write("/root/.ssh/right", f"10.66.0.2 {key}\n")
    hosts.a(*MIGRATE, "--known-hosts", "/root/.ssh/right")
    assert_counts_on_only(hosts, hosts.b)


def test_a_host_that_does_not_answer_or_let_us_in_is_1(hosts: Hosts) -> None:
    start_counter_on_a(hosts)
    hosts.b.write("/root/.ssh/authorized_keys", "")
    assert_never_left(hosts, hosts.a(*MIGRATE, check=False), 1, "cannot reach 10.66.0.2: ", "Permission denied")
    hosts.b.stop_sshd()
    assert_never_left(hosts, hosts.a(*MIGRATE, check=False), 1, "cannot reach 10.66.0.2: ", "Connection refused")


def test_port_identity_and_sudo_are_passed_on(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    start_counter_on_a(hosts)
    b.stop_sshd()
    b.start_sshd(port=2222)
    a.run("mv", "/root/.ssh/id_ed25519", "/root/.ssh/elsewhere")
    key = " ".join(b.run("cat", "/etc/ssh/test_host_key.pub").split()[:2])
    a.write("/root/.ssh/known_hosts", f"[10.66.0.2]:2222 {key}\n")
    sudo = '#!/bin/sh\n[ "$1 $2" = "-n --" ] || exit 1\nshift 2\ntouch /run/by-sudo\nexec "$@"\n'
    b.write("/usr/local/bin/sudo", sudo, mode=0o755)
    a(*MIGRATE, "-p", "2222", "-i", "/root/.ssh/elsewhere", "--sudo")
    assert b.run("ls", "/run/by-sudo") == "/run/by-sudo\n"
    assert_counts_on_only(hosts, b)


def test_a_repository_on_this_host_alone_is_a_usage_error(hosts: Hosts) -> None:
    start_counter_on_a(hosts)
    outcome = hosts.a("migrate", "counter", "root@10.66.0.2", check=False)
    assert_never_left(
        hosts, outcome, 2, "the repository /srv/repository is a directory of this host", "--shared-path"
    )


# -- it comes back


def test_a_restore_that_fails_there_has_it_go_on_here(hosts: Hosts) -> None:
    own = "/root/.ssh/work"  # which on b has something else
    for host in (hosts.a, hosts.b):
        host.run("mkdir", own)
    hosts.a.write(f"{own}/counter.py", COUNTER)
    hosts.b.write(f"{own}/other.py", COUNTER)
    hosts.a("run", "-d", "--name", "counter", "-w", own, "--", "python3", "counter.py")
    outcome = hosts.a(*MIGRATE, check=False)
    words = ("on 10.66.0.2: 2 changes here since snapshot", f"+ {own}/other.py: not in the snapshot", "hint: there: ")
    assert_back_here(hosts, outcome, 13, *words)


def other_files_there(hosts: Hosts) -> str:
    """The counter's work directory, which on b has other files; it runs on a."""
    own = "/root/.ssh/work"
    for host in (hosts.a, hosts.b):
        host.run("mkdir", own)
    hosts.a.write(f"{own}/counter.py", COUNTER)
    hosts.b.write(f"{own}/counter.py", "other\n")
    hosts.a("run", "-d", "--name", "counter", "-w", own, "--", "python3", "counter.py")
    return own


def test_the_snapshots_files_take_the_place_of_those_there(hosts: Hosts) -> None:
    own = other_files_there(hosts)
    outcome = hosts.a(*MIGRATE, "--theirs", "--json")
    safety = outcome.json_lines[-1]["safety"]
    assert_counts_on_only(hosts, hosts.b)
    assert hosts.b.run("cat", f"{own}/counter.py") == COUNTER
    assert hosts.b("dump", safety, f"{own}/counter.py").out == "other\n", "what was there is kept"


def test_the_files_there_stay_as_they_are(hosts: Hosts) -> None:
    own = other_files_there(hosts)
    hosts.a(*MIGRATE, "--ours")
    assert_counts_on_only(hosts, hosts.b)
    assert hosts.b.run("cat", f"{own}/counter.py") == "other\n"


def test_the_working_directory_lies_elsewhere_there(hosts: Hosts) -> None:
    own = other_files_there(hosts)
    relative = hosts.a(*MIGRATE, "--into", "elsewhere", check=False)
    assert_never_left(hosts, relative, 2, "--into elsewhere is of the other host")
    hosts.a(*MIGRATE, "--into", "/root/.ssh/elsewhere")
    assert_counts_on_only(hosts, hosts.b)
    assert hosts.b.run("cat", "/root/.ssh/elsewhere/counter.py") == COUNTER
    assert hosts.b.run("cat", f"{own}/counter.py") == "other\n"


def test_a_work_directory_that_is_not_there_comes_along(hosts: Hosts) -> None:
    own = "/root/.ssh/work"
    hosts.a.run("mkdir", own)
    hosts.a.write(f"{own}/counter.py", COUNTER)
    hosts.a("run", "-d", "--name", "counter", "-w", own, "--", "python3", "counter.py")
    hosts.a(*MIGRATE)
    assert_counts_on_only(hosts, hosts.b)
    assert hosts.b.run("cat", f"{own}/counter.py") == COUNTER


def test_a_snapshot_that_the_target_finds_damaged_is_14_and_it_goes_on_here(hosts: Hosts) -> None:
    start_counter_on_a(hosts)
    # That host sees a copy of the repository in which one byte of each chunk is another.
    script = """
    case "$*" in *--confirm*) ;; *) exec "$real" "$@" ;; esac
    cp -a /srv/repository /run/copy
    umount /srv/repository
    mount --bind /run/copy /srv/repository
    find /srv/repository/chunks /srv/repository/packs -type f 2>/dev/null | while read -r chunk; do
        printf '\\377\\377\\377\\377' | dd of="$chunk" bs=1 seek=60 conv=notrunc status=none
    done
    exec "$real" "$@"
    """
    outcome = hosts.a(*MIGRATE, "--remote-program", hosts.b.program_there(script), check=False)
    assert_back_here(hosts, outcome, 14, "on 10.66.0.2: ")


def test_an_older_criu_agent_there_is_15(hosts: Hosts) -> None:
    start_counter_on_a(hosts)
    script = 'case "$*" in *--confirm*) exec "$real" --json restore --unheard-of ;; esac\nexec "$real" "$@"\n'
    outcome = hosts.a(*MIGRATE, "--remote-program", hosts.b.program_there(script), check=False)
    assert_back_here(hosts, outcome, 15, "criu-agent on 10.66.0.2 is of another version: no such option")


def test_a_word_that_is_lost_on_the_way_has_it_go_on_here(hosts: Hosts) -> None:
    """The target has restored it, waits, and its input ends: it undoes everything, and says so when it is asked."""
    start_counter_on_a(hosts)
    script = 'case "$*" in *--confirm*) exec "$real" "$@" </dev/null ;; esac\nexec "$real" "$@"\n'
    outcome = hosts.a(*MIGRATE, "--remote-program", hosts.b.program_there(script), check=False)
    assert_back_here(hosts, outcome, 1, "did not say that it may go on")


def test_sshd_killed_before_the_word_has_it_go_on_here(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    start_counter_on_a(hosts)
    program = b.program_there(SILENT_AFTER.format(word="restored"))
    with started(a, *MIGRATE, "--remote-program", program) as migrating:
        await_silence(b)
        assert where(hosts) == ["b"], "restored there, and not running"
        assert printed(b) == []
        b.stop_sshd()
        _, err = migrating.communicate(timeout=60)
    b.run("rm", "/run/silent")
    assert migrating.returncode == 1
    assert b"cannot reach 10.66.0.2" in err
    assert b"(the agent: running here, unharmed)" in err
    assert_counts_on_only(hosts, a)
    await_true(lambda: b.runs() == [], "nothing is left there")


def test_sshd_killed_after_the_word_is_asked_again_and_it_has_moved(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    start_counter_on_a(hosts)
    program = b.program_there(SILENT_AFTER.format(word="summary"))
    with started(a, *MIGRATE, "--remote-program", program) as migrating:
        await_silence(b)
        b.stop_sshd()
        b.start_sshd()
        out, err = migrating.communicate(timeout=60)
    b.run("rm", "/run/silent")
    assert migrating.returncode == 0, err
    assert b"counter runs on 10.66.0.2 now" in out
    assert_counts_on_only(hosts, b)
    assert a.state_of("counter") == "fenced"


def test_a_target_that_cannot_be_asked_after_the_word_leaves_it_suspended_and_says_so(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    start_counter_on_a(hosts)
    program = b.program_there(SILENT_AFTER.format(word="summary"))
    with started(a, *MIGRATE, "--remote-program", program) as migrating:
        await_silence(b)
        b.stop_sshd()
        _, err = migrating.communicate(timeout=90)
    b.run("rm", "/run/silent")
    run = a.run_of("counter")["run"]
    text = err.decode()
    assert migrating.returncode == 1
    assert "whether counter runs on 10.66.0.2 is not known" in text
    assert "(the agent: suspended here at snapshot" in text
    assert f"look on 10.66.0.2: criu-agent inspect {run}" in text
    assert "criu-agent resume -y counter" in text
    assert a.state_of("counter") == "suspended"
    assert_counts_on_only(hosts, b)
    outcome = a("resume", "-d", "counter", check=False)
    assert outcome.code == 1
    assert "counter may be running on 10.66.0.2: a migrate to it was cut off" in outcome.err
    # Had it not come up there, this is how it goes on.
    b("suspend", "counter")
    assert b("inspect", run).json[0]["state"]["state"] == "suspended"
    a("resume", "-d", "--at", "counter", "counter")
    assert_counts_on_only(hosts, a)


def test_resume_y_after_a_look_at_the_target(hosts: Hosts) -> None:
    """The word is said, the target dies at once: the user sees that it does not run there."""
    a, b = hosts.a, hosts.b
    start_counter_on_a(hosts)
    program = b.program_there(SILENT_AFTER.format(word="restored"))
    with started(a, *MIGRATE, "--remote-program", program) as migrating:
        await_silence(b)
        (supervisor,) = [pid for pid in b.commands("criu_agent.supervisor") if "--confirm" in arguments_of(pid)]
        os.kill(supervisor, signal.SIGSTOP)  # so that it cannot take the word
        b.run("rm", "/run/silent")
        await_true(lambda: a("inspect", "counter").json[0]["state"]["moved_to"] == "10.66.0.2", "it is handed over")
        b.stop_sshd()
        os.kill(supervisor, signal.SIGKILL)
        _, err = migrating.communicate(timeout=120)
    assert b"is not known" in err
    assert where(hosts) == []
    assert a("resume", "-d", "counter", check=False).code == 1
    a("resume", "-y", "-d", "counter")
    assert_counts_on_only(hosts, a)


def await_silence(host: Host) -> None:
    await_true(lambda: host.run("ls", "/run/silent", check=False) != "", "the program there has come that far")


def arguments_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
