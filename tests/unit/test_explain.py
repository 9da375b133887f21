"""Logs of CRIU 4.1.1 and 4.2, cut down to the lines that count, and what they are translated into."""

import pytest

from criu_agent.criu import explain, known_errors
from criu_agent.errors import Corrupt, Failure, HostCannot, Refused

NOISE = "Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted"

# (verb, text behind "Error (file:line): ", what, object): one line at least for each row of the table
SAMPLES = [
    ("dump", "Can't write img file: No space left on device", "no space is left", ""),
    ("dump", "page-xfer: Unable to spice data: No space left on device", "no space is left", ""),
    ("dump", "bfd: Error flushing image: No space left on device", "no space is left", ""),
    ("dump", "Can't push pipe data: No space left on device", "no space is left", ""),
    ("dump", "Can't send ghost to image: No space left on device", "no space is left", ""),
    ("dump", "Can't write 12 bytes: Disk quota exceeded", "no space is left", ""),
    ("dump", "Can't map pages: Cannot allocate memory", "too little free memory", ""),
    ("dump", "page-xfer: Unable to spice data: Broken pipe", "their reader has gone", ""),
    ("dump", "Can't dump nested user namespace for 5446", "a namespace of its own", "user namespace"),
    ("dump", "Can't dump nested time_for_children namespace for 5477", "a namespace", "time namespace"),
    ("dump", "Unseizable non-zombie 8744 found, state S, err -1/10", "another program traces", ""),
    ("dump", "The criu itself is within dumped tree.", "from inside the run", ""),
    (
        "dump",
        "A session leader of 8788(1) is outside of its pid namespace",
        "outside of the box",
        "process 1 of the box",
    ),
    (
        "dump",
        "The root process 8759 is not a session leader. Consider using --shell-job option",
        "leads no session",
        "",
    ),
    ("dump", "Zombies with threads are not supported", "a thread of a process has ended", ""),
    ("dump", "Individually stopped threads not supported", "a single thread is stopped", ""),
    ("dump", "SEIZE 12: unsupported stop signal 21", "a background job waits for the terminal", ""),
    (
        "dump",
        "Unable to freeze cgroup /sys/fs/cgroup/a (3 x 100ms attempts, timeout: 10s)",
        "did not stand still",
        "cgroup /sys/fs/cgroup/a",
    ),
    ("dump", "Timeout reached. Try to interrupt: 0", "did not stand still", ""),
    ("dump", "Can't get rlimit 0: Operation not permitted", "without CAP_SYS_RESOURCE", ""),
    ("dump", "PID 12 has uprobes vma. Consider using --allow-uprobes.", "uprobes", ""),
    ("dump", "send_fds failed (-22)", "an io_uring is open", "anon_inode:[io_uring]"),
    ("dump", "Unknown shit 600 (anon_inode:[io_uring])", "an io_uring is mapped", "anon_inode:[io_uring]"),
    ("dump", "Unknown shit 600 (anon_inode:kvm-vcpu:0)", "memory is mapped", "anon_inode:kvm-vcpu:0"),
    ("dump", "Unsupported mapping found 00007f00-00007f10", "memory is mapped", "mapping 00007f00-00007f10"),
    ("dump", "Can't dump file 3 of that type [20600] (chr 10:229)", "a device", "character device 10:229"),
    (
        "dump",
        "Can't dump file 3 of that type [600] (anon anon_inode:[perf_event])",
        "of a kind that CRIU cannot save",
        "anon_inode:[perf_event]",
    ),
    (
        "dump",
        "Can't lookup mount=15 for fd=3 path=/secretmem (deleted)",
        "secret memory",
        "memfd_secret",
    ),
    ("dump", "Can't lookup mount=29 for fd=11 path=/dev/pts/1", "a terminal of the host", "/dev/pts/1"),
    ("dump", "Can't lookup mount=24 for fd=10 path=/dev/null", "outside of the box", "/dev/null"),
    (
        "dump",
        "Open files on overmounted mounts are not supported yet; mount=7 fd=4 path=/mnt/a b",
        "another mount hides",
        "/mnt/a b",
    ),
    ("dump", "The path [net:[4026531840]] is not supported", "no path", "net:[4026531840]"),
    (
        "dump",
        "pidfd: pidfd pid 1 is not a part of process tree..",
        "a process outside of the run",
        "pidfd of process 1",
    ),
    ("dump", "Can't dump ghost file /root/g of 2002944 size, increase limit", "(2002944 bytes)", "/root/g"),
    ("dump", "Can't create link remap for /root/a. Use link-remap option.", "one of its names", "/root/a"),
    ("dump", "Can't link remap to /root/a: Operation not permitted", "one of its names", "/root/a"),
    (
        "dump",
        "Some file locks are hold by dumping tasks! You can try --file-locks to dump them.",
        "a file is locked",
        "",
    ),
    ("dump", "Unresolved lock found pid 77 ino 2147597", "not in the run", "inode 2147597"),
    ("dump", "fsnotify: \tCan't dump that handle", "a watched file", "file watch"),
    (
        "dump",
        "tty: ctty inheritance detected sid/pgrp 31, no PTY peer with sid/pgrp needed",
        "session 31 holds /dev/tty open",
        "/dev/tty",
    ),
    (
        "dump",
        "tty: ctty inheritance detected sid/pgrp 9 (ctty pid_real 25537 pty pid_real 25536)",
        "a program holds /dev/tty open",
        "/dev/tty",
    ),
    (
        "dump",
        "tty: Found slave peer index 4 without correspond master peer",
        "outside of the box",
        "/dev/pts/4",
    ),
    ("dump", "tty: Only one slave external peer is allowed (index 2)", "outside of the box", "/dev/pts/2"),
    (
        "dump",
        "tty: Found dangling tty with sid 5 pgid 5 (pts) on peer fd 0.",
        "session outside",
        "session 5",
    ),
    (
        "dump",
        "unix: External socket is used. Consider using --ext-unix-sk option.",
        "a program outside of the run",
        "unix socket",
    ),
    (
        "dump",
        "unix: Can't dump half of stream unix connection. name: (null); peer name: /run/x y.sock",
        "a program outside of the run",
        "/run/x y.sock",
    ),
    ("dump", "unix: Can't dump name-less external socket.", "a unix socket", "unix socket without a name"),
    ("dump", "unix: Unix socket 88 without peer 99", "a program outside of the run", "socket:[88]"),
    ("dump", "unix: Unix socket 88 with unreachable peer 99 (5)", "a unix socket", "socket:[88]"),
    ("dump", "unix: Found a closed in-flight socket to 0xadfb", "waits to be accepted", "socket:[44539]"),
    (
        "dump",
        "inet: Connected TCP socket, consider using --tcp-established option.",
        "a TCP connection is open",
        "tcp connection",
    ),
    ("dump", "inet: In-flight connection (l) for 3072", "waits to be accepted", "socket:[12402]"),
    ("dump", "inet: Unsupported proto 262 for socket 3083", "an MPTCP socket", "socket:[12419]"),
    ("dump", "inet: Unsupported proto 132 for socket 10", "protocol 132", "socket:[16]"),
    ("dump", "sockets: BUG! Unknown socket collected (family 40)", "a vsock socket", "vsock socket"),
    ("dump", "sockets: BUG! Unknown socket collected (family 29)", "family 29", "socket of family 29"),
    ("dump", "inet: Can't dump corked dgram socket ff", "a socket is open in a state", "socket:[255]"),
    ("dump", "sockets: Can't get 1:16 opt: Operation not supported", "needs CRIU 4.2", ""),
    ("dump", "net: Unknown peer net namespace", "a network interface", ""),
    (
        "dump",
        "mnt: 82:./run/netns/wrAG doesn't have a proper root mount",
        "a directory of the host is mounted",
        "./run/netns/wrAG",
    ),
    ("dump", "Can't setns 10/uts: Operation not permitted", "another user namespace", "uts namespace"),
    ("dump", "Locking network failed using nftables", "cannot be held", "nftables"),
    ("dump", "One of more action scripts failed", "a stage of the checkpoint failed", ""),
    (
        "restore",
        "Can't open file root/a b.txt on restore: No such file or directory",
        "is missing on this host",
        "/root/a b.txt",
    ),
    (
        "restore",
        "Can't open file root/f on restore: Permission denied",
        "cannot be opened on this host (Permission denied)",
        "/root/f",
    ),
    (
        "restore",
        "File root/f has bad size 10 (expect 5)",
        "has changed: 10 bytes instead of 5",
        "/root/f",
    ),
    ("restore", "File root/libq.so has bad build-ID", "another build", "/root/libq.so"),
    (
        "restore",
        "File root/f has bad mode 0100600 (expect 0100644)",
        "mode 100600 instead of 100644",
        "/root/f",
    ),
    ("restore", "memfd: Cannot apply seals on memfd: Device or resource busy", "sealed", "memfd"),
    (
        "restore",
        "unix: Can't bind id 0x19 ino 26 addr /root/u.sock: Address already in use",
        "taken by another file",
        "/root/u.sock",
    ),
    (
        "restore",
        "inet: Can't bind inet socket (id 26): Address already in use",
        "a port that the run listens on is taken",
        "network socket",
    ),
    (
        "restore",
        "inet: Can't bind inet socket (id 26): Cannot assign requested address",
        "(Cannot assign requested address)",
        "network socket",
    ),
    ("restore", "tun: No tun device for file tt0", "a network interface", "tt0"),
    ("restore", "inet: couldn't find ifindex for eth7", "a network interface", "eth7"),
    ("restore", "inet: Connected TCP socket in image", "was not told to keep", "tcp connection"),
    ("restore", "tty: Don't have tty to inherit session from, aborting", "no terminal", "terminal"),
    ("restore", "Can't map: Cannot allocate memory", "too little free memory", ""),
    ("restore", "Can't fork for 9409: File exists", "the number of a process", ""),
    ("restore", "Can't fork for 9409: Resource temporarily unavailable", "(Resource temp", ""),
    ("restore", "mnt: No mapping for 162:(null) mountpoint", "no place on this host", "(null)"),
    (
        "restore",
        "mnt-v2: Failed to open_tree /srv/x: No such file or directory",
        "cannot be opened on this host",
        "/srv/x",
    ),
    (
        "restore",
        "mnt: The --root option is required to restore a mount namespace",
        "the root of the box was not given",
        "",
    ),
    ("restore", "net: Unable to find an external netns: agentnet", "the network of the run", "agentnet"),
    ("restore", "cpu: FPU feature required by image is not supported on host", "processor", "cpu"),
    ("restore", "rseq: can't restore as kernel doesn't support it", "the kernel of this host", ""),
    (
        "restore",
        "uffd: connect to lazy-pages.socket failed: Connection refused",
        "hands out the memory",
        "lazy-pages.socket",
    ),
    ("restore", "Unexpected EOF on (empty-image)", "an image of the snapshot", "(empty-image)"),
    (
        "restore",
        "Read 3 bytes while 18 expected from /i/pstree.img: No such file or directory",
        "an image of the snapshot",
        "/i/pstree.img",
    ),
    ("restore", "Head magic doesn't match for core-7.img", "an image of the snapshot", "core-7.img"),
    ("restore", "Can't read pages data (-9)", "an image of the snapshot", ""),
    ("restore", "Unable to open core-7.img: No such file or directory", "an image", "core-7.img"),
    ("restore", "Not supported images version 9", "does not understand", "image version 9"),
]


