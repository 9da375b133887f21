"""The verdicts of a plan on made-up facts: no process, no root."""

import os
import stat
from dataclasses import replace

import pytest

from criu_agent.criu.command import GHOST_LIMIT
from criu_agent.errors import Refused
from criu_agent.linux.proc import Fd, MappedFile, Mount, Process
from criu_agent.linux.sockets import InetSocket, UnixSocket
from criu_agent.ops import plan
from criu_agent.ops.facts import Facts, Ours

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts")
HOST = dict.fromkeys(KINDS, 1)
BOX = HOST | {"mnt": 2, "pid": 2, "pid_for_children": 2, "ipc": 2, "uts": 2}
ROOT_MOUNT = Mount(id=50, parent=1, device="0:40", root="/", point="/", fstype="overlay", source="criu-agent")


def process(pid: int = 100, **changes: object) -> Process:
    one = Process(
        pid=pid,
        box_pid=pid - 99,
        ppid=1,
        comm="agent",
        argv=("agent", "--go"),
        state="S",
        tracer_pid=0,
        uids=(0, 0, 0),
        gids=(0, 0, 0),
        seccomp=0,
        rss=4096,
        private=4096,
    )
    return replace(one, **changes)


def descriptor(target: str, *, type: int = 0, **changes: object) -> Fd:
    one = Fd(
        number=3,
        target=target,
        mode=type | 0o600,
        device=1,
        inode=7,
        rdev=0,
        links=1,
        size=0,
        flags=os.O_RDWR,
        pos=0,
        mnt_id=50,
    )
    return replace(one, **changes)


def socket(protocol: str, inode: int = 7, number: int = 3) -> Fd:
    target = f"socket:[{inode}]"
    return descriptor(target, type=stat.S_IFSOCK, protocol=protocol, inode=inode, number=number)


def pipe(flags: int, number: int = 3, inode: int = 7) -> Fd:
    return descriptor(f"pipe:[{inode}]", type=stat.S_IFIFO, flags=flags, number=number, inode=inode)


def device(target: str, major: int, minor: int, **changes: object) -> Fd:
    return descriptor(target, type=stat.S_IFCHR, rdev=os.makedev(major, minor), **changes)


def facts(*descriptors: Fd, **changes: object) -> Facts:
    found = Facts(
        ours=Ours(namespaces=HOST),
        processes=(process(),),
        fds={100: descriptors},
        mappings={100: ()},
        namespaces={100: BOX},
        mounts={2: (ROOT_MOUNT,)},
    )
    return replace(found, **changes)


def row_of(found: Facts, **options: frozenset) -> plan.PlanRow:
    """The row of the first descriptor."""
    return next(row for row in plan.judge(found, **options) if row.fd == 3)


def row_for(found: Facts, kind: str, **options: frozenset) -> plan.PlanRow:
    return next(row for row in plan.judge(found, **options) if row.kind == kind)


@pytest.mark.parametrize("kind", ["[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]", "inotify", "[fanotify]"])
def test_what_criu_knows_without_a_name_is_kept(kind):
    assert row_of(facts(descriptor(f"anon_inode:{kind}"))).action == "keep"


@pytest.mark.parametrize(
    "kind",
    ["[io_uring]", "[perf_event]", "[userfaultfd]", "bpf-map", "bpf-prog", "[landlock-ruleset]", "[fscontext]"],
)
def test_what_criu_does_not_know_is_refused_with_a_fix(kind):
    row = row_of(facts(descriptor(f"anon_inode:{kind}")))
    assert (row.action, row.pid, row.program, row.object) == ("refuse", 1, "agent", f"anon_inode:{kind}")
    assert row.fix


@pytest.mark.parametrize("protocol", ["MPTCP", "MPTCPv6", "AF_VSOCK", "XDP", "SCTP", ""])
def test_a_socket_of_another_protocol_is_refused(protocol):
    row = row_of(facts(socket(protocol)))
    assert (row.kind, row.action) == ("socket", "refuse")


