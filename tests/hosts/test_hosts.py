"""What the fixture promises."""

from pathlib import Path

from tests.hosts.conftest import AHEAD, Hosts


def test_hosts_are_apart_and_reach_each_other_by_ssh(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    assert (a.run("hostname"), b.run("hostname")) == ("a\n", "b\n")
    said = a.run("ssh", "-o", "BatchMode=yes", "10.66.0.2", "hostname; command -v criu-agent; cat /proc/uptime")
    name, program, uptime = said.splitlines()
    assert (name, program) == ("b", "/usr/local/bin/criu-agent")
    assert float(uptime.split()[0]) > AHEAD
    assert a.run("cat", "/proc/sys/kernel/random/boot_id") != b.run("cat", "/proc/sys/kernel/random/boot_id")
    a.write("/root/only-a", "x")
    assert b.run("ls", "-A", "/root/only-a", check=False) == ""
    assert not Path("/root/only-a").exists()
    (a.workdir / "file").write_text("seen")
    assert a.run("cat", "/srv/work/file") == "seen"
    for host in (a, b):
        assert host("doctor").code == 0