def log(*lines: str) -> str:
    return "".join(line + "\n" for line in (NOISE, *lines))


def row_of(verb: str, text: str) -> known_errors.Known | None:
    table = known_errors.TABLE[verb]
    return next((row for row in table if not row.needs_before and row.pattern.search(text)), None)


@pytest.mark.parametrize(("verb", "text", "what", "thing"), SAMPLES)
def test_a_message_of_criu_is_said_in_words_of_a_user(verb, text, what, thing):
    found = explain.explain(log(f"Error (criu/x.c:77): {text}"), verb=verb)
    assert found.known
    assert what in found.what
    assert found.object == thing
    assert found.hint
    assert found.line.endswith(text)


def test_no_row_of_the_table_is_hidden_by_an_earlier_one():
    reached = {id(row_of(verb, text)) for verb, text, _, _ in SAMPLES}
    rows = [row for table in known_errors.TABLE.values() for row in table if not row.needs_before]
    assert [row.pattern.pattern for row in rows if id(row) not in reached] == []


@pytest.mark.parametrize("row", [row for table in known_errors.TABLE.values() for row in table])
def test_messages_and_hints_keep_to_the_style(row):
    assert not row.what.endswith(".")
    assert not row.hint.endswith(".")
    assert row.what[0].islower() or row.what.startswith(("CRIU", "{"))


