"""Facts about this host, for the manifest and for the check before a restore."""

import os

from criu_agent import runs
from criu_agent.config import Config
from criu_agent.errors import HostCannot
from criu_agent.linux import cpu, proc, process
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


def require_able(config: Config, manifest: Manifest) -> None:
    """HostCannot when this host cannot run what was dumped there, naming the requirement and both values."""
    require_like(facts(config), manifest.host)


def require_like(here: Host, there: Host) -> None:
    """HostCannot when a process of the host `there` could not go on `here`."""
    pairs = [
        ("machine", there.machine, here.machine),
        ("page size", str(there.page_size), str(here.page_size)),
    ]
    for what, wanted, have in pairs:
        if wanted != have:
            raise HostCannot(
                f"the snapshot needs the {what} {wanted}, this host has {have}",
                hint="restore it on a host of the same kind",
                agent_state="not running",
            )
    lacking = cpu.missing(here.machine, there.cpu_flags, here.cpu_flags)
    if lacking:
        raise HostCannot(
            f"the snapshot needs a processor with {' '.join(lacking)}, as {there.cpu_model or 'that'} of "
            f"{there.hostname} has; this host has {here.cpu_model or 'one'} without",
            hint="restore it on a host whose processor has at least the same instruction sets",
            agent_state="not running",
        )
    if _version(here.criu) < _version(there.criu):
        raise HostCannot(
            f"the snapshot was taken by CRIU {there.criu}, this host has {here.criu}",
            hint="install that CRIU or a newer one with scripts/install-criu",
            agent_state="not running",
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
