"""Mend the images of mounts: CRIU makes again what had lost its name, and cannot where there is another by now.

A file or directory of the host that a run has mounted may be replaced there while the run lives; agents do so with
their settings at every change. The mount is external: it is bound from what the host has at its path by then.
"""

from pathlib import Path

from criu_agent import log
from criu_agent.criu import image_edit, messages_pb2


def bind_what_is_there(images: Path) -> int:
    """Mend mountpoints-*.img in place; how many mounts needed it."""
    count = 0
    for path in images.glob("mountpoints-*.img"):
        mounts = image_edit.small(path, messages_pb2.MountPoint)
        lost = [mount for mount in mounts if mount.deleted and mount.ext_key]
        for mount in lost:
            mount.deleted = False
        if lost:
            image_edit.rewrite(path, [mount.SerializeToString() for mount in mounts])
        count += len(lost)
    if count:
        log.debug("%d mounts were of what had been replaced on the host: they are of what is there now", count)
    return count