@pytest.mark.parametrize("protocol", ["TCP", "TCPv6", "UDP", "UDPv6", "RAW", "PACKET", "NETLINK", "UNIX"])
def test_a_socket_that_is_not_connected_is_kept(protocol):
    assert row_of(facts(socket(protocol))).action == "keep"


def test_a_netlink_socket_with_unread_messages_is_refused():
    assert row_of(facts(socket("NETLINK"), netlink_unread={7: 512})).action == "refuse"


def inet(**changes: object) -> InetSocket:
    one = InetSocket(
        protocol="tcp",
        local="10.0.0.1:4000",
        remote="10.0.0.2:80",
        state="established",
        inode=7,
        receive_queue=0,
        send_queue=0,
    )
    return replace(one, **changes)


def test_a_connection_to_the_outside_is_kept_and_says_on_what_condition():
    row = row_of(facts(socket("TCP"), inet={7: inet()}))
    assert row.object == "tcp 10.0.0.1:4000 -> 10.0.0.2:80 established"
    assert (row.action, row.reason) == ("keep", "kept when restored on this host from the newest snapshot")


def test_connections_tell_internal_from_external_and_count_what_is_queued():
    here = inet(local="127.0.0.1:1", remote="127.0.0.1:2", receive_queue=5, send_queue=6)
    there = inet(local="127.0.0.1:2", remote="127.0.0.1:1", inode=8)
    outside = inet(inode=9)
    descriptors = (socket("TCP"), socket("TCP", 8, 4), socket("TCP", 9, 5))
    found = facts(*descriptors, inet={7: here, 8: there, 9: outside})
    told = plan.connections(found)
    assert [(one["id"], one["fd"], one["internal"], one["queued"]) for one in told] == [
        ("c1", 3, True, 11),
        ("c2", 4, True, 0),
        ("c3", 5, False, 0),
    ]
    assert [plan.crosses(one) for one in told] == [False, False, True]


def test_a_connection_shared_by_two_processes_is_told_of_once():
    found = facts(
        processes=(process(), process(101)),
        fds={100: (socket("TCP"),), 101: (socket("TCP"),)},
        mappings={100: (), 101: ()},
        namespaces={100: BOX, 101: BOX},
        inet={7: inet()},
    )
    assert [one["pid"] for one in plan.connections(found)] == [1]


def test_unread_datagrams_are_said_to_be_lost():
    one = inet(protocol="udp", remote="", state="close", receive_queue=77)
    row = row_of(facts(socket("UDP"), inet={7: one}))
    assert (row.action, row.object) == ("keep", "udp 10.0.0.1:4000 close")
    assert "77 bytes not yet read are lost" in row.reason


def test_clients_that_were_not_accepted_are_said_to_be_reset():
    row = row_of(facts(socket("TCP"), inet={7: inet(remote="", state="listen", receive_queue=2)}))
    assert "2 connections not yet accepted are reset" in row.reason
    assert plan.connections(facts(socket("TCP"), inet={7: inet(state="listen", receive_queue=2)}))[0]["queued"] == 0


def unix(**changes: object) -> UnixSocket:
    one = UnixSocket(
        inode=7, type="stream", state="established", name="", peer=8, pending=(), shutdown=0, send_queue=0
    )
    return replace(one, **changes)


def test_a_unix_connection_to_an_outside_process_is_refused_and_names_it():
    found = facts(
        socket("UNIX-STREAM"), unix={7: unix()}, holders={"socket:[8]": 42}, programs={42: "dockerd", 0: "?"}
    )
    row = row_of(found)
    assert (row.action, row.object) == ("refuse", "unix stream established")
    assert "dockerd (pid 42)" in row.reason


def test_a_unix_connection_inside_of_the_tree_is_kept():
    found = facts(socket("UNIX-STREAM"), socket("UNIX-STREAM", 8, 4), unix={7: unix(), 8: unix(inode=8, peer=7)})
    assert plan.refusals(plan.judge(found)) == []
    assert list(found.half_open()) == []


def test_a_unix_connection_whose_other_end_nobody_holds_is_in_flight_and_kept():
    found = facts(socket("UNIX-STREAM"), unix={7: unix()})
    assert list(found.half_open()) == ["socket:[8]"]
    assert "in flight" in row_of(found).reason