def test_the_pid_of_a_dump_comes_from_the_errors_that_follow_at_any_level():
    text = log(
        "Error (criu/files-reg.c:1122): Can't create link remap for /w/a. Use link-remap option.",
        "Error (criu/cr-dump.c:1681): Dump files (pid: 5371) failed with -1",
        "Error (criu/cr-dump.c:2111): Dumping FAILED.",
    )
    found = explain.explain(text, verb="dump")
    assert (found.pid, found.fd) == (5371, None)


def test_at_level_three_the_fd_of_a_dump_is_the_one_that_criu_began_with():
    text = log(
        "(00.024) 5301 fdinfo 8: pos:                0 flags:                2/0x1",
        "(00.025) 5399 fdinfo 2: pos:                0 flags:           100002/0",
        "(00.025) 5399 fdinfo 3: pos:                0 flags:                2/0x1",
        "(00.026) Error (criu/sk-inet.c:185): inet: In-flight connection (l) for 3072",
        "(00.026) Error (criu/sk-inet.c:186): inet: In-flight connections can be ignored with the"
        " --skip-in-flight option.",
        "(00.026) Error (criu/cr-dump.c:1681): Dump files (pid: 5399) failed with -1",
    )
    found = explain.explain(text, verb="dump")
    assert (found.pid, found.fd, found.object) == (5399, 3, "socket:[12402]")


