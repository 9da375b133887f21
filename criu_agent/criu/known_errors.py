"""What CRIU's error messages mean, as a table: one row for a message, in the words of a user.

The patterns are the texts of CRIU 4.1.1 and 4.2 without file names and line numbers, which differ between
the two; they are searched for in the text behind `Error (criu/file.c:123): `. The first row that matches
wins, so a row for a special case stands before the general one. `lab/criu.md` sections 2 to 7 and the
experiments of tests/root/test_explain_real.py say how each of them comes about.
"""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["tree", "host", "image", "resource", "unknown"]
Verb = Literal["dump", "restore"]


@dataclass(frozen=True, kw_only=True)
class Known:
    """One message and its meaning.

    what, hint and the objects are format strings over the groups of the patterns, and {role}: what a file is
    to the tree. A group whose name ends in _hex holds a hex number and is given as decimal without the
    suffix. Of the objects the first is taken whose fields are all known. before is searched for in the lines
    above the error and adds its groups; when needs_before is set, the row matches only if it was found.
    """

    pattern: re.Pattern[str]
    what: str
    object: tuple[str, ...] = ()
    hint: str = ""
    kind: Kind
    before: re.Pattern[str] | None = None
    needs_before: bool = False


def _known(
    kind: Kind,
    pattern: str,
    what: str,
    *objects: str,
    hint: str,
    before: str = "",
    needs_before: bool = False,
) -> Known:
    return Known(
        pattern=re.compile(pattern),
        what=what,
        object=objects,
        hint=hint,
        kind=kind,
        before=re.compile(before) if before else None,
        needs_before=needs_before,
    )


# Lines that say nothing about the failure: CRIU also prints them when all goes well.
NOISE = (
    re.compile(r"rlimit: Can't setup RLIMIT_NOFILE for self"),  # no CAP_SYS_RESOURCE, harmless
)

# Printed again and again while CRIU freezes a tree that is still forking; the cause only if nothing else is.
TRANSIENT = (re.compile(r"Unseizable non-zombie \d+ found"),)

# Consequences. With several processes one of them may be printed before the line that says the reason.
CONSEQUENCES = (
    re.compile(r"(Dumping|Restoring) FAILED"),
    re.compile(r" exited, status=\d+"),
    re.compile(r" killed by signal \d+"),
    re.compile(r"failed with -?\d+$"),
    re.compile(r"Restorer fail \d+"),
    re.compile(r"Can't sent fd \d+ to \d+"),
    re.compile(r"Unable to open fd=\d+ id="),
    re.compile(r"bfd: Error flushing image: (?!No space|Disk quota)"),
)

_SANDBOX = "start the program without its sandbox (Chromium: --no-sandbox), then checkpoint again"
_CLOSE = "close it or end that program, then checkpoint again"
_PUT_BACK = "put it back as it was when the snapshot was taken, or restore another: criu-agent snapshots"
_OTHER_SNAPSHOT = "restore an older one: criu-agent snapshots"
_OUTSIDE_TTY = "detach the client that was attached from outside, then checkpoint again"
_BOX_BUG = "this is a fault of criu-agent and not of the program: report it with the log of CRIU"
_SPACE = "free memory, or give the images a larger file system (criu-agent doctor), then checkpoint again"

