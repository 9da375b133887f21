"""What a checkpoint would do with every part of a tree, found out while it runs and without touching it.

`gather` reads, `judge` decides and is pure. A plan is of its moment: what is opened later, only the dump meets.
"""

import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from criu_agent.errors import NotFound, Refused
from criu_agent.linux.proc import Fd, MappedFile, Mount, Process
from criu_agent.model import PlanRow
from criu_agent.ops import verdicts
from criu_agent.ops.facts import Facts, gather
from criu_agent.ops.verdicts import Plugs, Verdict, keep, refuse

_NESTING = ("mnt", "net")  # of all others CRIU keeps one for the whole tree (CLONE_SUBNS in its namespaces.h)
Kind = Literal["process", "fd", "socket", "mount", "namespace", "memory"]
Namespaces = Mapping[str, int]
# filesystems.c: what CRIU can mount again by itself. fuse and btrfs are named there, and always fail.
# fmt: off
_MOUNTED_AGAIN = frozenset({
    "aufs", "autofs", "binfmt_misc", "cgroup", "cgroup2", "debugfs", "devpts", "devtmpfs", "fusectl", "mqueue",
    "overlay", "proc", "pstore", "securityfs", "simfs", "sysfs", "tmpfs", "tracefs",
})
# fmt: on
_STATES = {
    "D": "in uninterruptible sleep: the freeze waits until it wakes up",
    "T": "stopped, and stays stopped",
    "Z": "a zombie, and stays one",
}
_SECCOMP_FILTER = 2
_COMMAND_WIDTH = 80


def plan(
    root_pid: int, *, externals: frozenset[str] = frozenset(), stdio_pipes: frozenset[int] = frozenset()
) -> list[PlanRow]:
    """One row for each thing of the tree below `root_pid`. NotFound when it is gone.

    externals are the --external options of the dump ("mnt[/sys]:sys"); stdio_pipes the inodes of the pipes to
    the supervisor.
    """
    try:
        facts = gather(root_pid, known=frozenset(f"pipe:[{inode}]" for inode in stdio_pipes))
    except ProcessLookupError as error:
        raise NotFound(f"process {root_pid} has ended", hint="criu-agent ps -a") from error
    return judge(facts, externals=externals, stdio_pipes=stdio_pipes)


def judge(
    facts: Facts,
    *,
    externals: frozenset[str] = frozenset(),
    stdio_pipes: frozenset[int] = frozenset(),
    written: Mapping[str, str] = MappingProxyType({}),
) -> list[PlanRow]:
    """The rows, as `plan`; a function of its arguments only. written: mount points that are the host's own files."""
    keys = frozenset(external.rpartition("]")[0] + "]" for external in externals)
    plugs = Plugs(externals=keys, pipes=stdio_pipes, written=written)
    return [
        *_run_rows(facts),
        *(row for process in facts.processes for row in _process_rows(process, facts, plugs)),
        *(_stranger_row(process) for process in facts.strangers),
        *_namespace_rows(facts),
        *_mount_rows(facts, plugs),
    ]


def refusals(rows: Iterable[PlanRow]) -> list[PlanRow]:
    return [row for row in rows if row.action == "refuse"]


def check(rows: Iterable[PlanRow]) -> None:
    """Refused, with the first refusal and how many there are, unless a checkpoint can be taken."""
    refused = refusals(rows)
    if not refused:
        return
    more = f" (and {len(refused) - 1} more: criu-agent plan)" if len(refused) > 1 else ""
    raise Refused(describe(refused[0]) + more, hint=refused[0].fix, agent_state="running, unharmed")


def describe(row: PlanRow) -> str:
    """A row in one line: "pid 7 (node) fd 12 anon_inode:[io_uring]: CRIU cannot dump it"."""
    whose = f"pid {row.pid} ({row.program}) " if row.pid else ""
    where = f"fd {row.fd} " if row.fd is not None else ""
    return f"{whose}{where}{row.object}: {row.reason}"


