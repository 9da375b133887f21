"""What is in a snapshot of a process tree: from CRIU's images to values (`description`).

Of the images of memory only the arguments and the environment of each process are read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from criu_agent.criu import messages_pb2 as pb
from criu_agent.criu import openfiles
from criu_agent.criu.description import Description, Descriptor, OpenFile, Process, Program, Region
from criu_agent.criu.imagefile import Images, messages, only, wrong
from criu_agent.criu.memory import Memory
from criu_agent.criu.openfiles import text

_STATES = {1: "running", 2: "zombie", 3: "stopped", 6: "zombie"}  # compel/include/uapi/task-state.h
_CLOSE_ON_EXEC = 1
# More than the kernel takes at an execve(2), which is 6 MiB. A program can move the borders (prctl(2)).
_STRINGS_LIMIT = 8 << 20

# Of a region's status, criu/include/image.h
_VSYSCALL, _VDSO, _HEAP, _VVAR, _PLUGIN = 1 << 2, 1 << 3, 1 << 5, 1 << 12, 1 << 27
_FILE = 1 << 6 | 1 << 7  # private, shared
_SYSVIPC, _AIO_RING = 1 << 10, 1 << 13
_NAMES = {_VSYSCALL: "[vsyscall]", _VDSO: "[vdso]", _VVAR: "[vvar]", _HEAP: "[heap]", _AIO_RING: "[aio]"}
_GROWS_DOWN = 0x100  # MAP_GROWSDOWN

_Files = Mapping[int, OpenFile]


def describe(images: Images, page_size: int) -> Description:
    """The processes in CRIU's images with everything that they have.

    page_size is that of the host where they were taken. Corrupt, with its name, if an image is not as it should be.
    """
    files = openfiles.read(images)
    entries = messages(images, "pstree.img", pb.PstreeEntry)
    return Description(processes={entry.pid: _process(images, entry, files, page_size) for entry in entries})


def _process(images: Images, entry: pb.PstreeEntry, files: _Files, page_size: int) -> Process:
    core = only(images, f"core-{entry.pid}.img", pb.Core)
    state = _STATES.get(core.task.state, f"state {core.task.state}")
    place = Process(
        pid=entry.pid,
        ppid=entry.ppid,
        pgid=entry.pgid,
        sid=entry.sid,
        comm=text(core.task.comm),
        state=state,
        threads=len(entry.threads),
    )
    if state == "zombie":
        return place
    fs_image, mm_image = f"fs-{entry.pid}.img", f"mm-{entry.pid}.img"
    fs, mm = only(images, fs_image, pb.FsEntry), only(images, mm_image, pb.Memory)
    memory = Memory(images, entry.pid, page_size)
    return replace(
        place,
        uid=core.thread.credentials.euid,
        gid=core.thread.credentials.egid,
        cwd=_file(files, fs.cwd_id, fs_image).name,
        root=_file(files, fs.root_id, fs_image).name,
        program=Program(
            exe=_file(files, mm.exe_id, mm_image).name,
            argv=_strings(memory, mm.arg_start, mm.arg_end, mm_image),
            environment=_strings(memory, mm.env_start, mm.env_end, mm_image),
            identity=(mm.start_code, mm.start_stack),
        ),
        descriptors=tuple(_descriptors(images, entry.pid, files)),
        regions=tuple(_regions(mm, memory, files, mm_image)),
    )


def _file(files: _Files, number: int, image: str) -> OpenFile:
    if number not in files:
        raise wrong(image, f"refers to the open file {number}, which is missing")
    return files[number]


def _descriptors(images: Images, pid: int, files: _Files) -> Iterator[Descriptor]:
    name = f"fdinfo-{only(images, f'ids-{pid}.img', pb.Ids).files_id}.img"
    if name not in images.sizes:  # CRIU makes an image with its first message
        return
    for entry in messages(images, name, pb.FdEntry):
        close_on_exec = bool(entry.flags & _CLOSE_ON_EXEC)
        yield Descriptor(fd=entry.fd, close_on_exec=close_on_exec, file=_file(files, entry.id, name))


def _strings(memory: Memory, start: int, end: int, image: str) -> tuple[str, ...]:
    """The strings between two addresses, each ended by a zero byte.

    Empty ones at the end are left out: a program that writes a title over its arguments leaves zeros behind it.
    """
    if end < start:
        raise wrong(image, "has arguments that end before they begin")
    data = memory.read(start, min(end, start + _STRINGS_LIMIT)).rstrip(b"\0")
    return tuple(map(text, data.split(b"\0"))) if data else ()


def _regions(mm: pb.Memory, memory: Memory, files: _Files, image: str) -> Iterator[Region]:
    for vma in mm.vmas:
        if vma.end <= vma.start:
            raise wrong(image, f"has a region of memory that ends at {vma.end:#x} before it begins")
        yield Region(
            start=vma.start,
            end=vma.end,
            prot=vma.prot,
            flags=vma.flags,
            name=_name(vma, mm, files, image),
            offset=vma.offset if vma.status & _FILE else 0,
            stored=memory.stored(vma.start, vma.end),
        )


def _name(vma: pb.Vma, mm: pb.Memory, files: _Files, image: str) -> str:
    if vma.status & _FILE and not vma.status & _PLUGIN:
        return _file(files, vma.object_id, image).name
    if vma.status & _SYSVIPC:
        return f"[sysv shared memory {vma.object_id}]"
    if vma.flags & _GROWS_DOWN and vma.start <= mm.start_stack < vma.end:
        return "[stack]"
    return next((name for bit, name in _NAMES.items() if vma.status & bit), "")