DUMP = (
    # resources
    _known(
        "resource",
        r"No space left on device|Disk quota exceeded",
        "no space is left for the images of the checkpoint",
        hint=_SPACE,
    ),
    _known(
        "resource",
        r"Cannot allocate memory|Out of memory",
        "the host has too little free memory for a checkpoint",
        hint=_SPACE,
    ),
    _known(
        "resource",
        r"Broken pipe|Failed to communicate with the image streamer|to image streamer socket",
        "the images cannot be handed over, their reader has gone",
        hint="checkpoint again",
    ),
    # processes
    _known(
        "tree",
        r"Can't dump nested (?P<ns>user|pid|ipc|uts|time|net|mnt|cgroup)(?:_for_children)? namespace"
        r" for (?P<pid>\d+)",
        "a program made a namespace of its own (sandbox or container)",
        "{ns} namespace",
        hint=_SANDBOX,
    ),
    _known(
        "tree",
        r"Unseizable non-zombie (?P<pid>\d+) found",
        "another program traces the process",
        hint="end strace, gdb or the debugger that is attached to it, then checkpoint again",
    ),
    _known(
        "tree",
        r"Unable to detach from (?P<pid>\d+): No such process",
        "another program traces the process",
        hint="end strace, gdb or the debugger that is attached to it, then checkpoint again",
        before=r"Unable to interrupt task: \d+ \(Operation not permitted\)",
        needs_before=True,
    ),
    _known(
        "tree",
        r"Unable to detach from (?P<pid>\d+): No such process",
        "the process has ended",
        hint="criu-agent ps",
        before=r"Unable to interrupt task: \d+ \(No such process\)",
        needs_before=True,
    ),
    _known(
        "tree",
        r"The criu itself is within dumped tree",
        "criu-agent was called from inside the run that it shall checkpoint",
        hint="call it from a shell outside of the run",
    ),
    _known(
        "tree",
        r"A session leader of (?:zombie process )?(?P<pid>\d+)\((?P<vpid>\d+)\) is outside of its pid namespace",
        "the session of a process was made outside of the box",
        "process {vpid} of the box",
        hint=_BOX_BUG,
    ),
    _known(
        "tree",
        r"The root process (?P<pid>\d+) is not a session leader",
        "the first process of the run leads no session",
        hint=_BOX_BUG,
    ),
    _known(
        "tree",
        r"Zombies with threads are not supported|Zombie thread not supported",
        "a thread of a process has ended while its process goes on, or the other way round",
        hint="checkpoint again in a moment",
    ),
    _known(
        "tree",
        r"Individually stopped threads not supported",
        "a single thread is stopped",
        hint="end the debugger that stopped it, then checkpoint again",
    ),
    _known(
        "tree",
        r"SEIZE (?P<pid>\d+): unsupported stop signal 2[12]$",
        "a background job waits for the terminal (stopped by SIGTTIN or SIGTTOU), which CRIU cannot save",
        hint="bring it to the foreground (fg) or end it (kill %1), then checkpoint again",
    ),
    _known(
        "tree",
        r"Unable to freeze cgroup (?P<cgroup>\S+)|Timeout reached\. Try to interrupt",
        "the processes did not stand still in time",
        "cgroup {cgroup}",
        hint="look for a process in state D (ps axo pid,stat,wchan,comm), then checkpoint again",
    ),
    _known(
        "host",
        r"Can't get rlimit \d+: Operation not permitted",
        "processes of other users cannot be checkpointed without CAP_SYS_RESOURCE",
        hint="give criu-agent CAP_SYS_RESOURCE, or run the agent as root: criu-agent run --user 0:0",
    ),
    _known(
        "tree",
        r"PID (?P<pid>\d+) has uprobes vma",
        "a tracer has set uprobes in the process",
        hint="end perf, bpftrace or whatever set them, then checkpoint again",
    ),
    # kernel objects that have no image
    _known(
        "tree",
        r"send_fds failed \(-22\)",
        "an io_uring is open, which CRIU cannot save",
        "anon_inode:[io_uring]",
        hint="start the program without io_uring (Node: UV_USE_IO_URING=0)",
    ),
    _known(
        "tree",
        r"Unknown shit \d+ \(anon_inode:\[io_uring\]\)",
        "an io_uring is mapped, which CRIU cannot save",
        "anon_inode:[io_uring]",
        hint="start the program without io_uring (Node: UV_USE_IO_URING=0)",
    ),
    _known(
        "tree",
        r"Unknown shit \d+ \((?P<object>.*)\)$",
        "memory is mapped from something that CRIU cannot save",
        "{object}",
        hint="end the program that maps it, then checkpoint again",
    ),
    _known(
        "tree",
        r"Unsupported mapping found (?P<range>[0-9a-f]+-[0-9a-f]+)",
        "memory is mapped from something that CRIU cannot save",
        "mapping {range}",
        hint="end the program that maps it, then checkpoint again",
    ),
    _known(
        "tree",
        r"Can't dump file (?P<fd>\d+) of that type \[\d+\] \(chr (?P<device>\d+:\d+)\)",
        "a device is open that CRIU cannot save",
        "character device {device}",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"Can't dump file (?P<fd>\d+) of that type \[\d+\] \(\S+ (?P<object>.*)\)$",
        "a file is open of a kind that CRIU cannot save",
        "{object}",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"Can't lookup mount=\d+ for fd=(?P<fd>-?\d+) path=/secretmem",
        "secret memory (memfd_secret) is in use, which cannot be read from outside",
        "memfd_secret",
        hint="end the program that uses it, then checkpoint again",
    ),
    _known(
        "tree",
        r"pidfd pid (?P<other>-?\d+) is not a part of process tree",
        "a pidfd refers to a process outside of the run",
        "pidfd of process {other}",
        hint=_CLOSE,
    ),
    # files
    _known(
        "tree",
        r"Can't lookup mount=\d+ for fd=(?P<fd>-?\d+) path=(?P<object>/dev/pts/\S+)",
        "a terminal of the host is open inside the box",
        "{object}",
        hint=_OUTSIDE_TTY,
    ),
    _known(
        "tree",
        r"Can't lookup mount=\d+ for fd=(?P<fd>-?\d+) path=(?P<object>.*)$",
        "a file is open that lies outside of the box",
        "{object}",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"Open files on overmounted mounts are not supported yet; mount=\d+ fd=(?P<fd>-?\d+) path=(?P<object>.*)$",
        "a file is open that another mount hides",
        "{object}",
        hint="unmount what covers it, or close the file, then checkpoint again",
    ),
    _known(
        "tree",
        r"The path \[(?P<object>.*)\] is not supported",
        "a file is open that has no path inside the box",
        "{object}",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"Can't dump ghost file (?P<object>.*) of (?P<size>\d+) size, increase limit",
        "a deleted file is still open and too large to be saved ({size} bytes)",
        "{object}",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"Can't create link remap for (?P<object>.*)\. Use link-remap option|Can't link remap to (?P<link>.*): \S",
        "an open file was deleted under one of its names, and its other name cannot be used",
        "{object}",
        "{link}",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"Some file locks are hold by dumping tasks",
        "a file is locked",
        hint="end the program that holds the lock, then checkpoint again",
    ),
    _known(
        "tree",
        r"Unresolved lock found pid (?P<pid>-?\d+) ino (?P<ino>\d+)",
        "a file lock belongs to a process that is not in the run",
        "inode {ino}",
        hint="end the program that holds the lock, then checkpoint again",
    ),
    _known(
        "tree",
        r"Can't dump that handle|Can't find suitable path for handle",
        "a watched file (inotify or fanotify) cannot be found again by its handle",
        "file watch",
        hint="end the program that watches it, then checkpoint again",
    ),
    # terminals
    _known(
        "tree",
        r"ctty inheritance detected sid/pgrp (?P<sid>\d+) \(ctty pid_real (?P<pid>\d+)",
        "a program holds /dev/tty open apart from the terminal itself",
        "/dev/tty",
        hint="end it (ssh, sudo and the like), then checkpoint again",
    ),
    _known(
        "tree",
        r"ctty inheritance detected sid/pgrp (?P<sid>\d+)",
        "a program of session {sid} holds /dev/tty open apart from the terminal itself",
        "/dev/tty",
        hint="end it (ssh, sudo and the like), then checkpoint again",
    ),
    _known(
        "tree",
        r"Found slave peer index (?P<index>\d+) without"
        r"|Only one slave external peer is allowed \(index (?P<second>\d+)\)",
        "a terminal is open whose other end is outside of the box",
        "/dev/pts/{index}",
        "/dev/pts/{second}",
        hint=_OUTSIDE_TTY,
    ),
    _known(
        "tree",
        r"Found dangling tty with sid (?P<sid>\d+)",
        "a terminal belongs to a session outside of the box",
        "session {sid}",
        hint=_OUTSIDE_TTY,
    ),
    # sockets
    _known(
        "tree",
        r"External socket is used",
        "a unix socket is connected to a program outside of the run",
        "{name}",
        "unix socket",
        hint=_CLOSE,
        before=r"Runaway socket: ino \d+ .* name (?!null)(?P<name>.+)$",
    ),
    _known(
        "tree",
        r"Can't dump half of stream unix connection\. name: (?P<own>.*); peer name: (?P<peer>.*)$",
        "a unix socket is connected to a program outside of the run",
        "{peer}",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"Can't dump name-less external socket",
        "a unix socket is connected to a program outside of the run",
        "unix socket without a name",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"Unix socket (?P<ino>\d+) (?:without|with unreachable) peer \d+",
        "a unix socket is connected to a program outside of the run",
        "socket:[{ino}]",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"Found a closed in-flight socket to (?P<ino_hex>0x[0-9a-f]+)"
        r"|Non-empty write queue on an in-flight socket (?P<full_hex>0x[0-9a-f]+)"
        r"|In-flight connection on non-listening socket (?P<odd>\d+)",
        "a unix connection waits to be accepted",
        "socket:[{ino}]",
        "socket:[{full}]",
        "socket:[{odd}]",
        hint="let the server accept its connections, then checkpoint again",
    ),
    _known("tree", r"Connected TCP socket, consider", "a TCP connection is open", "tcp connection", hint=_CLOSE),
    _known(
        "tree",
        r"In-flight connection \(l\) for (?P<ino_hex>[0-9a-f]+)",
        "a TCP connection waits to be accepted",
        "socket:[{ino}]",
        hint="let the server accept its connections, then checkpoint again",
    ),
    _known(
        "tree",
        r"Unsupported proto 262 for socket (?P<ino_hex>[0-9a-f]+)",
        "an MPTCP socket is open, which CRIU cannot save",
        "socket:[{ino}]",
        hint="start the program without MPTCP (Go: GODEBUG=multipathtcp=0)",
    ),
    _known(
        "tree",
        r"Unsupported proto (?P<proto>\d+) for socket (?P<ino_hex>[0-9a-f]+)",
        "a socket of protocol {proto} is open, which CRIU cannot save",
        "socket:[{ino}]",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"Unknown socket collected \(family 40\)",
        "a vsock socket is open, which CRIU cannot save",
        "vsock socket",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"(?:Unknown socket collected|Sockets) \(family (?P<family>\d+)",
        "a socket of address family {family} is open, which CRIU cannot save",
        "socket of family {family}",
        hint=_CLOSE,
    ),
    _known(
        "tree",
        r"Can't dump corked dgram socket (?P<corked_hex>[0-9a-f]+)"
        r"|Can't dump \d+ inet socket (?P<type_hex>[0-9a-f]+)"
        r"|Unknown inet socket (?P<state_hex>[0-9a-f]+) state"
        r"|Unsupported type \(\d+\) on socket (?P<unix>\d+)",
        "a socket is open in a state or of a type that CRIU cannot save",
        "socket:[{corked}]",
        "socket:[{type}]",
        "socket:[{state}]",
        "socket:[{unix}]",
        hint=_CLOSE,
    ),
    _known(
        "host",
        r"Can't get 1:(?:16|34) opt: Operation not supported",
        "this CRIU cannot save a network socket on this kernel (Linux 6.16 needs CRIU 4.2)",
        hint="install CRIU 4.2 or newer",
    ),
    # namespaces and mounts
    _known(
        "tree",
        r"Unknown peer net namespace|Unsupported link \d+ \(type \d+ kind (?P<link>\S+)\)",
        "a network interface of the run leads to somewhere that CRIU cannot save",
        "{link}",
        hint="remove it, then checkpoint again",
    ),
    _known(
        "tree",
        r"\d+:(?P<object>\S+) doesn't have a proper root mount"
        r"|Mount \d+ (?P<shared>\S+) \(master_id: .* unreachable sharing",
        "a directory of the host is mounted in the box, and CRIU was not told of it",
        "{object}",
        "{shared}",
        hint="unmount it inside the run, then checkpoint again",
    ),
    _known(
        "host",
        r"Can't setns \d+/(?P<ns>\w+): Operation not permitted|doesn't belong to the target user namespace",
        "a namespace of the run belongs to another user namespace",
        "{ns} namespace",
        hint=_BOX_BUG,
    ),
    _known(
        "host",
        r"Locking (?:network|connection) failed using nftables|without libnftables support"
        r"|iptables-restore returned",
        "the network cannot be held while connections are saved",
        "nftables",
        hint="criu-agent doctor",
    ),
    _known(
        "unknown",
        r"One of more action scripts failed",
        "a stage of the checkpoint failed and CRIU gave up",
        hint="the log of the run says which stage",
    ),
)

