"""Facts about this host, for the manifest and for the check before a restore."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from criu_agent import runs
from criu_agent.box import cgroup
from criu_agent.config import Config
from criu_agent.errors import HostCannot
from criu_agent.linux import cpu, proc, process
from criu_agent.linux.cpu_baseline import LEVELS
from criu_agent.model import Host, Manifest
from criu_agent.repo.locks import Holder


def facts(config: Config) -> Host:
    name = os.uname()
    processor = cpu.read()
    return Host(
        hostname=name.nodename,
        boot_id=runs.boot_id(),
        kernel=name.release,
        machine=name.machine,
        page_size=os.sysconf("SC_PAGE_SIZE"),
        criu=criu_version(config),
        cpu_model=processor.model,
        cpu_flags=processor.flags,
        cgroups=cgroup.layout(Path("/proc/self/mountinfo").read_text()),
        time_namespaces=os.path.exists("/proc/self/ns/time"),  # noqa: PTH110 - a link that resolves to no path
        monotonic=time.clock_gettime_ns(time.CLOCK_MONOTONIC),
    )


def criu_version(config: Config) -> str:
    """As `criu --version` says. HostCannot where there is no CRIU."""
    try:
        said = process.run([str(config.criu), "--version"], timeout=10)
    except OSError as error:
        raise HostCannot(f"there is no CRIU at {config.criu}", hint="install it with scripts/install-criu") from error
    if not said.ok:
        raise HostCannot(
            f"{config.criu} does not start: {said.stderr.decode(errors='replace').strip()}",
            hint="install one that does with scripts/install-criu",
        )
    return said.stdout.decode().split("\n")[0].removeprefix("Version:").strip()


def holder(what: str) -> Holder:
    """This process, as the holder of a lock."""
    return Holder(
        hostname=os.uname().nodename,
        boot_id=runs.boot_id(),
        pid=os.getpid(),
        start=proc.start_time(os.getpid()),
        what=what,
        since=runs.now(),
    )


def lives(one: Holder) -> bool:
    """False only if it is known to have ended: on another host, or before a reboot of an unknown one, who knows."""
    if one.boot_id != runs.boot_id():
        return True
    try:
        return proc.start_time(one.pid) == one.start
    except OSError:
        return False


def require_able(config: Config, manifest: Manifest, cpu_baseline: str) -> None:
    """HostCannot when this host cannot run what was dumped there, naming each requirement and both values.

    cpu_baseline: the level of processors that the run was kept to, or "".
    """
    require_like(facts(config), manifest.host, cpu_baseline)


def require_like(here: Host, there: Host, cpu_baseline: str = "") -> None:
    """HostCannot when a process of the host `there` could not go on `here`: all that is lacking, in one message."""
    lacking = list(_lacking(here, there, cpu_baseline))
    if lacking:
        what = "; ".join(requirement for requirement, _ in lacking)
        raise HostCannot(
            f"this host cannot restore what was running on {there.hostname}: {what}",
            hint="; ".join(dict.fromkeys(fix for _, fix in lacking)),
            agent_state="not running",
        )


def _lacking(here: Host, there: Host, cpu_baseline: str) -> Iterator[tuple[str, str]]:
    """What `here` lacks, with the value of both hosts, and what to do about it."""
    another = "restore it on a host of the same kind"
    if here.machine != there.machine:
        yield f"it needs the machine {there.machine}, this host has {here.machine}", another
    if here.page_size != there.page_size:
        yield f"it needs pages of {there.page_size} bytes, this host has pages of {here.page_size}", another
    needed = LEVELS[cpu_baseline] if cpu_baseline else there.cpu_flags
    instructions = cpu.missing(there.machine, needed, here.cpu_flags) if here.machine == there.machine else []
    if instructions:
        which = cpu_baseline or there.cpu_model or "that one"
        yield (
            f"it needs a processor with {' '.join(instructions)}, as {which} has, this host has "
            f"{here.cpu_model or 'one'} without",
            "restore it on a host whose processor has at least the same instruction sets",
        )
    if there.time_namespaces and not here.time_namespaces:
        yield (
            f"it needs time namespaces, as Linux {there.kernel} has, this host has Linux {here.kernel} without",
            "boot a kernel with CONFIG_TIME_NS",
        )
    if _version(here.criu) < _version(there.criu):
        yield (
            f"it needs CRIU {there.criu}, this host has {here.criu}",
            "install that CRIU or a newer one with scripts/install-criu",
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