def test_a_unix_connection_that_the_run_makes_again_is_plugged_in():
    found = facts(socket("UNIX-STREAM"), unix={7: unix()}, holders={"socket:[8]": 42}, programs={42: "dockerd"})
    assert row_of(found, externals=frozenset({"unix[7]"})).action == "re-plug"


@pytest.mark.parametrize(("pending", "sent", "action"), [((7,), 0, "keep"), ((7,), 9, "refuse"), ((), 0, "refuse")])
def test_a_unix_client_that_was_not_accepted_is_kept_if_the_listener_is_in_the_tree(pending, sent, action):
    listener = unix(inode=8, state="listen", peer=None, pending=pending)
    found = facts(
        socket("UNIX-STREAM"),
        socket("UNIX-STREAM", 8, 4),
        unix={7: unix(peer=0, send_queue=sent), 8: listener},
    )
    assert row_of(found).action == action


def test_a_unix_connection_that_the_other_side_closed_is_kept():
    assert row_of(facts(socket("UNIX-STREAM"), unix={7: unix(peer=0, shutdown=3)})).action == "keep"


def test_a_pipe_inside_of_the_tree_is_kept():
    found = facts(pipe(os.O_RDONLY), pipe(os.O_WRONLY, 4))
    assert row_of(found).action == "keep"
    assert list(found.half_open()) == []


def test_a_pipe_to_the_supervisor_is_plugged_in_again():
    assert row_of(facts(pipe(os.O_WRONLY)), stdio_pipes=frozenset({7})).action == "re-plug"


def test_a_pipe_to_an_outside_process_is_closed_and_names_it():
    found = facts(pipe(os.O_WRONLY), holders={"pipe:[7]": 42}, programs={42: "tee"})
    row = row_of(found)
    assert row.action == "close"
    assert "tee (pid 42)" in row.reason


def test_a_pipe_in_packet_mode_is_refused():
    assert row_of(facts(pipe(os.O_WRONLY | os.O_DIRECT), pipe(os.O_RDONLY, 4))).action == "refuse"


@pytest.mark.parametrize(
    ("target", "major", "minor", "action"),
    [
        ("/dev/null", 1, 3, "keep"),
        ("/dev/urandom", 1, 9, "keep"),
        ("/dev/pts/0", 136, 0, "keep"),
        ("/dev/ptmx", 5, 2, "keep"),
        ("/dev/kvm", 10, 232, "refuse"),
        ("/dev/fuse", 10, 229, "refuse"),
        ("/dev/dri/card0", 226, 0, "refuse"),
        ("/dev/net/tun", 10, 200, "refuse"),
    ],
)
def test_only_the_devices_of_a_box_are_kept(target, major, minor, action):
    assert row_of(facts(device(target, major, minor))).action == action


def test_a_tun_device_is_kept_in_a_network_of_the_runs_own():
    found = facts(device("/dev/net/tun", 10, 200), namespaces={100: BOX | {"net": 2}})
    assert row_of(found).action == "keep"


def test_a_terminal_is_the_console_unless_its_master_is_in_the_tree():
    slave = device("/dev/pts/258", 137, 2)
    master = device("/dev/ptmx", 5, 2, number=4, info=("tty-index:\t258",))
    assert "console" in row_of(facts(slave)).reason
    assert "in the tree" in row_of(facts(slave, master)).reason


@pytest.mark.parametrize("leaked", [descriptor("/etc/passwd", mnt_id=9), device("/dev/null", 1, 3, mnt_id=9)])
def test_a_descriptor_from_another_mount_namespace_is_refused(leaked):
    row = row_of(facts(leaked))
    assert row.action == "refuse"
    assert "leaked" in row.reason


def test_a_deleted_file_goes_into_the_image_unless_it_is_too_big():
    small = descriptor("/tmp/x (deleted)", type=stat.S_IFREG, links=0, size=4096)
    assert row_of(facts(small)).reason == "deleted: its content goes into the image"
    assert row_of(facts(replace(small, size=GHOST_LIMIT + 512))).action == "refuse"