def connections(facts: Facts) -> list[dict[str, object]]:
    """The TCP and UDP sockets of the tree that have an address, as the documents that hooks get.

    id "c1"..., pid (of the box), program, fd, protocol, local, remote, state, internal, queued (bytes in both
    queues; for a listening socket 0), action. A socket that several processes share is told of once.
    """
    found: dict[int, tuple[Process, Fd]] = {}
    for process in facts.processes:
        for fd in facts.fds[process.pid]:
            if stat.S_ISSOCK(fd.mode) and fd.inode in facts.inet:
                found.setdefault(fd.inode, (process, fd))
    return [
        _connection(f"c{number}", process, fd, facts) for number, (process, fd) in enumerate(found.values(), start=1)
    ]


def crosses(connection: Mapping[str, object]) -> bool:
    """Whether the other end of a connection is outside of the tree."""
    return connection["protocol"] == "tcp" and not connection["internal"] and connection["remote"] != ""


def must_be_held(connection: Mapping[str, object]) -> bool:
    """Whether its packets must be kept from it while it is frozen, and until it is restored."""
    return crosses(connection) and connection["action"] == "keep"


def must_be_reset(connection: Mapping[str, object], *, tip: bool) -> bool:
    """Whether a restore cannot take it up again. tip: the run was stopped at this snapshot and has not run since."""
    return connection["action"] == "reset" or (crosses(connection) and not tip)


def _connection(name: str, process: Process, fd: Fd, facts: Facts) -> dict[str, object]:
    one = facts.inet[fd.inode]
    return {
        "id": name,
        "pid": process.box_pid,
        "program": process.comm,
        "fd": fd.number,
        "protocol": one.protocol,
        "local": one.local,
        "remote": one.remote,
        "state": one.state,
        "internal": facts.internal(one),
        "queued": 0 if one.state == "listen" else one.receive_queue + one.send_queue,
        "action": verdicts.of_connection(one, facts).action,
    }


def _run_rows(facts: Facts) -> Iterator[PlanRow]:
    if facts.root.seccomp == _SECCOMP_FILTER:
        yield PlanRow(
            kind="run",
            pid=0,
            program="",
            fd=None,
            object="seccomp filter",
            action="keep",
            reason="landlock and io_uring are answered ENOSYS in the box",
        )
    yield PlanRow(
        kind="memory",
        pid=0,
        program="",
        fd=None,
        object=f"{facts.memory} bytes",
        action="keep",
        reason="goes into the image",
    )


def _process_rows(process: Process, facts: Facts, plugs: Plugs) -> Iterator[PlanRow]:
    yield _row("process", process, _command(process), _of_process(process, facts))
    for fd in facts.fds[process.pid]:
        kind: Kind = "socket" if stat.S_ISSOCK(fd.mode) else "fd"
        yield _row(kind, process, _object(fd, facts), verdicts.of_fd(fd, facts, plugs), fd=fd.number)
    yield from _mapping_rows(process, facts.mappings[process.pid], facts)


def _mapping_rows(process: Process, mappings: Sequence[MappedFile], facts: Facts) -> Iterator[PlanRow]:
    told: set[str] = set()
    for mapping in mappings:
        verdict = verdicts.of_mapping(process.pid, mapping, facts)
        if verdict is not None and mapping.path not in told:
            told.add(mapping.path)
            yield _row("memory", process, mapping.path, verdict)


def _of_process(process: Process, facts: Facts) -> Verdict:
    if process.tracer_pid:
        tracer = f"{facts.programs[process.tracer_pid]} (pid {process.tracer_pid})"
        return refuse(f"{tracer} traces it, and only one can at a time", "detach the debugger or tracer")
    ours = facts.ours
    same_user = {*process.uids} == {ours.uid} and {*process.gids} == {ours.gid}
    same_namespace = facts.namespaces[process.pid].get("user") == ours.namespaces.get("user")
    if process.state != "Z" and not same_user and same_namespace and not ours.sys_resource:
        return refuse(
            f"cannot read the limits of uid {process.uid} gid {process.gids[0]} without CAP_SYS_RESOURCE",
            "give the supervisor CAP_SYS_RESOURCE, or run the program as the supervisor's own user",
        )
    return keep(_STATES.get(process.state, "goes on where it was"))


def _stranger_row(process: Process) -> PlanRow:
    verdict = Verdict(
        action="close",
        reason="it came into the run from outside (exec): it is in no snapshot, and ends with a suspend",
    )
    return _row("process", process, _command(process), verdict)


