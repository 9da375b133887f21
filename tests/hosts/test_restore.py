"""A run on another host, from the store alone: what must be there, and what is said where it is not."""

import re
import subprocess
from itertools import pairwise
from pathlib import Path

from tests.conftest import await_true
from tests.hosts.conftest import Hosts
from tests.hosts.host import REPOSITORY, Host
from tests.hosts.trips import assert_counts_on_only, box_pids, printed, start_counter_on_a

CLOCK = """
import threading, time
while True:
    print(time.monotonic(), flush=True)
    threading.Event().wait(0.1)  # until a time of the monotonic clock
"""
CLIENT = """
import socket, sys, time
connection = socket.create_connection(("10.66.0.2", 22))
print(connection.recv(100).decode().strip(), flush=True)
print(repr(connection.recv(100)), flush=True)
time.sleep(1000)
"""


def suspend_counter(hosts: Hosts) -> None:
    start_counter_on_a(hosts)
    hosts.a("suspend", "counter")


def assert_nothing_there(host: Host) -> None:
    assert host.runs() == []
    assert host.commands("counter.py") == []
    assert list((host.directory / "state/runs").glob("*")) == []  # it need not even be there


def test_only_the_url_of_the_store_is_needed(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    b.env["CRIU_AGENT_REPOSITORY"] = "/srv/other"  # what that host would use by itself
    start_counter_on_a(hosts)
    pids = box_pids(a)
    a("checkpoint", "counter")
    a("suspend", "counter")
    b("restore", "-d", "counter", "-r", REPOSITORY)
    assert box_pids(b) == pids
    assert_counts_on_only(hosts, b)
    assert b("exec", "counter", "hostname").out == "a\n", "it knows its host by the old name"


def test_its_next_snapshot_goes_to_the_same_store_with_the_next_number(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    b.env["CRIU_AGENT_REPOSITORY"] = "/srv/other"
    start_counter_on_a(hosts)
    a("checkpoint", "counter")
    a("suspend", "counter")
    b("restore", "-d", "counter", "-r", REPOSITORY)
    b("suspend", "counter")
    b("resume", "-d", "counter")
    assert_counts_on_only(hosts, b)
    line = a("snapshots", "counter", "--json").json
    assert [(one["sequence"], one["host"]) for one in line] == [(1, "a"), (2, "a"), (3, "b")]
    assert [one["parent"] for one in line] == [None, line[0]["snapshot"], line[1]["snapshot"]]
    b("suspend", "counter")
    a("resume", "-d", "--at", "counter", "counter")  # and back again
    assert_counts_on_only(hosts, a)


def test_clocks_go_on_where_they_were(hosts: Hosts) -> None:
    """Host b is up for ten days longer: deadlines would all be over at once, or far away the other way round."""
    for direction in ((hosts.a, hosts.b), (hosts.b, hosts.a)):
        one, other = direction
        for host in direction:
            (host.workdir / "clock.py").write_text(CLOCK)
        one("run", "-d", "--name", one.name, "--", "python3", "clock.py")
        await_true(lambda one=one: len(one("logs", one.name).out.split()) > 2, "it ticks")
        one("suspend", one.name)
        last = float(one("logs", one.name).out.split()[-1])
        other("restore", "-d", one.name)
        await_true(lambda one=one, other=other: len(other("logs", one.name).out.split()) > 5, "it ticks on")
        ticks = [last, *map(float, other("logs", one.name).out.split())]
        assert all(0 <= after - before < 5 for before, after in pairwise(ticks)), ticks
        guest = float(other("exec", one.name, "python3", "-c", "import time; print(time.monotonic())").out)
        assert 0 <= guest - ticks[-1] < 10


def test_a_missing_work_directory_is_made_with_those_above_it(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    elsewhere = Path("/root/.ssh/work/deep")  # in a directory that is each host's own
    a.run("mkdir", "-p", str(elsewhere))
    a.write(f"{elsewhere}/counter.py", "import time\nwhile True: time.sleep(1)\n")
    a("run", "-d", "--name", "counter", "-w", str(elsewhere), "--", "python3", "counter.py")
    a("suspend", "counter")
    b("restore", "-d", "counter")
    assert b.state_of("counter") == "running"
    assert b.run("cat", f"{elsewhere}/counter.py") == a.run("cat", f"{elsewhere}/counter.py")


def test_a_processor_without_an_instruction_set_is_15_and_both_are_named(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    suspend_counter(hosts)
    real = Path("/proc/cpuinfo").read_text()
    flags = re.search(r"^flags\s*: (.*)$", real, re.MULTILINE)
    assert flags
    lost = [flag for flag in ("sse4_2", "popcnt") if flag in flags[1].split()]
    assert lost
    weaker = re.sub(rf"\b({'|'.join(lost)})\b", "", re.sub(r"model name\s*:.*", "model name\t: Elderly", real))
    b.write("/run/cpuinfo", weaker)
    b.run("mount", "--bind", "/run/cpuinfo", "/proc/cpuinfo")
    outcome = b("restore", "-d", "counter", check=False)
    assert outcome.code == 15
    assert f"it needs a processor with {' '.join(sorted(lost))}, as " in outcome.err
    assert " has, this host has Elderly without" in outcome.err
    assert_nothing_there(b)
    b.run("umount", "/proc/cpuinfo")
    b("restore", "-d", "counter")
    assert_counts_on_only(hosts, b)
    assert a.state_of("counter") == "suspended"


def test_an_older_criu_is_15_and_both_are_named(hosts: Hosts) -> None:
    suspend_counter(hosts)
    hosts.b.write("/run/criu", "#!/bin/sh\necho Version: 3.17\n", mode=0o755)
    outcome = hosts.b("restore", "-d", "counter", env={"CRIU_AGENT_CRIU": "/run/criu"}, check=False)
    assert outcome.code == 15
    assert re.search(r"it needs CRIU \d[.\d]+, this host has 3\.17", outcome.err)
    assert_nothing_there(hosts.b)


def test_hosts_may_have_their_resolver_in_different_places(hosts: Hosts) -> None:
    """On a it is a link into /run, which the box has mounted; on b a file; a third time there is none."""
    a, b = hosts.a, hosts.b
    a.run("mkdir", "-p", "/run/resolver")
    a.write("/run/resolver/conf", "nameserver 10.66.0.9\n", mode=0o644)
    a.run("ln", "-sfn", "/run/resolver/conf", "/etc/resolv.conf")
    b.run("rm", "-f", "/etc/resolv.conf")
    b.write("/etc/resolv.conf", "nameserver 10.66.0.8\n", mode=0o644)
    suspend_counter(hosts)
    b("restore", "-d", "counter")
    assert b("exec", "counter", "cat", "/run/resolver/conf").out == "nameserver 10.66.0.8\n"
    assert_counts_on_only(hosts, b)
    b("suspend", "counter")
    b.run("rm", "/etc/resolv.conf")
    b("resume", "-d", "counter")
    assert b("exec", "counter", "cat", "/run/resolver/conf").out == ""
    assert_counts_on_only(hosts, b)


def test_connections_are_reset_and_told(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    for host in (a, b):
        (host.workdir / "client.py").write_text(CLIENT)
    a("run", "-d", "--name", "client", "--", "python3", "client.py")
    await_true(lambda: "SSH-2.0" in a("logs", "client").out, "it is connected")
    a("suspend", "client")
    outcome = b("restore", "-d", "client", check=False)
    assert outcome.code == 3
    assert "of python3 to 10.66.0.2:22 was reset: it is of another host or boot" in outcome.err
    await_true(lambda: b("logs", "client").out == "b''\n", "it has seen the end")


def test_a_name_that_another_run_has_there_is_told(hosts: Hosts) -> None:
    suspend_counter(hosts)
    hosts.b("run", "-d", "--name", "counter", "--", "sleep", "1000")
    outcome = hosts.b("restore", "-d", "--at", "latest", hosts.a.run_of("counter")["run"], check=False)
    assert outcome.code == 1
    assert "the name counter is taken by a run that is running" in outcome.err
    hosts.b("rm", "-f", "counter")
    hosts.b("restore", "-d", "counter")
    assert_counts_on_only(hosts, hosts.b)


def test_a_run_of_another_user_comes_along(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    for host in (a, b):
        host.workdir.chmod(0o777)
        (host.workdir / "who.py").write_text(
            "import os, time\nwhile True: print(os.getuid(), flush=True); time.sleep(0.1)\n"
        )
    a("run", "-d", "--name", "who", "-u", "1234:1234", "--", "python3", "who.py")
    await_true(lambda: "1234" in a("logs", "who").out, "it runs")
    a("suspend", "who")
    b("restore", "-d", "who")
    await_true(lambda: "1234" in b("logs", "who").out, "it runs there")


def test_a_restore_that_waits_for_its_word_goes_on_only_with_it(hosts: Hosts) -> None:
    """What migrate is built on: before the word the restored run stands still, without it it is gone again."""
    suspend_counter(hosts)
    b = hosts.b
    command = [*b.program, "--json", "restore", "-d", "--confirm", "counter"]
    for word, code in ((b"", 1), (b"no\n", 1), (b"go", 1), (b"go\n", 0)):
        waiting = subprocess.Popen(
            command, env=b.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b'{"message_type": "status", "phase": "restored"}\n'
        assert printed(b) == []
        assert b.state_of("counter") == "restoring"
        _, err = waiting.communicate(word, timeout=30)
        assert waiting.returncode == code, err
        if code:
            assert b"did not say that it may go on" in err
            assert_nothing_there(b)
    assert_counts_on_only(hosts, b)
