"""What tests of several hosts ask of a counter that may have been on all of them."""

import re
from pathlib import Path

from tests.conftest import await_true
from tests.counting import COUNTER, numbers, start_counter
from tests.hosts.conftest import Hosts
from tests.hosts.host import Host

MIGRATE = ["migrate", "counter", "root@10.66.0.2", "--shared-path"]


def start_counter_on_a(hosts: Hosts) -> None:
    """It runs on a; b has the same work directory."""
    start_counter(hosts.a)
    (hosts.b.workdir / "counter.py").write_text(COUNTER)


def printed(host: Host) -> list[int]:
    """The numbers that were printed while it was on that host."""
    return numbers(host) if any(run["name"] == "counter" for run in host.runs()) else []


def where(hosts: Hosts) -> list[str]:
    """The hosts on which it runs."""
    states = [(host, run) for host in (hosts.a, hosts.b) for run in host.runs() if run["name"] == "counter"]
    return [host.name for host, run in states if run["state"] not in ("suspended", "fenced", "exited", "failed")]


def assert_counts_on_only(hosts: Hosts, host: Host) -> None:
    """It runs there and nowhere else; of all numbers, on all hosts, none is missing and none was printed twice."""
    await_true(lambda: where(hosts) == [host.name], f"it is on {host.name} alone, and nothing is under way")
    before = len(printed(host))
    await_true(lambda: len(printed(host)) > before + 2, f"it counts on on {host.name}")
    everything = sorted(printed(hosts.a) + printed(hosts.b))
    assert everything == list(range(1, len(everything) + 1))
    others = [one for one in (hosts.a, hosts.b) if one is not host]
    await_true(lambda: not any(other.commands("counter.py") for other in others), "no process of it is elsewhere")


def box_pids(host: Host) -> list[int]:
    """The pids of the host's only run as it sees them itself, PID 1 of its box first."""
    (procs,) = host.cgroup.glob("criu-agent/*/cgroup.procs")
    status = [Path(f"/proc/{pid}/status").read_text() for pid in procs.read_text().split()]
    return sorted(int(re.findall(r"^NSpid:.*?(\d+)$", text, re.MULTILINE)[0]) for text in status)