_RESTORE_FILES = (
    _known(
        "host",
        r"Can't open file (?P<path>.*) on restore: No such file or directory",
        "{role} is missing on this host",
        "/{path}",
        hint=_PUT_BACK,
    ),
    _known(
        "host",
        r"Can't open file (?P<path>.*) on restore: (?P<reason>.*)$",
        "{role} cannot be opened on this host ({reason})",
        "/{path}",
        hint=_PUT_BACK,
    ),
    _known(
        "host",
        r"File (?P<path>.*) has bad size (?P<now>\d+) \(expect (?P<then>\d+)\)",
        "{role} has changed: {now} bytes instead of {then}",
        "/{path}",
        hint=_PUT_BACK,
    ),
    _known(
        "host",
        r"File (?P<path>.*) has bad build-ID",
        "{role} is another build than in the snapshot",
        "/{path}",
        hint=_PUT_BACK,
    ),
    _known(
        "host",
        r"File (?P<path>.*) has bad mode 0(?P<now>\d+) \(expect 0(?P<then>\d+)\)",
        "{role} has changed: mode {now} instead of {then}",
        "/{path}",
        hint=_PUT_BACK,
    ),
    _known(
        "host",
        r"Cannot apply seals on memfd",
        "a memory file is sealed against writing and mapped at once, which CRIU cannot make again",
        "memfd",
        hint=_OTHER_SNAPSHOT,
    ),
)

