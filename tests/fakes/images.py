"""CRIU's images of a small tree, made by hand: a shell (pid 2) below the init, and a zombie (pid 3)."""

import struct
from dataclasses import dataclass, field

from google.protobuf.message import Message

from criu_agent.criu import messages_pb2 as pb
from criu_agent.criu.imagefile import Images

PAGE = 4096
STACK = 0x7FFD00000000
CODE = 0x400000
MAGIC = struct.pack("<II", 0x54564319, 0x12345678)
REGULAR, PIPE, INET, UNIX = 1, 2, 4, 5


@dataclass(kw_only=True)
class Made:
    """Images by name as bytes; what was read of them, as (name, offset, length)."""

    data: dict[str, bytes] = field(default_factory=dict)
    reads: list[tuple[str, int, int]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)  # of images that are larger than their data

    def write(self, name: str, *messages: Message) -> None:
        parts = (message.SerializeToString() for message in messages)
        self.data[name] = MAGIC + b"".join(struct.pack("<I", len(part)) + part for part in parts)

    @property
    def images(self) -> Images:
        return Images(sizes={name: len(data) for name, data in self.data.items()} | self.sizes, read=self._read)

    def _read(self, name: str, offset: int, length: int) -> bytes:
        self.reads.append((name, offset, length))
        return self.data[name][offset : offset + length]


def regular(number: int, name: bytes, *, mode: int = 0o100644, flags: int = 0, position: int = 0) -> pb.OpenFile:
    file = pb.RegularFile(name=name, mode=mode, flags=flags, position=position)
    return pb.OpenFile(type=REGULAR, id=number, regular=file)


ROOT, EXE, INIT, LOG = 1, 2, 3, 4
FILES = (
    regular(ROOT, b"/", mode=0o40755),
    regular(EXE, b"/bin/sh"),
    regular(INIT, b"/init"),
    regular(LOG, b"/root/log", flags=0o2001, position=7),
)


def core(comm: bytes, *, state: int = 1, uid: int = 0) -> pb.Core:
    credentials = pb.Credentials(euid=uid, egid=uid)
    return pb.Core(task=pb.CoreTask(state=state, comm=comm), thread=pb.CoreThread(credentials=credentials))


def tree() -> Made:
    """The whole tree; a test changes what it is about."""
    made = Made()
    made.write(
        "pstree.img",
        pb.PstreeEntry(pid=1, ppid=0, pgid=1, sid=1, threads=[1]),
        pb.PstreeEntry(pid=2, ppid=1, pgid=2, sid=2, threads=[2, 9]),
        pb.PstreeEntry(pid=3, ppid=2, pgid=2, sid=2, threads=[1921372272]),  # as CRIU writes it
    )
    made.write("files.img", *FILES)
    process(made, 1, core(b"init"), INIT, [b"/init"], [])
    process(made, 2, core(b"sh", uid=1000), EXE, [b"sh", b"-c", b"\xff"], [b"TOKEN=s3cr3t", b"PATH=/bin"])
    made.write("core-3.img", core(b"true", state=6))
    made.write("fdinfo-2.img", pb.FdEntry(id=LOG, fd=3, flags=1, type=REGULAR))
    return made


def process(made: Made, pid: int, of: pb.Core, exe: int, argv: list[bytes], environment: list[bytes]) -> None:
    """One process with a region of code, and a stack of 16 pages with the strings in the last two, of which the first
    is not in the images."""
    made.write(f"core-{pid}.img", of)
    made.write(f"ids-{pid}.img", pb.Ids(files_id=pid))
    made.write(f"fs-{pid}.img", pb.FsEntry(cwd_id=ROOT, root_id=ROOT))
    arguments, variables = (b"".join(one + b"\0" for one in strings) for strings in (argv, environment))
    top = STACK + 16 * PAGE
    page = arguments + variables
    end_of_arguments = top - PAGE + len(arguments)
    made.write(
        f"mm-{pid}.img",
        pb.Memory(
            start_code=CODE,
            start_stack=top - 2 * PAGE,
            arg_start=top - PAGE,
            arg_end=end_of_arguments,
            env_start=end_of_arguments,
            env_end=end_of_arguments + len(variables),
            exe_id=exe,
            vmas=[
                pb.Vma(start=CODE, end=CODE + 4 * PAGE, offset=PAGE, object_id=exe, prot=5, flags=2, status=0x41),
                pb.Vma(start=STACK, end=top, prot=3, flags=0x122, status=0x201),
            ],
        ),
    )
    made.write(
        f"pagemap-{pid}.img",
        pb.PagemapHead(pages_id=pid),
        pb.PagemapEntry(vaddr=CODE, compat_nr_pages=0, flags=4, nr_pages=2),
        pb.PagemapEntry(vaddr=top - 2 * PAGE, compat_nr_pages=2, flags=6),
    )
    made.data[f"pages-{pid}.img"] = bytes(3 * PAGE) + page.ljust(PAGE, b"\0")