@pytest.mark.parametrize(
    ("target", "action"),
    [
        ("/memfd:x (deleted)", "keep"),
        ("net:[4026531840]", "keep"),
        ("/secretmem (deleted)", "refuse"),
        ("odd", "refuse"),
    ],
)
def test_files_without_a_path(target, action):
    assert row_of(facts(descriptor(target, mnt_id=9))).action == action


def test_a_lock_is_mentioned():
    row = row_of(
        facts(descriptor("/db", type=stat.S_IFREG, info=("lock:\t1: POSIX  ADVISORY  WRITE 9 0:1:2 0 EOF",)))
    )
    assert row.reason == "opened again at its offset, with its lock"


def test_a_lock_on_a_file_that_is_mapped_too_is_warned_about():
    lock = descriptor("/db-shm", type=stat.S_IFREG, info=("lock:\t1: POSIX  ADVISORY  WRITE 9 0:1:2 120 120",))
    shared = MappedFile(range="1000-2000", perms="rw-s", device="00:01", inode=7, path="/db-shm")
    assert "loses the lock" in row_of(facts(lock, mappings={100: (shared,)})).reason


def test_a_file_that_the_run_opens_again_is_plugged_in():
    row = row_of(facts(descriptor("/log", mnt_id=0x1A, inode=0x2B)), externals=frozenset({"file[1a:2b]"}))
    assert row.action == "re-plug"


@pytest.mark.parametrize(
    ("pid", "flags", "action"), [(100, 0, "keep"), (-1, 0, "keep"), (55, 0, "refuse"), (100, os.O_EXCL, "refuse")]
)
def test_a_pidfd_is_kept_if_it_is_for_a_process_of_the_tree(pid, flags, action):
    found = facts(descriptor("anon_inode:[pidfd]", flags=os.O_RDWR | flags, info=(f"Pid:\t{pid}",)))
    assert row_of(found).action == action


def test_a_timer_with_an_unread_tick_is_kept():
    info = ("ticks: 2", "it_interval: (0, 50000000)")
    assert row_of(facts(descriptor("anon_inode:[timerfd]", info=info))).reason == "its timer goes on"


def mapping(path: str) -> MappedFile:
    return MappedFile(range="1000-2000", perms="rw-s", device="00:01", inode=9, path=path)


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ("/usr/lib/libc.so.6", False),
        ("/dev/zero (deleted)", False),
        ("/dev/shm/x", False),
        ("/memfd:x (deleted)", False),
        ("/dev/dri/renderD128", True),
        ("anon_inode:[perf_event]", True),
        ("/secretmem (deleted)", True),
    ],
)
def test_memory_of_devices_and_of_unknown_kinds_is_refused(path, refused):
    rows = plan.judge(facts(mappings={100: (mapping(path),)}))
    assert [row.object for row in plan.refusals(rows)] == ([path] if refused else [])


def test_a_memfd_that_is_mapped_and_sealed_is_refused():
    rows = plan.judge(facts(mappings={100: (mapping("/memfd:x (deleted)"),)}, sealed=frozenset({(100, "1000-2000")})))
    assert [row.kind for row in plan.refusals(rows)] == ["memory"]


def nested(**other: int) -> Facts:
    return facts(
        processes=(process(), process(101)),
        fds={100: (), 101: ()},
        mappings={100: (), 101: ()},
        namespaces={100: BOX, 101: BOX | other},
        mounts={2: (ROOT_MOUNT,)},
    )


@pytest.mark.parametrize("kind", ["user", "pid", "ipc", "uts", "cgroup", "time", "net"])
def test_a_nested_namespace_is_refused(kind):
    refused = plan.refusals(plan.judge(nested(**{kind: 9, f"{kind}_for_children": 9})))
    assert [(row.kind, row.pid, row.object) for row in refused] == [("namespace", 2, f"{kind} namespace")]


def test_a_nested_mount_namespace_is_kept():
    row = row_for(nested(mnt=9), "namespace")
    assert (row.action, row.object) == ("keep", "mnt namespace")


