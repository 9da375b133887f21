"""A virtual machine with Debian 13's kernel and root, where root has every capability, under QEMU's own emulation."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import TOOLS

ROOT = TOOLS / "qemu"
_PROJECT = Path(__file__).parents[2]
_BOOT = 300.0  # seconds: it takes 10, but on a busy machine


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that is up, with this working tree in /srv/project."""

    port: int

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 1800) -> "subprocess.CompletedProcess[str]":
        """A command line of sh on it, as root."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=30"]
        ssh = ["ssh", "-i", str(ROOT / "vm/id"), "-p", str(self.port), *(f"-o{option}" for option in options)]
        done = subprocess.run(
            [*ssh, "root@127.0.0.1", command], input=stdin, capture_output=True, timeout=timeout, check=False
        )
        out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(command, done.returncode, out, err)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    assert (ROOT / "vm/disk.img").exists(), "images/vm/build has not been run: make vm"
    (kernel,), (initrd,) = ((ROOT / "boot").glob(name) for name in ("vmlinuz-*", "initrd.img-*"))
    port = _free_port()
    argv = ["chroot", str(ROOT), "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2"]
    argv += ["-m", "2048", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]
    argv += ["-kernel", f"/boot/{kernel.name}", "-initrd", f"/boot/{initrd.name}"]
    argv += ["-append", "console=ttyS0 root=/dev/vda rw init=/sbin/vm-init quiet panic=-1"]
    argv += ["-drive", "file=/vm/disk.img,if=virtio,format=raw,snapshot=on,cache=unsafe"]
    argv += ["-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"]
    argv += ["-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci"]
    log = tmp_path_factory.mktemp("vm") / "console.log"
    with open(log, "wb") as console, subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=console) as qemu:
        try:
            made = Machine(port=port)
            deadline = time.monotonic() + _BOOT
            while b"up: Linux" not in log.read_bytes() or made.run("true").returncode:
                assert qemu.poll() is None, log.read_text(errors="replace")
                assert time.monotonic() < deadline, log.read_text(errors="replace")
                time.sleep(0.5)
            names = subprocess.run(["git", "ls-files", "-z"], cwd=_PROJECT, capture_output=True, check=True).stdout
            there = [name for name in names.decode().split("\0") if name and os.path.lexists(_PROJECT / name)]
            tree = subprocess.run(["tar", "-c", "--", *there], cwd=_PROJECT, capture_output=True, check=True).stdout
            copied = made.run("mkdir -p /srv/project && tar -x -C /srv/project", stdin=tree)
            assert copied.returncode == 0, copied.stderr
            yield made
        finally:
            qemu.kill()