def test_the_descriptor_of_another_process_is_not_blamed():
    text = log(
        "(00.025) 5399 fdinfo 3: pos:                0 flags:                2/0x1",
        "(00.026) Error (criu/files.c:1): Something new",
        "(00.026) Error (criu/cr-dump.c:1681): Dump files (pid: 5400) failed with -1",
    )
    found = explain.explain(text, verb="dump")
    assert (found.pid, found.fd) == (5400, None)


def test_a_lock_found_after_all_processes_is_put_on_none_of_them():
    text = log(
        "(00.048) Dumping task (pid: 5343 comm: python)",
        "(00.048) 5343 fdinfo 3: pos:                0 flags:                2/0x1",
        "(00.048) Dumping file-locks",
        "(00.048) Error (criu/file-lock.c:110): Some file locks are hold by dumping tasks! You can try"
        " --file-locks to dump them.",
        "(00.049) Error (criu/cr-dump.c:2111): Dumping FAILED.",
    )
    found = explain.explain(text, verb="dump")
    assert (found.pid, found.fd) == (None, None)


def test_the_box_pid_in_lines_from_inside_a_process_is_not_taken_for_a_host_pid():
    text = log(
        "(00.023) 5259 fdinfo 2: pos:                0 flags:           100002/0",
        "pie: 1: Error (criu/pie/parasite.c:588): send_fds failed (-22)",
        "(00.024) Error (criu/parasite-syscall.c:280): Can't retrieve FDs from socket",
        "(00.024) Error (criu/cr-dump.c:1681): Dump files (pid: 5259) failed with -1",
    )
    found = explain.explain(text, verb="dump")
    assert (found.pid, found.fd, found.object) == (5259, None, "anon_inode:[io_uring]")


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        ("Operation not permitted", "another program traces the process"),
        ("No such process", "the process has ended"),
    ],
)
def test_why_a_process_cannot_be_seized_is_read_from_the_warning_before(reason, what):
    text = log(
        f"Warn  (compel/src/lib/infect.c:133): Unable to interrupt task: 8728 ({reason})",
        "Error (compel/src/lib/infect.c:418): Unable to detach from 8728: No such process",
    )
    found = explain.explain(text, verb="dump")
    assert (found.what, found.pid) == (what, 8728)


def test_a_process_that_ended_while_the_tree_was_frozen_is_not_the_cause():
    seize = "Error (compel/src/lib/infect.c:263): Unseizable non-zombie 8744 found, state S, err -1/10"
    real = "Error (criu/namespaces.c:460): Can't dump nested pid namespace for 5462"
    assert explain.first_error(log(seize, seize, real)) == real
    assert explain.first_error(log(seize, seize)) == seize


def test_a_unix_socket_gets_its_name_from_level_four():
    text = log(
        "(00.046) unix: \tRunaway socket: ino 45531 peer_ino 0 family    1 type    2 state  1 name /w/d g.sock",
        "(00.046) Error (criu/sk-unix.c:874): unix: External socket is used. Consider using --ext-unix-sk option.",
    )
    assert explain.explain(text, verb="dump").object == "/w/d g.sock"


def test_of_a_mixed_restore_log_the_cause_is_taken_and_not_what_followed_from_it():
    cause = "     7: Error (criu/files-reg.c:2175): File w/g5 has bad size 4 (expect 3)"
    text = log(
        "     1: Error (criu/cr-restore.c:1258): 5 exited, status=1",
        "     1: Error (criu/files.c:1104): Can't sent fd 0 to 2",
        "     1: Error (criu/files.c:1221): Unable to open fd=0 id=0x15",
        cause,
        "     6: Error (criu/files-reg.c:2353): Can't open file w/g4 on restore: No such file or directory",
        "     6: Error (criu/files.c:1221): Unable to open fd=9 id=0x2a",
        "     7: Error (criu/files.c:1221): Unable to open fd=3 id=0x2e",
        "Error (criu/cr-restore.c:2320): Restoring FAILED.",
    )
    found = explain.explain(text, verb="restore")
    assert (found.line, found.pid, found.fd, found.object) == (cause, 7, 3, "/w/g5")


