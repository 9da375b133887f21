"""Hosts for tests: namespaces with a root tree, a network, an uptime, an sshd and a criu-agent of their own.

A host's root has this machine's or another tree as its base, and an own /root, /etc and /var. It is a pid namespace:
whatever runs there ends with its PID 1. `ip netns exec` would make a mount namespace that CRIU cannot dump
(lab/criu.md 11): hosts are entered by nsenter.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from tests.conftest import PATH, Agent, await_true

REPOSITORY = "/srv/repository"
WORKDIR = "/srv/work"
_BOOT = Path(__file__).with_name("boot.sh")
_PROJECT = Path(__file__).parents[2]
_PREFIX = Path(os.environ.get("CRIU_AGENT_PREFIX", "/opt/criu-agent"))
_SSHD_CONFIG = """\
ListenAddress {address}:{port}
HostKey /etc/ssh/test_host_key
AuthorizedKeysFile /root/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile none
"""


class Host(Agent):
    """A host, and its criu-agent: host("ps") is `criu-agent ps` typed there in the work directory.

    workdir is its /srv/work as we see it. uptime: seconds that its clocks are ahead of this machine's. base: what its
    root is made of; scripts/install-test-root makes another one.
    """

    def __init__(
        self, place: Path, name: str, address: str, repository: Path, *, uptime: int = 0, base: Path = Path("/")
    ) -> None:
        place.mkdir()
        super().__init__(place)
        self.name, self.address = name, address
        for directory in ("root", "layers", "state", "ssh", "repository"):
            (place / directory).mkdir(mode=0o700 if directory == "ssh" else 0o755)
        (place / "repository").rmdir()
        (place / "repository").symlink_to(repository)
        (place / "boot_id").write_text(f"{uuid.uuid4()}\n")
        self.cgroup = _make_cgroup(f"{place.parent.name}-{name}")
        self.env = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "CRIU_AGENT_REPOSITORY": REPOSITORY}
        self._join = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(self.cgroup)]
        self._base = base
        self._unshare = self._boot(uptime)
        self.pid = _only_child(self._unshare.pid)
        self._sshd: subprocess.Popen[bytes] | None = None
        # Into its cgroup too, which nsenter does not: by that we know later what runs there.
        self.enter = [*self._join, "nsenter", "--target", str(self.pid), "--all", "sh", "-c", 'cd "$0" && exec "$@"']
        typed = place / "criu-agent"  # one word, that can be typed into a terminal of ours
        typed.write_text(f'#!/bin/sh\nexec {shlex.join([*self.enter, WORKDIR, "criu-agent"])} "$@"\n')
        typed.chmod(0o755)
        self.program = [str(typed)]
        self._show_the_program()

    def _show_the_program(self) -> None:
        """What `criu-agent` on PATH is: for us, and for who comes by ssh."""
        if self._base == Path("/"):
            self.run("ln", "-s", str(Path(sys.executable).parent / "criu-agent"), "/usr/local/bin/criu-agent")
            return
        for packages in self._base.glob("usr/local/lib/python3*/dist-packages"):
            self.write(f"/{packages.relative_to(self._base)}/working-tree.pth", f"{_PROJECT}\n", mode=0o644)

    def _boot(self, uptime: int) -> "subprocess.Popen[bytes]":
        unshare = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--kill-child"]
        unshare += ["--propagation", "private"]
        unshare += ["--time", "--monotonic", str(uptime), "--boottime", str(uptime)]
        # Another tree has a Python of its own.
        ours = [sys.prefix, sys.base_prefix] if self._base == Path("/") else []
        shown = [str(_PROJECT), *ours, str(_PREFIX)]
        argv = [*unshare, "sh", str(_BOOT), str(self.directory), self.name, str(self._base), *shown]
        with open(self.directory / "boot.log", "wb") as log:
            started = subprocess.Popen(
                [*self._join, *argv],
                env={**self.env, "INIT": str(_PREFIX / "bin/dumb-init")},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert started.stdout is not None
        assert started.stdout.readline() == b"up\n", (self.directory / "boot.log").read_text()
        return started

    def run(self, *argv: str, check: bool = True) -> str:
        """A command on this host; its standard output."""
        done = subprocess.run(
            [*self.enter, "/", *argv],
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{argv} on {self.name}: {done.stderr}"
        return done.stdout

    def write(self, path: str, text: str, *, mode: int = 0o600) -> None:
        """A file of this host."""
        subprocess.run([*self.enter, "/", "sh", "-c", 'cat >"$0"', path], input=text, text=True, check=True)
        self.run("chmod", f"{mode:o}", path)

    def link_to(self, other: "Host") -> None:
        """A cable between the two."""
        add = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(other.pid)]
        subprocess.run(["nsenter", "--target", str(self.pid), "--net", *add], check=True)
        for host in (self, other):
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")

    def program_there(self, script: str) -> str:
        """A program that can stand for this host's criu-agent: in the script that is "$real"."""
        path = "/usr/local/bin/other-agent"
        self.write(path, f"#!/bin/sh\nreal=/usr/local/bin/criu-agent\n{script}", mode=0o755)
        return path

    # -- ssh

    def trust(self, other: "Host") -> None:
        """root may come here from `other` by key, and knows us there."""
        self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/test_host_key")
        other.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
        self.write("/root/.ssh/authorized_keys", other.run("cat", "/root/.ssh/id_ed25519.pub"))
        key = " ".join(self.run("cat", "/etc/ssh/test_host_key.pub").split()[:2])
        other.write("/root/.ssh/known_hosts", f"{self.address} {key}\n")

    def start_sshd(self, *, port: int = 22) -> None:
        self.write("/etc/ssh/test_sshd_config", _SSHD_CONFIG.format(address=self.address, port=port))
        with open(self.directory / "sshd.log", "ab") as log:
            self._sshd = subprocess.Popen(
                [*self.enter, "/", "/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/test_sshd_config"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await_true(lambda: self.listens(port), "sshd listens")

    def listens(self, port: int) -> bool:
        return f":{port} " in self.run("ss", "-Hltn")

    def sshd_pids(self) -> list[int]:
        """All of its processes, listener and sessions, as this machine sees them: the listener first."""
        return [pid for pid in self.pids() if _comm(pid) == "sshd"]

    def stop_sshd(self) -> None:
        """Kill the listener and every session: what is under way is cut off."""
        for pid in self.sshd_pids():
            os.kill(pid, signal.SIGKILL)
        if self._sshd is not None:
            self._sshd.wait()
            self._sshd = None

    # -- what runs there

    def pids(self) -> list[int]:
        """Every process of the host, as this machine sees it, oldest first."""
        found: list[int] = []
        for procs in self.cgroup.rglob("cgroup.procs"):
            found += map(int, procs.read_text().split())
        return sorted(pid for pid in found if _comm(pid) not in ("unshare", "nsenter"))

    def commands(self, word: str) -> list[int]:
        """The processes of the host that have this word in their arguments, as this machine sees them."""
        return [pid for pid in self.pids() if word in _arguments(pid)]

    def switch_off(self) -> None:
        """End PID 1, and with it all that runs there."""
        if self._unshare.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self._unshare.wait()
        if self._unshare.stdout is not None:
            self._unshare.stdout.close()
        if self._sshd is not None:
            self._sshd.wait()
        _remove_cgroup(self.cgroup)
        shutil.rmtree(self.directory / "layers")  # whiteouts: not for pytest to keep


def _hierarchy() -> Path:
    unified = Path("/sys/fs/cgroup/unified")
    return unified if unified.is_dir() else Path("/sys/fs/cgroup")


def _make_cgroup(name: str) -> Path:
    path = _hierarchy() / "criu-agent-tests" / name
    path.mkdir(parents=True)
    return path


def _remove_cgroup(path: Path) -> None:
    deadline = time.monotonic() + 10
    while path.exists():
        try:
            for inner in sorted(path.rglob("*/"), key=lambda inner: -len(inner.parts)):
                if inner.is_dir():
                    inner.rmdir()
            path.rmdir()
        except OSError:
            assert time.monotonic() < deadline, f"{path} is busy"
            time.sleep(0.02)
    if not [inner for inner in path.parent.iterdir() if inner.is_dir()]:
        path.parent.rmdir()


def _only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
