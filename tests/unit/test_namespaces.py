"""What /proc/PID/ns says of a process, also of one that ends while it is read."""

import os
import subprocess

from criu_agent.linux import proc


def test_every_namespace_of_a_living_process_is_read() -> None:
    found = proc.namespaces(os.getpid())
    assert set(found) == set(proc.NAMESPACES)
    assert found["pid"] == os.stat("/proc/self/ns/pid").st_ino == found["pid_for_children"]


def test_a_process_that_ends_meanwhile_did_not_ask_for_a_nested_pid_namespace() -> None:
    """The kernel names no pid_for_children in both cases. Each end hits one moment of it only: so many."""
    for _ in range(300):
        with subprocess.Popen(["/bin/true"]) as ending:
            while ending.poll() is None:
                assert proc.namespaces(ending.pid).get("pid_for_children") != 0
