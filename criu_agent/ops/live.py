"""A run that lives: what its operations need to know of it, and the parts that a start and a restore share."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from criu_agent import runs
from criu_agent.box import cgroup, mounts
from criu_agent.box.cgroup import Cgroup
from criu_agent.config import Config
from criu_agent.errors import HostCannot
from criu_agent.linux import syscalls
from criu_agent.model import RunSpec
from criu_agent.ops import containers
from criu_agent.term.console import Console
from criu_agent.term.modes import Modes
from criu_agent.term.scrollback import Scrollback

BOX = "box"  # where a run directory has the box's layers
Progress = Callable[[str, int, int], None]  # phase, bytes done, bytes in all (0 when there are none to count)


@dataclass(kw_only=True)
class Live:
    """The one running copy of a run. All of it lives in the supervisor's own mount namespace."""

    config: Config
    spec: RunSpec
    layout: mounts.Layout
    cgroup: Cgroup
    root_pid: int
    console: Console
    scrollback: Scrollback = field(default_factory=Scrollback)
    modes: Modes = field(default_factory=Modes)
    pending_input: Mapping[str, Any] = field(default_factory=dict)  # as the supervisor's session saved it

    @property
    def directory(self) -> Path:
        return runs.directory(self.config, self.spec.id)

    @property
    def runtime(self) -> Path:
        return runs.runtime(self.config, self.spec.id)


def enter_private_mounts() -> None:
    """Give this process a mount namespace of its own: what it mounts is seen by nobody, and goes with it."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    # Slave, not private: what the administrator mounts later is seen here too.
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)


def make_cgroup(config: Config, run_id: str) -> Cgroup:
    hierarchy = cgroup.root(runs.runtime(config, run_id) / "cgroup")
    made = Cgroup.create(hierarchy, run_id)
    made.kill()  # a supervisor that was killed during a restore leaves a tree in it that never ran
    return made


def layout(
    config: Config, spec: RunSpec, *, directory: str = BOX, mounted: Mapping[str, str] | None = None
) -> mounts.Layout:
    """The root of the run's box. directory: its name in the run directory; mounted: the binds of its snapshot."""
    hidden = {str(config.state_dir)}
    hidden.update(config.local_repository)
    _require_apart(spec.through, hidden)
    lower = containers.root(config, spec.image) if spec.image else mounts.HOST
    system = mounts.system_binds(config.init, user_namespace=spec.user_namespace, foreign=bool(spec.image))
    binds = [*system, *mounts.through_binds(spec.through)]
    if mounted is not None:
        binds = mounts.again(binds, mounted)
    return mounts.Layout(
        directory=runs.directory(config, spec.id) / directory,
        binds=tuple(binds),
        hidden=() if spec.image else tuple(sorted(hidden)),
        lower=lower,
        user_namespace=spec.user_namespace,
    )


def _require_apart(through: Iterable[str], hidden: Iterable[str]) -> None:
    """What is written through must not hold our own files, which on another host may lie elsewhere."""
    for path in through:
        for own in hidden:
            if path != "/" and f"{own}/".startswith(f"{path.rstrip('/')}/"):
                raise HostCannot(
                    f"{path}, which the run writes through to, holds criu-agent's own files in {own} on this host",
                    hint="use another --repo or CRIU_AGENT_STATE_DIR here",
                )