@pytest.mark.parametrize(
    ("follower", "role", "fd"),
    [
        ("Can't open cwd", "the working directory of a process", None),
        ("`- Can't open vma", "a program or library that is in use", None),
        ("Unable to open fd=12 id=0x17", "an open file", 12),
    ],
)
def test_what_a_missing_file_is_to_the_run_is_said(follower, role, fd):
    text = log(
        "(00.024)  22462: Error (criu/files-reg.c:2353): Can't open file w/d on restore: No such file or directory",
        "(00.024)  22462: Error (criu/files-reg.c:2267): Can't open file w/d: No such file or directory",
        f"(00.024)  22462: Error (criu/x.c:1): {follower}",
    )
    found = explain.explain(text, verb="restore")
    assert (found.what, found.pid, found.fd) == (f"{role} is missing on this host", 22462, fd)


def test_a_taken_port_is_named_from_level_four():
    text = log(
        "(00.028)  25831: inet: \tRestore: family AF_INET    type SOCK_STREAM    proto IPPROTO_TCP"
        "      port 45671 state TCP_LISTEN       src_addr 127.0.0.1",
        "(00.028)  99: inet: \tRestore: family AF_INET    type SOCK_STREAM    proto IPPROTO_TCP"
        "      port 1 state TCP_LISTEN       src_addr 127.0.0.9",
        "(00.028)  25831: Error (criu/sk-inet.c:1059): inet: Can't bind inet socket (id 26): Address already in use",
        "(00.028)  25831: Error (criu/files.c:1221): Unable to open fd=3 id=0x1a",
    )
    found = explain.explain(text, verb="restore")
    assert (found.object, found.pid, found.fd) == ("TCP 127.0.0.1:45671", 25831, 3)


def test_an_unknown_error_is_shown_with_five_lines_before():
    before = [f"(00.0{n}) line {n}" for n in range(10, 20)]
    unknown = "(00.030) Error (criu/new.c:1): The flux is not compensated"
    found = explain.explain(log(*before, unknown), verb="dump")
    assert not found.known
    assert "The flux is not compensated" in found.what
    assert found.context == tuple(before[-5:])
    failure = explain.as_failure(found, agent_state="running, unharmed")
    assert type(failure) is Failure
    assert failure.hint.splitlines()[1:] == [*before[-5:], unknown]


def test_a_log_that_breaks_off_tells_of_a_full_file_system():
    found = explain.explain("(00.019704) Seized task ", verb="dump")
    assert found.kind == "resource"
    assert "no space is left" in found.what


@pytest.mark.parametrize("text", ["", NOISE + "\n"])
def test_a_log_without_an_error_is_not_called_known(text):
    assert explain.first_error(text) is None
    found = explain.explain(text, verb="restore")
    assert not found.known
    assert "without saying why" in found.what


@pytest.mark.parametrize(
    ("verb", "text", "failure", "code"),
    [
        ("dump", "Can't dump nested user namespace for 5", Refused, 16),
        ("dump", "Can't write img file: No space left on device", Refused, 16),
        ("dump", "Can't get rlimit 0: Operation not permitted", HostCannot, 15),
        ("restore", "File a has bad size 10 (expect 5)", HostCannot, 15),
        ("restore", "Can't write: No space left on device", HostCannot, 15),
        ("restore", "Head magic doesn't match for core-7.img", Corrupt, 14),
        ("restore", "The flux is not compensated", Failure, 1),
    ],
)
def test_the_kind_of_reason_decides_the_exit_code(verb, text, failure, code):
    found = explain.explain(log(f"Error (criu/x.c:1): {text}"), verb=verb)
    error = explain.as_failure(found, agent_state="running, unharmed")
    assert type(error) is failure
    assert error.exit_code == code
    assert error.agent_state == "running, unharmed"


def test_the_message_names_the_thing_the_process_and_the_descriptor():
    found = explain.Explanation(
        what="a device is open that CRIU cannot save",
        pid=7,
        fd=0,
        object="character device 10:229",
        hint="close it",
        kind="tree",
    )
    error = explain.as_failure(found, agent_state="")
    assert error.message == "a device is open that CRIU cannot save: character device 10:229 (pid 7, fd 0)"
    assert error.hint == "close it"