_RESTORE_SOCKETS = (
    _known(
        "host",
        r"Can't bind id 0x[0-9a-f]+ ino \d+ addr (?P<object>.*): Address already in use",
        "the path of a unix socket is taken by another file",
        "{object}",
        hint="remove that file, then restore again",
    ),
    _known(
        "host",
        r"Can't bind inet socket \(id \d+\): Address already in use",
        "a port that the run listens on is taken on this host",
        "{proto} {address}:{port}",
        "network socket",
        hint="end the program that has it (ss -lntup), then restore again",
        before=r"Restore: family AF_INET6? +type \S+ +proto IPPROTO_(?P<proto>\S+) +port (?P<port>\d+)"
        r" .*src_addr (?P<address>\S+)",
    ),
    _known(
        "host",
        r"Can't bind inet socket \(id \d+\): (?P<reason>.*)$",
        "an address that the run uses cannot be used on this host ({reason})",
        "{proto} {address}:{port}",
        "network socket",
        hint="give this host the address that the run had, then restore again",
        before=r"Restore: family AF_INET6? +type \S+ +proto IPPROTO_(?P<proto>\S+) +port (?P<port>\d+)"
        r" .*src_addr (?P<address>\S+)",
    ),
    _known(
        "host",
        r"No tun device for file (?P<object>\S+)",
        "a network interface of the run is missing on this host",
        "{object}",
        hint="make it again (ip tuntap add), then restore again",
    ),
    _known(
        "host",
        r"couldn't find ifindex for (?P<object>\S+)|Can't bind packet socket to (?P<packet>\S+):",
        "a network interface of the run is missing on this host",
        "{object}",
        "{packet}",
        hint="make it again (ip link), then restore again",
    ),
    _known(
        "host",
        r"Connected TCP socket in image",
        "the snapshot holds TCP connections that this restore was not told to keep",
        "tcp connection",
        hint=_BOX_BUG,
    ),
    _known(
        "host",
        r"Don't have tty to inherit session from",
        "there is no terminal that the run could be attached to",
        "terminal",
        hint=_BOX_BUG,
    ),
)

