"""A migrate that is interrupted or killed: the run is in exactly one place, or suspended and said to be."""

import contextlib
import json
import os
import random
import signal
import subprocess

import pytest

from tests.conftest import await_true
from tests.counting import started
from tests.hosts.conftest import Hosts
from tests.hosts.host import Host
from tests.hosts.trips import MIGRATE, assert_counts_on_only, start_counter_on_a, where

SEED = 20261125


def test_ctrl_c_at_any_time_leaves_it_running_in_exactly_one_place(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    dice = random.Random(SEED)
    start_counter_on_a(hosts)
    codes = []
    longest = 4.0  # seconds
    for _ in range(6):
        with started(a, *MIGRATE) as migrating:
            assert migrating.stderr is not None
            assert migrating.stderr.readline() == b"asking whether 10.66.0.2 can\n"
            with contextlib.suppress(subprocess.TimeoutExpired):
                migrating.wait(dice.uniform(0, longest))
            for pid in a.commands("migrate")[:1]:
                os.kill(pid, signal.SIGINT)
            _, err = migrating.communicate(timeout=60)
        codes.append(migrating.returncode)
        if migrating.returncode == 0:
            longest *= 0.7  # be earlier, or most of them would never be interrupted
            assert_counts_on_only(hosts, b)
            b("suspend", "counter")
            a("resume", "-d", "--at", "counter", "counter")
        else:
            assert migrating.returncode == 130, err
            assert b"(the agent: running" in err
        assert_counts_on_only(hosts, a)
    assert 130 in codes


def cli_of(host: Host) -> int:
    """The criu-agent that migrates."""
    return host.commands("migrate")[0]  # others are between fork and exec


@pytest.mark.parametrize("phase", ["doctor", "suspend", "restore", "go"])
def test_ctrl_c_in_each_step(hosts: Hosts, phase: str) -> None:
    a, b = hosts.a, hosts.b
    start_counter_on_a(hosts)
    with started(a, "--json", *MIGRATE) as migrating:
        assert migrating.stdout is not None
        while f'"{phase}"'.encode() not in migrating.stdout.readline():
            pass
        os.kill(cli_of(a), signal.SIGINT)
        _, err = migrating.communicate(timeout=60)
    if phase == "go":  # too late
        assert migrating.returncode == 0
        assert_counts_on_only(hosts, b)
        return
    assert migrating.returncode == 130, err
    said = json.loads(err.splitlines()[-1])
    assert said["message"].startswith("interrupted") or "given up" in said["message"]
    assert "running" in said["agent_state"]
    assert_counts_on_only(hosts, a)
    await_true(lambda: b.runs() == [], "nothing is left there")


@pytest.mark.parametrize("phase", ["doctor", "suspend", "restore", "go"])
def test_a_migrate_that_is_killed_leaves_at_most_one(hosts: Hosts, phase: str) -> None:
    a, b = hosts.a, hosts.b
    start_counter_on_a(hosts)
    with started(a, "--json", *MIGRATE) as migrating:
        assert migrating.stdout is not None
        while f'"{phase}"'.encode() not in migrating.stdout.readline():
            pass
        os.kill(cli_of(a), signal.SIGKILL)
        migrating.communicate(timeout=60)
    await_true(lambda: settled(hosts), "nothing is under way any more")
    running = where(hosts)
    assert len(running) <= 1
    if phase == "doctor":
        assert running == ["a"]
    if not running:
        outcome = a("resume", "-d", "counter", check=False)
        if outcome.code:  # it was handed over: the user looks there first
            assert "may be running on 10.66.0.2" in outcome.err
            a("resume", "-y", "-d", "counter")
        running = ["a"]
    assert_counts_on_only(hosts, a if running == ["a"] else b)


def settled(hosts: Hosts) -> bool:
    states = [run["state"] for host in (hosts.a, hosts.b) for run in host.runs()]
    verbs = [pid for host in (hosts.a, hosts.b) for word in ("migrate", "restore") for pid in host.commands(word)]
    return not verbs and not {"checkpointing", "restoring", "starting"} & set(states)