def test_a_namespace_that_only_children_would_be_in_is_refused():
    refused = plan.refusals(plan.judge(nested(time_for_children=9)))
    assert [row.object for row in refused] == ["time_for_children namespace"]


def test_a_zombie_has_no_namespaces_and_is_kept():
    found = facts(processes=(process(state="Z", uids=(5, 5, 5)),), namespaces={100: {"pid": 2, "user": 1}}, mounts={})
    row = row_for(found, "process")
    assert (row.action, row.reason) == ("keep", "a zombie, and stays one")


def test_a_traced_process_is_refused_and_names_the_tracer():
    row = row_for(facts(processes=(process(tracer_pid=42),), programs={42: "strace"}), "process")
    assert row.action == "refuse"
    assert "strace (pid 42)" in row.reason


@pytest.mark.parametrize(
    ("capable", "user_namespace", "action"), [(True, 1, "keep"), (False, 1, "refuse"), (False, 2, "keep")]
)
def test_another_user_needs_the_capability_or_a_user_namespace(capable, user_namespace, action):
    found = facts(
        ours=Ours(namespaces=HOST, sys_resource=capable),
        processes=(process(uids=(1000, 1000, 1000)),),
        namespaces={100: BOX | {"user": user_namespace}},
    )
    assert row_for(found, "process").action == action


def test_what_came_in_from_outside_is_closed():
    row = plan.judge(facts(strangers=(process(200),)))[-2]
    assert (row.kind, row.pid, row.action) == ("process", 101, "close")


def mount(point: str, fstype: str, *, root: str = "/", device: str = "0:41") -> Mount:
    return Mount(id=60, parent=50, device=device, root=root, point=point, fstype=fstype, source="x")


@pytest.mark.parametrize(
    ("one", "action"),
    [
        (mount("/proc", "proc"), "keep"),
        (mount("/sys", "sysfs"), "re-plug"),
        (mount("/home/x/remote", "fuse.sshfs"), "refuse"),
        (mount("/mnt", "ext4"), "refuse"),
        (mount("/run/netns/a", "nsfs", root="net:[12]"), "refuse"),
        (mount("/copy", "overlay", root="/srv", device="0:40"), "keep"),
    ],
)
def test_mounts_are_plugged_in_made_again_or_refused(one, action):
    found = facts(mounts={2: (ROOT_MOUNT, one)})
    rows = plan.judge(found, externals=frozenset({"mnt[/]:root", "mnt[/sys]:sys"}))
    assert [row.action for row in rows if row.object == f"{one.fstype} on {one.point}"] == [action]


def test_the_mounts_of_the_host_are_no_business_of_a_plan():
    found = facts(namespaces={100: HOST}, mounts={1: (mount("/mnt", "ext4"),)})
    assert [row for row in plan.judge(found) if row.kind == "mount"] == []


def test_the_seccomp_filter_is_told_of_once():
    rows = plan.judge(facts(processes=(process(seccomp=2),)))
    assert [row.reason for row in rows if row.kind == "run"] == [
        "landlock and io_uring are answered ENOSYS in the box"
    ]


def test_a_refusal_names_pid_program_fd_object_and_fix():
    rows = plan.judge(facts(descriptor("anon_inode:bpf-map"), socket("XDP", number=4)))
    with pytest.raises(Refused) as caught:
        plan.check(rows)
    assert caught.value.message.startswith("pid 1 (agent) fd 3 anon_inode:bpf-map: CRIU cannot dump it (and 1 more")
    assert caught.value.hint == "end the tracer that has it open"
    assert caught.value.exit_code == 16


def test_a_tree_without_refusals_passes_the_check():
    rows = plan.judge(facts(descriptor("anon_inode:[eventfd]")))
    plan.check(rows)
    assert plan.refusals(rows) == []


def test_a_long_command_line_is_cut_to_one_line():
    row = row_for(facts(processes=(process(argv=("python", "-c", "a\nb" * 100)),)), "process")
    assert len(row.object) == 80
    assert "\n" not in row.object