_RESTORE_HOST = (
    _known(
        "host",
        r"No space left on device|Disk quota exceeded|Cannot allocate memory|Out of memory",
        "this host has too little free memory or space for the run",
        hint="free some (criu-agent doctor), then restore again",
    ),
    _known(
        "host",
        r"Can't fork for (?P<pid>\d+): File exists",
        "the number of a process of the run is taken",
        hint="restore again; if it stays, end the process that has this number",
    ),
    _known(
        "host",
        r"Can't fork for (?P<pid>\d+): (?P<reason>.*)$",
        "a process cannot be made ({reason})",
        hint="criu-agent doctor",
    ),
    _known(
        "host",
        r"No mapping for \d+:(?P<object>\S+) mountpoint",
        "a mount of the run was given no place on this host",
        "{object}",
        hint=_BOX_BUG,
    ),
    _known(
        "host",
        r"Failed to open_tree (?P<object>.*): (?P<reason>.*)$",
        "a file or directory that the box mounts cannot be opened on this host ({reason})",
        "{object}",
        hint="make it on this host, then restore again",
    ),
    _known(
        "host",
        r"The --root option is required to restore a mount namespace",
        "the root of the box was not given",
        hint=_BOX_BUG,
    ),
    _known(
        "host",
        r"Unable to find an external netns: (?P<object>\S+)|Can't restore link: (?P<code>-?\d+)",
        "the network of the run was not made on this host",
        "{object}",
        hint=_BOX_BUG,
    ),
    _known(
        "host",
        r"(?:FPU feature|CPU|Image carries|cpu:).*"
        r"(?:required by image|do not match|mismatch|unsupported bits|unknown vendor)",
        "the processor of this host lacks what the run was using",
        "cpu",
        hint="restore on a host with the same or a newer kind of processor",
    ),
    _known(
        "host",
        r"rseq: can't restore as kernel doesn't support it|LSM specified but \S+ not supported by kernel"
        r"|Unable to create a new time namespace",
        "the kernel of this host lacks what the run was using",
        hint="criu-agent doctor",
    ),
    _known(
        "host",
        r"connect to (?P<object>\S*lazy-pages\S*) failed",
        "the process that hands out the memory of the snapshot is not there",
        "{object}",
        hint="restore again with --no-lazy",
    ),
)

