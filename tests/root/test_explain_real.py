"""What `explain` makes of the logs of the real CRIU, for failures that are provoked here."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from criu_agent import config
from criu_agent.criu import explain
from criu_agent.linux import process
from tests.conftest import PATIENCE

CRIU = config.load().criu
pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="CRIU needs root"),
    pytest.mark.skipif(not CRIU.exists() and "CI" not in os.environ, reason=f"no CRIU at {CRIU}"),
]

# Prepended to every workload: a raw system call, for what Python does not wrap.
PRELUDE = """
import ctypes, fcntl, os, signal, socket, struct, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    value = libc.syscall(number, *arguments)
    if value < 0:
        os.write(1, os.strerror(ctypes.get_errno()).encode())
        sys.exit(1)
    return value
def settle():
    "Let go of the pipe to the test: it is not part of what is dumped."
    os.close(1)
    os.open("/dev/null", os.O_WRONLY)
"""
EPILOGUE = """
os.write(1, b"ready")
settle()
while True:
    time.sleep(1000)
"""
OWN_PIDS = ("unshare", "--pid", "--fork", "--kill-child")
X86 = os.uname().machine == "x86_64"
x86_numbers = pytest.mark.skipif(not X86, reason="the system call number is that of x86-64")


class Lab:
    """Starts workloads and has CRIU dump and restore them; the end of the test ends them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = path / "files"
        self.images = path / "images"
        self.files.mkdir(parents=True)
        self.images.mkdir()
        self._processes: list[process.Process[bytes]] = []

    def start(self, code: str, *, wrap: tuple[str, ...] = (), stdin: int = process.DEVNULL) -> int:
        """Run Python code that then sleeps; returns its pid, with `wrap` that of the wrapper's child."""
        argv = [*wrap, sys.executable, "-I", "-S", "-c", PRELUDE + code + EPILOGUE]
        started = process.spawn(argv, stdin=stdin, stdout=process.PIPE, cwd=str(self.files))
        self._processes.append(started)
        assert started.stdout
        with started.stdout as answers:
            answer = answers.read(5)
            if answer != b"ready":
                pytest.skip(f"this kernel cannot: {(answer + answers.read()).decode() or 'the workload failed'}")
        return children(started.pid)[0] if wrap else started.pid

    def dump(
        self, pid: int, *options: str, keep: bool = True, log: Path | None = None, level: int = 3
    ) -> tuple[int, str]:
        """CRIU's exit code and log."""
        log = log or self.path / "dump.log"
        argv = [str(CRIU), "dump", "-t", str(pid), "-D", str(self.images), "-o", str(log), f"-v{level}"]
        code = process.run([*argv, *(["-R"] if keep else []), *options], timeout=PATIENCE).code
        return code, log.read_text(errors="replace")

    def refused(self, pid: int, *options: str) -> explain.Explanation:
        code, log = self.dump(pid, *options)
        assert code != 0, log[-2000:]
        found = explain.explain(log, verb="dump")
        assert found.known, found
        return found

    def dump_and_end(self, pid: int, *options: str) -> None:
        code, log = self.dump(pid, *options, keep=False)
        assert code == 0, explain.explain(log, verb="dump")
        for started in self._processes:
            started.wait()

    def restore_fails(self) -> explain.Explanation:
        log, pidfile = self.path / "restore.log", self.path / "restored.pid"
        argv = [str(CRIU), "restore", "-d", "-D", str(self.images), "-o", str(log), "-v4"]
        code = process.run([*argv, "--pidfile", str(pidfile)], timeout=PATIENCE).code
        if code == 0:
            os.kill(int(pidfile.read_text()), signal.SIGKILL)
        assert code != 0
        found = explain.explain(log.read_text(errors="replace"), verb="restore")
        assert found.known, found
        return found

    def close(self) -> None:
        for started in reversed(self._processes):  # a tracer before those that it traces
            for pid in (*children(started.pid), started.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            started.wait()


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def small_tmpfs(lab: Lab) -> Iterator[Path]:
    """A tmpfs without any room on the directory of the images, to be sized by the test."""
    process.run(["mount", "-t", "tmpfs", "-o", "size=4k", "explain-test", str(lab.images)])
    try:
        yield lab.images
    finally:
        process.run(["umount", str(lab.images)])


@pytest.fixture
def network_dump(lab: Lab) -> None:
    """Skips where this CRIU cannot dump a network socket at all: CRIU before 4.2 from Linux 6.16 on."""
    code, log = lab.dump(lab.start("s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()"))
    if code != 0:
        found = explain.explain(log, verb="dump")
        assert "needs CRIU 4.2" in found.what
        assert (found.kind, found.fd) == ("host", 3)
        pytest.skip(found.what)


def where(found: explain.Explanation) -> tuple[int | None, int | None, str, str]:
    return found.pid, found.fd, found.object, found.kind


# dump: what the tree has


def test_a_nested_user_namespace_is_named_with_its_process(lab: Lab) -> None:
    top = lab.start(
        "subprocess.Popen(['unshare', '--user', 'sleep', '99'], stdout=2)\n"
        "child = open('/proc/thread-self/children').read().strip()\n"  # as this /proc, the host's, calls it
        "while os.readlink(f'/proc/{child}/ns/user') == os.readlink('/proc/self/ns/user'): time.sleep(0.01)",
        wrap=OWN_PIDS,
    )
    found = lab.refused(top)
    assert where(found) == (children(top)[0], None, "user namespace", "tree")
    assert "--no-sandbox" in found.hint


def test_a_traced_process_is_named(lab: Lab) -> None:
    pid = lab.start("")
    lab.start(f"libc.ptrace(0x4206, {pid}, 0, 0)")  # PTRACE_SEIZE
    found = lab.refused(pid)
    assert where(found) == (pid, None, "", "tree")
    assert "another program traces" in found.what


def test_a_traced_child_is_named_and_not_its_parent(lab: Lab) -> None:
    top = lab.start("subprocess.Popen(['sleep', '99'], stdout=2)", wrap=OWN_PIDS)
    child = children(top)[0]
    lab.start(f"libc.ptrace(0x4206, {child}, 0, 0)")
    found = lab.refused(top)
    assert where(found) == (child, None, "", "tree")
    assert "another program traces" in found.what


def test_a_process_that_is_gone_is_said_to_have_ended(lab: Lab) -> None:
    found = lab.refused(4194303)
    assert (found.what, found.pid) == ("the process has ended", 4194303)


@x86_numbers
def test_an_io_uring_is_named(lab: Lab) -> None:
    pid = lab.start("syscall(425, 4, ctypes.create_string_buffer(120))")
    assert where(lab.refused(pid)) == (pid, None, "anon_inode:[io_uring]", "tree")


@x86_numbers
def test_a_perf_event_is_named_with_its_descriptor(lab: Lab) -> None:
    pid = lab.start(
        "attribute = struct.pack('IIQQ', 1, 112, 0, 0) + bytes(96)\n"
        "fd = syscall(298, ctypes.create_string_buffer(attribute), 0, -1, -1, 0)\n"
        "os.dup2(fd, 7); os.close(fd)"
    )
    assert where(lab.refused(pid)) == (pid, 7, "anon_inode:[perf_event]", "tree")


@x86_numbers
def test_secret_memory_is_named(lab: Lab) -> None:
    pid = lab.start("syscall(447, 0)")
    assert where(lab.refused(pid)) == (pid, 3, "memfd_secret", "tree")


def test_a_lock_is_refused_without_the_option_for_locks(lab: Lab) -> None:
    pid = lab.start("f = open('lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX)")
    found = lab.refused(pid)
    assert (found.what, found.kind) == ("a file is locked", "tree")


def test_a_large_deleted_file_is_named_with_its_size(lab: Lab) -> None:
    pid = lab.start("f = open('ghost', 'wb'); f.write(bytes(b'x' * 3000000)); f.flush(); os.unlink('ghost')")
    found = lab.refused(pid)
    assert where(found) == (pid, 3, f"{lab.files}/ghost", "tree")
    assert "bytes" in found.what


def test_a_file_deleted_under_one_of_two_names_is_named(lab: Lab) -> None:
    pid = lab.start("f = open('a', 'w'); os.link('a', 'b'); os.unlink('a')")
    assert where(lab.refused(pid)) == (pid, 3, f"{lab.files}/a", "tree")


def test_a_watch_that_has_no_handle_is_named_with_its_descriptor(lab: Lab) -> None:
    pid = lab.start("fd = libc.inotify_init1(0); libc.inotify_add_watch(fd, b'/proc/self', 2)")
    assert where(lab.refused(pid)) == (pid, 3, "file watch", "tree")


def test_a_pidfd_of_a_foreign_process_is_named(lab: Lab) -> None:
    pid = lab.start(f"fd = os.pidfd_open({os.getpid()})")
    assert where(lab.refused(pid)) == (pid, 3, f"pidfd of process {os.getpid()}", "tree")


def test_a_device_is_named_by_its_number(lab: Lab) -> None:
    device = Path("/dev/fuse")
    if not device.exists():
        pytest.skip("no /dev/fuse on this host")
    pid = lab.start("f = open('/dev/fuse', 'r+b', buffering=0)")
    assert where(lab.refused(pid)) == (pid, 3, "character device 10:229", "tree")


def test_half_of_a_foreign_unix_stream_is_named_by_the_path_of_the_server(lab: Lab) -> None:
    path = lab.files / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        pid = lab.start("s = socket.socket(socket.AF_UNIX); s.connect('s')")
        client, _ = server.accept()
        with client:
            code, log = lab.dump(pid, level=4)
            found = explain.explain(log, verb="dump")
            assert code != 0
            assert found.what == "a unix socket is connected to a program outside of the run"
            with_option = lab.refused(pid, "--ext-unix-sk")
    assert with_option.what == found.what


def test_a_foreign_datagram_socket_is_named_by_its_path(lab: Lab) -> None:
    path = lab.files / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        pid = lab.start(f"s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect({str(path)!r})")
        code, log = lab.dump(pid, level=4)
    assert code != 0
    assert explain.explain(log, verb="dump").object == str(path)


def test_a_unix_connection_that_was_not_accepted_is_named_by_its_inode(lab: Lab) -> None:
    pid = lab.start(
        "s = socket.socket(socket.AF_UNIX); s.bind('u'); s.listen()\n"
        "c = socket.socket(socket.AF_UNIX); c.connect('u'); c.close()"
    )
    inode = Path(f"/proc/{pid}/fd/3").readlink()
    assert where(lab.refused(pid)) == (pid, 3, str(inode), "tree")


def test_mptcp_is_named_by_its_inode(lab: Lab) -> None:
    pid = lab.start("s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)")
    inode = Path(f"/proc/{pid}/fd/3").readlink()
    found = lab.refused(pid)
    assert where(found) == (pid, 3, str(inode), "tree")
    assert "GODEBUG=multipathtcp=0" in found.hint


def test_vsock_is_named(lab: Lab) -> None:
    pid = lab.start("s = socket.socket(40, socket.SOCK_STREAM)")
    assert where(lab.refused(pid)) == (pid, 3, "vsock socket", "tree")


def test_a_session_from_outside_the_box_is_named(lab: Lab) -> None:
    pid = lab.start("", wrap=OWN_PIDS)
    assert where(lab.refused(pid)) == (pid, None, "process 1 of the box", "tree")


def test_a_file_from_outside_the_mount_namespace_is_named_with_its_descriptor(lab: Lab) -> None:
    mounts = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation", "private", "setsid")
    with (lab.files / "leak").open("w") as leak:
        pid = lab.start("", wrap=mounts, stdin=leak.fileno())
    assert where(lab.refused(pid)) == (pid, 0, f"{lab.files}/leak", "tree")


def test_a_terminal_whose_master_is_outside_is_named(lab: Lab) -> None:
    master, slave = os.openpty()
    try:
        name = os.ttyname(slave)
        pid = lab.start("", stdin=slave)
        assert where(lab.refused(pid)) == (None, None, name, "tree")
    finally:
        os.close(slave)
        os.close(master)


# dump: what the host has


@pytest.mark.parametrize(
    "code",
    [
        "",
        "r, w = os.pipe(); os.write(w, bytes(60000))",
        "a, b = socket.socketpair(); a.send(bytes(50000))",
        "f = open('ghost', 'wb'); f.write(bytes(b'x' * 900000)); f.flush(); os.unlink('ghost')",
        "fd = os.memfd_create('m'); os.write(fd, b'x' * 900000)",
    ],
    ids=["memory", "pipe", "socket queue", "deleted file", "memfd"],
)
def test_a_full_tmpfs_is_recognised_wherever_it_strikes(lab: Lab, small_tmpfs: Path, code: str) -> None:
    pid = lab.start(code)
    for pages in (1, 8, 40, 400, 800):
        options = f"remount,size={pages * 4}k"
        assert process.run(["mount", "-o", options, str(small_tmpfs)]).ok
        exit_code, log = lab.dump(pid)
        assert exit_code != 0
        found = explain.explain(log, verb="dump")
        assert (found.kind, found.known) == ("resource", True), found
        assert "No space left on device" in found.line
        for image in small_tmpfs.iterdir():
            image.unlink()


def test_a_log_on_the_full_tmpfs_breaks_off_and_is_recognised_too(lab: Lab, small_tmpfs: Path) -> None:
    code, log = lab.dump(lab.start(""), log=small_tmpfs / "dump.log")
    assert code != 0
    assert explain.first_error(log) is None
    assert explain.explain(log, verb="dump").kind == "resource"


# restore


def test_a_missing_file_is_named_with_its_descriptor(lab: Lab) -> None:
    pid = lab.start("f = open('data', 'w'); f.write('hello'); f.flush()")
    lab.dump_and_end(pid)
    (lab.files / "data").unlink()
    found = lab.restore_fails()
    assert where(found) == (pid, 3, f"{lab.files}/data", "host")
    assert found.what == "an open file is missing on this host"


def test_a_file_of_another_size_is_named_with_both_sizes(lab: Lab) -> None:
    pid = lab.start("f = open('data', 'a+'); f.write('hello'); f.flush()")
    lab.dump_and_end(pid)
    (lab.files / "data").write_text("hello, hello")
    found = lab.restore_fails()
    assert where(found) == (pid, 3, f"{lab.files}/data", "host")
    assert "12 bytes instead of 5" in found.what


def test_a_file_of_another_mode_is_named(lab: Lab) -> None:
    pid = lab.start("f = open('data', 'w')")
    lab.dump_and_end(pid)
    (lab.files / "data").chmod(0o600)
    assert where(lab.restore_fails()) == (pid, 3, f"{lab.files}/data", "host")


def test_a_missing_working_directory_is_called_that(lab: Lab) -> None:
    pid = lab.start("os.mkdir('d'); os.chdir('d')")
    lab.dump_and_end(pid)
    (lab.files / "d").rmdir()
    found = lab.restore_fails()
    assert where(found) == (pid, None, f"{lab.files}/d", "host")
    assert found.what.startswith("the working directory")


def test_a_missing_library_is_called_that(lab: Lab) -> None:
    library = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line)
    pid = lab.start(
        f"import shutil; shutil.copy({library!r}, 'l.so')\n"
        "fd = os.open('l.so', os.O_RDONLY); libc.mmap(None, 4096, 1, 2, fd, 0); os.close(fd)"
    )
    lab.dump_and_end(pid)
    (lab.files / "l.so").unlink()
    found = lab.restore_fails()
    assert where(found) == (pid, None, f"{lab.files}/l.so", "host")
    assert found.what.startswith("a program or library")


