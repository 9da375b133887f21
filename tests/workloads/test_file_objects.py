"""What the kernel keeps of files besides their content: watches, locks, names that are gone; used in every round."""

from pathlib import Path

from tests.conftest import PYTHON, Agent
from tests.workloads.ways import Run, Way, Workload, in_every_way

LIBRARY = next(Path("/usr/lib").glob("*/libz.so.1"))
OBJECTS = """
import ctypes, fcntl, os, shutil, struct, sys, time

libc = ctypes.CDLL(None, use_errno=True)

def check(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

# Watches of a directory and of a file, in the work directory and in the layer.
def watch(directory):
    os.makedirs(directory, exist_ok=True)
    open(f"{directory}/old", "w").close()
    fd = check(libc.inotify_init1(os.O_NONBLOCK))
    check(libc.inotify_add_watch(fd, directory.encode(), 0x100))  # IN_CREATE
    check(libc.inotify_add_watch(fd, f"{directory}/old".encode(), 0x2))  # IN_MODIFY
    return directory, fd

watches = [watch("watched"), watch("/var/tmp/watched")]

# And by fanotify, which gives a descriptor of what was written to, but to root only.
fanotify = check(libc.fanotify_init(0x2, os.O_RDONLY)) if os.getuid() == 0 else None  # FAN_NONBLOCK
if fanotify:  # FAN_MARK_ADD, FAN_CLOSE_WRITE
    check(libc.fanotify_mark(fanotify, 0x1, ctypes.c_ulong(0x8), -100, b"watched/old"))

def named():
    data, names = os.read(fanotify, 4096), []
    while data:
        length, _, _, _, _, fd, _ = struct.unpack_from("=IBBHQii", data)
        names.append(os.readlink(f"/proc/self/fd/{fd}"))
        os.close(fd)
        data = data[length:]
    return names == [os.path.abspath("watched/old")]

def events(directory, fd, n):
    open(f"{directory}/new{n}", "w").close()
    with open(f"{directory}/old", "a") as old:
        old.write(f"{n}\\n")
    os.unlink(f"{directory}/new{n}")
    data, masks = os.read(fd, 4096), []
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        masks.append(mask)
        data = data[16 + length:]
    return masks == [0x100, 0x2]

# Three kinds of locks, held by us and tried by a child in every round. The child of a POSIX lock's owner is another
# owner; an open file description lock and a flock need a description of their own.
F_OFD_SETLK = 37
locked = {name: open(name, "w") for name in ("flock", "posix", "ofd")}
fcntl.flock(locked["flock"], fcntl.LOCK_EX)
fcntl.lockf(locked["posix"], fcntl.LOCK_EX)
whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
fcntl.fcntl(locked["ofd"], F_OFD_SETLK, whole)

def refused(name, lock):
    if (pid := os.fork()) == 0:
        try:
            with open(name, "w") as file:
                lock(file)
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(pid, 0)[1] != 0

def held():
    return all((
        refused("flock", lambda file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)),
        refused("posix", lambda file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)),
        refused("ofd", lambda file: fcntl.fcntl(file, F_OFD_SETLK, whole)),
    ))

# A file that never had a name, in the work directory and in the layer.
nameless = [os.open(place, os.O_TMPFILE | os.O_RDWR, 0o600) for place in (".", "/var/tmp")]

# A library that is loaded, and has another file at its path since, as after an upgrade.
shutil.copy(sys.argv[1], "library.so")
library = ctypes.CDLL("./library.so")
library.crc32.restype = ctypes.c_ulong
with open("upgraded", "w") as other:
    other.write("another one\\n")
os.rename("upgraded", "library.so")

# A child whose directory is gone, and had a file in it that it has open.
ask, answer = os.pipe(), os.pipe()
if os.fork() == 0:
    os.mkdir("gone")
    os.chdir("gone")
    mine = open("mine", "w+")
    shutil.rmtree("../gone")
    while os.read(ask[0], 1):
        try:
            os.getcwd()
            said = b"a directory"
        except FileNotFoundError:
            mine.write("x")
            mine.flush()
            said = b"nowhere:%d:%d" % (os.fstat(mine.fileno()).st_size, os.stat(".").st_nlink)
        os.write(answer[1], said)
    os._exit(0)

n = 0
while True:
    n += 1
    for fd in nameless:
        os.write(fd, b"%d\\n" % n)
    os.write(ask[1], b"?")
    said = dict(
        uid=os.getuid(),
        events=all([events(*watch, n) for watch in watches]),
        fanotify=named() if fanotify else "root's",
        locks=held(),
        nameless=",".join(str(len(os.pread(fd, 1 << 20, 0).split())) for fd in nameless),
        links="".join(str(os.fstat(fd).st_nlink) for fd in nameless),
        library=library.crc32(0, b"123456789", 9) == 0xCBF43926,
        upgraded=open("library.so").read().strip() == "another one",
        cwd=os.read(answer[0], 100).decode(),
    )
    print(f"round {n}", *(f"{key}={value}" for key, value in said.items()), flush=True)
    time.sleep(0.03)
"""


def every_one_works(run: Run) -> None:
    for one in run.await_rounds():
        assert dict(one.said) == {
            "uid": one["uid"],
            "events": "True",
            "fanotify": "True" if one["uid"] == "0" else "root's",
            "locks": "True",
            "nameless": f"{one.number},{one.number}",
            "links": "00",
            "library": "True",
            "upgraded": "True",
            "cwd": f"nowhere:{one.number}:0",
        }


@in_every_way
def test_watches_locks_and_files_without_a_name_are_all_there(agent: Agent, way: Way) -> None:
    workload = Workload(
        files={"objects.py": OBJECTS},
        argv=(PYTHON, "objects.py", str(LIBRARY)),
        proof=every_one_works,
    )
    way(agent, workload)
