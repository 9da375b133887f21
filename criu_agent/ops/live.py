"""A run that lives: what its operations need to know of it, and the parts that a start and a restore share."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from criu_agent import runs
from criu_agent.box import cgroup, mounts, outer
from criu_agent.box.cgroup import Cgroup
from criu_agent.box.layout import HOST, Layout
from criu_agent.config import Config
from criu_agent.errors import HostCannot
from criu_agent.linux import proc, syscalls
from criu_agent.model import RunSpec
from criu_agent.ops import agents, containers
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
    layout: Layout
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
) -> Layout:
    """The root of the run's box. directory: its name in the run directory; mounted: the binds of its snapshot."""
    hidden = _hidden(config)
    require_apart(config, spec)
    if mounted is not None:
        _remake_agent_state(spec)
    found = _outer(config, spec, hidden) if mounted is None else outer.again(mounted)
    made = Layout(
        directory=runs.directory(config, spec.id) / directory,
        binds=(),
        hidden=() if spec.image else tuple(sorted(hidden)),
        lower=containers.root(config, spec.image) if spec.image else HOST,
        user_namespace=spec.user_namespace,
        outer=tuple(found),
        runtime=runs.runtime(config, spec.id),
        host_root=spec.fs == "host",
    )
    system = mounts.system_binds(config.init, user_namespace=spec.user_namespace, foreign=made.foreign)
    binds = [*system, *mounts.outer_binds(made, mounts.through_binds(spec.through, spec.backing))]
    if mounted is not None:
        binds = mounts.again(binds, mounted)
    return replace(made, binds=tuple(binds))


def require_layerable(spec: RunSpec) -> None:
    """HostCannot for a run that could be started here, but never be saved."""
    if spec.fs == "overlay" and not spec.image and not outer.can_root_be_layered(proc.mounts(os.getpid())):
        raise HostCannot(
            "the root of this host is an overlay, and a run in a second one over it could never be saved",
            hint="criu-agent run --fs host: it has no layer, and writes to this root itself",
        )


def _outer(config: Config, spec: RunSpec, hidden: Iterable[str]) -> list[outer.Outer]:
    """The mounts of this host that a new box gets: none in a container image. What lies below /tmp it has with the
    host's own root only.
    """
    if spec.image:
        return []
    layers = spec.fs == "overlay"
    apart = [*hidden, str(config.runtime_dir), *(["/tmp"] if layers else [])]  # noqa: S108 - of the box
    return outer.outer(proc.mounts(os.getpid()), hidden=apart, through=spec.through, layers=layers)


def _remake_agent_state(spec: RunSpec) -> None:
    """Another host need not have the agent's directories: there they are made, and empty."""
    try:
        agents.remake(spec.agent_state, spec.user)
    except OSError as error:
        raise HostCannot(
            f"cannot make what the agent keeps of itself: {error.strerror}: {error.filename}",
            hint="make it by hand, for the user of the run",
            agent_state="not running",
        ) from error


def _hidden(config: Config) -> set[str]:
    return {str(config.state_dir), *config.local_repository}


def require_apart(config: Config, spec: RunSpec) -> None:
    """HostCannot if what is written through holds our own files, which on another host may lie elsewhere."""
    for path in [spec.backing.get(path, path) for path in spec.through]:
        for own in _hidden(config):
            if path != "/" and f"{own}/".startswith(f"{path.rstrip('/')}/"):
                raise HostCannot(
                    f"{path}, which the run writes through to, holds criu-agent's own files in {own} on this host",
                    hint="use another --repo or CRIU_AGENT_STATE_DIR here",
                )