def test_a_taken_unix_path_is_named(lab: Lab) -> None:
    pid = lab.start(f"s = socket.socket(socket.AF_UNIX); s.bind('{lab.files}/u'); s.listen()")
    lab.dump_and_end(pid)
    (lab.files / "u").unlink()
    (lab.files / "u").touch()
    assert where(lab.restore_fails()) == (pid, 3, f"{lab.files}/u", "host")


@pytest.mark.usefixtures("network_dump")
def test_a_taken_port_is_named_with_its_address(lab: Lab) -> None:
    lab.close()
    lab = Lab(lab.path / "second")
    pid = lab.start(
        "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "s.bind(('127.0.0.1', 0)); s.listen()\n"
        "with open('port', 'w') as file: file.write(str(s.getsockname()[1]))"
    )
    port = int((lab.files / "port").read_text())
    try:
        lab.dump_and_end(pid)
        with socket.create_server(("127.0.0.1", port)):
            assert where(lab.restore_fails()) == (pid, 3, f"TCP 127.0.0.1:{port}", "host")
    finally:
        lab.close()


def test_a_taken_pid_is_named(lab: Lab) -> None:
    pid = lab.start("")
    code, _ = lab.dump(pid)
    assert code == 0
    found = lab.restore_fails()
    assert where(found) == (pid, None, "", "host")
    assert found.what == "the number of a process of the run is taken"


