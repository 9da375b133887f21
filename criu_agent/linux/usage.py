"""What processes use, for people: by psutil, which knows the units of every kernel."""

from collections.abc import Iterable
from typing import Any

import psutil


def of(pids: Iterable[int]) -> list[dict[str, Any]]:
    """One document for each process that is still there: pid, name, cmdline, status, rss, cpu_seconds, started.

    rss is in bytes, started in seconds since 1970.
    """
    found = []
    for pid in pids:
        try:
            facts = psutil.Process(pid).as_dict(
                ["name", "cmdline", "status", "memory_info", "cpu_times", "create_time"]
            )
        except psutil.NoSuchProcess:
            continue
        cpu, memory = facts["cpu_times"], facts["memory_info"]
        found.append(
            {
                "pid": pid,
                "name": facts["name"],
                "cmdline": facts["cmdline"],
                "status": facts["status"],
                "rss": memory.rss if memory else 0,
                "cpu_seconds": round(cpu.user + cpu.system, 2) if cpu else 0.0,
                "started": facts["create_time"],
            }
        )
    return found