_RESTORE_IMAGES = (
    _known(
        "image",
        r"Unexpected EOF on (?P<object>\S+)"
        r"|Read \d+ bytes while \d+ expected (?:from|on) (?P<path>\S+?)(?::|$)"
        r"|[Mm]agic doesn't match for (?P<magic>\S+)",
        "an image of the snapshot is missing, cut off or changed",
        "{object}",
        "{path}",
        "{magic}",
        hint=_OTHER_SNAPSHOT,
    ),
    _known(
        "image",
        r"Can't read pages data|Img trimmed|[Cc]orrupted|No IDS for root task|Can't read img file",
        "an image of the snapshot is missing, cut off or changed",
        hint=_OTHER_SNAPSHOT,
    ),
    _known(
        "image",
        r"Unable to open (?P<object>\S+\.img): ",
        "an image of the snapshot is missing, cut off or changed",
        "{object}",
        hint=_OTHER_SNAPSHOT,
    ),
    _known(
        "host",
        r"Not supported images version (?P<version>\d+)|Too old image, no longer supported",
        "the snapshot was taken by a CRIU that this one does not understand",
        "image version {version}",
        hint="install the CRIU that the snapshot was taken with: criu-agent inspect",
    ),
)

RESTORE = _RESTORE_FILES + _RESTORE_SOCKETS + _RESTORE_HOST + _RESTORE_IMAGES

TABLE: dict[Verb, tuple[Known, ...]] = {"dump": DUMP, "restore": RESTORE}