def test_in_a_tree_the_process_that_misses_its_file_is_named_by_its_number_in_the_box(lab: Lab) -> None:
    code = (
        "for n in range(5):\n"
        "    if os.fork() == 0:\n"
        "        settle(); f = open(f'data{n}', 'w'); time.sleep(1000)\n"
        "while not all(os.path.exists(f'data{n}') for n in range(5)): time.sleep(0.01)"
    )
    lab.dump_and_end(lab.start(code, wrap=(*OWN_PIDS, "setsid")))
    (lab.files / "data3").unlink()
    found = lab.restore_fails()
    assert where(found) == (5, 3, f"{lab.files}/data3", "host")


@pytest.mark.parametrize("image", ["inventory.img", "core-", "mm-", "pagemap-", "files.img"])
def test_a_truncated_image_is_called_corrupt(lab: Lab, image: str) -> None:
    lab.dump_and_end(lab.start(""))
    path = next(file for file in lab.images.iterdir() if file.name.startswith(image))
    os.truncate(path, path.stat().st_size // 2)
    found = lab.restore_fails()
    assert (found.kind, Path(found.object).name) == ("image", path.name)


def test_missing_pages_are_called_corrupt(lab: Lab) -> None:
    lab.dump_and_end(lab.start(""))
    for pages in lab.images.glob("pages-*.img"):
        pages.unlink()
    assert lab.restore_fails().kind == "image"
