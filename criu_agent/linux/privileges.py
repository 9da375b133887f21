"""What a thread may do, as /proc/PID/task/TID/status says (man 5 proc, man 7 credentials, man 7 capabilities)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

SETS = ("inheritable", "permitted", "effective", "bounding", "ambient")
_LINES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
# linux/capability.h, from number 0 on
_NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES.split())


@dataclass(frozen=True, kw_only=True)
class Privileges:
    """uids and gids: real, effective, saved, of the file system; groups: the supplementary ones, ascending.

    capabilities: bits, in the order of SETS. seccomp: 0 none, 1 strict, 2 filter.
    """

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: tuple[int, ...]
    no_new_privs: bool
    seccomp: int

    @property
    def within_reach(self) -> int:
        """The capabilities that it has, may take up, or hands on over an execve, as bits.

        Not those of the bounding set: a program with a set-user-ID bit or capabilities of its own may gain these.
        """
        inheritable, permitted, effective, _, ambient = self.capabilities
        return inheritable | permitted | effective | ambient


def of_threads(pid: int) -> frozenset[Privileges]:
    """The privileges that the threads of a process have: one value as a rule. Empty for one that is gone."""
    return frozenset(_of_each(pid))


def _of_each(pid: int) -> Iterator[Privileges]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/status", encoding="utf-8", errors="replace") as file:
                text = file.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield parse(text)


def parse(status: str) -> Privileges:
    """From the text of a status file. A kernel without seccomp has no line of it."""
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return Privileges(
        uids=tuple(map(int, lines["Uid"].split())),
        gids=tuple(map(int, lines["Gid"].split())),
        groups=tuple(sorted(map(int, lines["Groups"].split()))),
        capabilities=tuple(int(lines[name], 16) for name in _LINES),
        no_new_privs=lines["NoNewPrivs"].strip() == "1",
        seccomp=int(lines.get("Seccomp", "0")),
    )


def names(bits: int) -> list[str]:
    """The capabilities by name, in the order of their numbers; one that we do not know by its number."""
    found = [number for number in range(bits.bit_length()) if bits >> number & 1]
    return [CAPABILITIES[number] if number < len(CAPABILITIES) else f"CAP_{number}" for number in found]
