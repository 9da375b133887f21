"""Mend the images of terminals: CRIU may forget whose controlling terminal one is.

At the dump it asks for the session of a terminal through the first process that it finds with it open, and the kernel
tells only processes whose controlling terminal it is. A tmux server has its client's terminal open too: if it comes
first, session 0 is written, which cannot be restored ("No task found with sid 0"). So the session is filled in.

At the restore, looking for the file through which it restores the controlling terminal, CRIU (4.2,
tty_setup_slavery) links every two open files of one pty as if they were its two ends, and leaves out what is
linked. With the master outside of the tree, all are slaves: an even number of them leaves none over, and the
session comes back without a terminal. Then no SIGWINCH and no ^C arrives, and the next dump writes session 0, which
cannot be restored at all. OpenCode has two. So an even number is made odd by one more entry, which no descriptor
refers to: CRIU uses it for this one purpose.
"""

from collections import Counter
from pathlib import Path

from criu_agent import log
from criu_agent.criu import messages_pb2
from criu_agent.criu.image_edit import append, rewrite, small
from criu_agent.criu.imagefile import wrong
from criu_agent.linux import proc

_TTY = 11  # fd_types.TTY
_SLAVE_MAJORS = range(136, 144)  # Unix98 pty slaves (Documentation/admin-guide/devices.txt)
_HIGHEST_ID = (1 << 32) - 1


def name_sessions(images: Path, root_pid: int) -> int:
    """Fill in the sessions that are missing in tty-info.img, as long as the tree is frozen; how many there were."""
    path = images / "tty-info.img"
    infos = small(path, messages_pb2.TtyInfo)
    nameless = [info for info in infos if info.HasField("pty") and _is_slave(info) and not info.sid]
    if not nameless:
        return 0
    sessions = proc.sessions_of_terminals(proc.tree(root_pid))
    named = 0
    for info in nameless:
        if info.rdev in sessions:
            info.sid, info.pgrp = sessions[info.rdev]
            named += 1
    rewrite(path, [info.SerializeToString() for info in infos])
    log.debug("%d terminals had no session in the images, %d of them have one", len(nameless), named)
    return named


def give_back_controlling_terminals(images: Path) -> int:
    """Mend files.img in place; how many terminals needed it."""
    infos = {info.id: info for info in small(images / "tty-info.img", messages_pb2.TtyInfo)}
    files = small(images / "files.img", messages_pb2.File)
    terminals = [file for file in files if file.type == _TTY]
    strange = [file.id for file in terminals if file.tty.tty_info_id not in infos]
    if strange:
        raise wrong("files.img", f"has a terminal, {strange[0]}, of which nothing is known")
    opened = [file for file in terminals if infos[file.tty.tty_info_id].HasField("pty")]
    with_master = {
        infos[file.tty.tty_info_id].pty.index for file in opened if not _is_slave(infos[file.tty.tty_info_id])
    }
    counts = Counter(file.tty.tty_info_id for file in opened if _is_slave(infos[file.tty.tty_info_id]))
    next_id = max((file.id for file in files), default=0) + 1
    if next_id + len(counts) > _HIGHEST_ID:
        raise wrong("files.img", f"has a file with the number {next_id - 1}")
    mended = 0
    for number, count in counts.items():
        if count % 2 or not infos[number].sid or infos[number].pty.index in with_master:
            continue
        extra = messages_pb2.File()
        extra.CopyFrom(next(file for file in opened if file.tty.tty_info_id == number))
        extra.id = extra.tty.id = next_id + mended
        append(images / "files.img", extra.SerializeToString())
        log.debug("the terminal of session %d has %d open files: one was added", infos[number].sid, count)
        mended += 1
    return mended


def _is_slave(info: messages_pb2.TtyInfo) -> bool:
    return (info.rdev >> 8) & 0xFFF in _SLAVE_MAJORS  # new_encode_dev() of the kernel
