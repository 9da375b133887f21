"""Mounts of the host that a run was on, and that the one that it is restored on has not.

Network file systems, removable media, the images of snaps: a box has all of them, since nobody knows beforehand what
a program will look at, but few programs use one. Where no process does, an empty directory stands for it.
"""

import os
from contextlib import suppress
from pathlib import Path

from criu_agent.box.layout import Bind, Layout
from criu_agent.box.outer import is_in
from criu_agent.criu import openfiles
from criu_agent.criu.imagefile import in_directory
from criu_agent.errors import HostCannot
from criu_agent.fs import beneath
from criu_agent.linux import files


def stand_in(layout: Layout, images: Path) -> None:
    """Make the empty directories. HostCannot if a process in the images has a file of what is not here."""
    if not layout.absent:
        return
    used = [one.name for one in openfiles.read(in_directory(images)).values()]
    for bind in layout.absent:
        _require_unused(bind, used, layout)
        files.remove_tree(Path(bind.source))  # of the restore before
        Path(bind.source).mkdir(mode=0o755, parents=True)


def _require_unused(bind: Bind, used: list[str], layout: Layout) -> None:
    inside = sorted(path for path in used if is_in(path, [bind.target]))
    if not inside and not layout.host_root:
        return
    what = f"{bind.target} (with {inside[0]}, which is in use)" if inside else bind.target
    raise HostCannot(
        f"{what}, which the run has from its host, does not exist on this one",
        hint="mount there what the other host has",
        agent_state="not running",
    )


def warnings(layout: Layout) -> list[str]:
    return [f"{bind.target} of the other host does not exist on this one: it is empty" for bind in layout.absent]


def make_mount_points(layout: Layout, root: Path) -> None:
    """Have a directory at each of them for CRIU to mount on, in what is mounted there: in the root, or in a layer."""
    bases = {"/": root, **{layer.path: layer.mount_point for layer in layout.layers}}
    bases |= {bind.target: Path(bind.source) for bind in layout.bound}
    for bind in layout.absent:
        below = max((path for path in bases if path != bind.target and is_in(bind.target, [path])), key=len)
        _make_directories(bases[below], os.path.relpath(bind.target, below), bind)


def _make_directories(base: Path, path: str, bind: Bind) -> None:
    """No link is followed: what is mounted on would lie elsewhere, or even outside."""
    made = ""
    try:
        for part in path.split("/"):
            with beneath.directory(base, made) as at, suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=at)
            made = beneath.joined(made, part)
        with beneath.directory(base, made):  # what was there already may be a link
            pass
    except OSError as error:
        raise HostCannot(
            f"{bind.target}, which the run has from its host, cannot be made on this one: {error.strerror}",
            hint="mount there what the other host has",
            agent_state="not running",
        ) from error