def _command(process: Process) -> str:
    """The command line on one line, cut: a shell or Python may have a whole program in it."""
    words = " ".join(process.argv).split()
    return " ".join(words)[:_COMMAND_WIDTH] or process.comm


def _object(fd: Fd, facts: Facts) -> str:
    inet = facts.inet.get(fd.inode)
    unix = facts.unix.get(fd.inode)
    if not stat.S_ISSOCK(fd.mode):
        return fd.target
    if inet is not None:
        peer = f" -> {inet.remote}" if inet.remote else ""
        return f"{inet.protocol} {inet.local}{peer} {inet.state}"
    if unix is not None:
        return " ".join(part for part in ("unix", unix.type, unix.name, unix.state) if part)
    return f"{fd.protocol.lower() or 'unknown'} {fd.target}"


def _namespace_rows(facts: Facts) -> Iterator[PlanRow]:
    """A row for each namespace in which not the whole tree is, with the first process in it."""
    root = facts.namespaces[facts.root.pid]
    told: set[tuple[str, int]] = set()
    for process in facts.processes:
        if process.state == "Z":  # it still has its user namespace, but CRIU looks at no namespace of a zombie
            continue
        own = facts.namespaces[process.pid]
        for kind, verdict in _nested(own, root, facts.ours.namespaces):
            if (kind, own[kind]) not in told:
                told.add((kind, own[kind]))
                yield _row("namespace", process, f"{kind} namespace", verdict)


def _nested(own: Namespaces, root: Namespaces, ours: Namespaces) -> Iterator[tuple[str, Verdict]]:
    for kind in sorted(own.keys() & root.keys()):
        base = kind.removesuffix("_for_children")
        if own[kind] == (root[kind] if base == kind else own.get(base)):
            continue
        # pstree.c: a namespace can be nested only in one that the restore makes, not in the host's.
        if kind in _NESTING and root[kind] != ours[kind]:
            yield kind, keep("made again below the run's own")
        else:
            yield (
                kind,
                refuse(
                    f"CRIU cannot dump a nested {base} namespace",
                    "start the program without its own sandbox or container (as --no-sandbox)",
                ),
            )


def _mount_rows(facts: Facts, plugs: Plugs) -> Iterator[PlanRow]:
    """The mounts of the tree's own mount namespaces; those of the host's are not touched."""
    for inode, mounts in facts.mounts.items():
        if inode == facts.ours.namespaces.get("mnt"):
            continue
        inside = next(one for one in facts.processes if facts.namespaces[one.pid].get("mnt") == inode)
        for mount in mounts:
            where = f"{mount.fstype} on {mount.point}"
            yield _row("mount", inside, where, _of_mount(mount, mounts, plugs))


def _of_mount(mount: Mount, mounts: Sequence[Mount], plugs: Plugs) -> Verdict:
    if _plugged(mount, plugs):
        return Verdict(action="re-plug", reason=plugs.written.get(mount.point, "the run mounts it again"))
    same = [one for one in mounts if one.device == mount.device]
    if any(_plugged(one, plugs) and _below(mount.root, one.root) for one in same):
        return keep("bound again from what the run mounts")
    if mount.root != "/":
        if any(one.root == "/" for one in same):
            return keep("bound again")
        return refuse("it is bound from a file system that is not mounted in the run", "unmount it")
    if mount.fstype not in _MOUNTED_AGAIN:
        return refuse(f"CRIU cannot mount {mount.fstype} again", "unmount it before the checkpoint")
    return keep("mounted again, with its content" if mount.fstype == "tmpfs" else "mounted again")


def _plugged(mount: Mount, plugs: Plugs) -> bool:
    """The root is always given to a restore (--root), the others as externals."""
    return mount.point == "/" or f"mnt[{mount.point}]" in plugs.externals


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _row(kind: Kind, process: Process, what: str, verdict: Verdict, *, fd: int | None = None) -> PlanRow:
    return PlanRow(
        kind=kind,
        pid=process.box_pid,
        program=process.comm,
        fd=fd,
        object=what,
        action=verdict.action,
        reason=verdict.reason,
        fix=verdict.fix,
    )
