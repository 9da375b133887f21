"""What ls, dump and diff say of a snapshot is what the box saw when it was taken."""

import hashlib
import json
import os
import random
import re
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

from criu_agent.criu.describe import describe
from criu_agent.criu.description import Description
from criu_agent.criu.imagefile import Images
from criu_agent.errors import Corrupt
from criu_agent.ops import contents, vault
from tests.conftest import PYTHON, Agent, await_true
from tests.inside import config_of

HOSTILE = b"\x1b[2J\xff\n"
SHOWN = r"\x1b[2J\udcff\n"
# A child that executes itself again with another TOKEN, and a parent that does one thing of each kind. It does all of
# it once before the first snapshot, so that its heap need not grow for it later.
PROGRAM = """
import mmap, os, socket, sys, time

def await_file(name):
    while not os.path.exists(name):
        time.sleep(0.02)

def run_child(token):
    os.execve(sys.executable, [sys.executable, "program.py", "child"], {**os.environ, "TOKEN": token})

if sys.argv[1] == "child":
    if os.environ["TOKEN"] == "first-secret":
        await_file("go")
        run_child("second-secret")
    open("child", "w").close()
    await_file("never")

def act(directory, port, data):
    os.makedirs(directory, exist_ok=True)
    file = os.open(directory + "/opened", os.O_RDWR | os.O_CREAT, 0o640)
    os.write(file, b"12345")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    mapped = mmap.mmap(-1, 3 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    odd = os.open(os.fsencode(directory) + b"/" + NAME, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(odd, bytes(range(256)))
    os.close(odd)
    kept = os.open("/root/kept", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(kept, data)
    os.close(kept)
    return file, listener, mapped

# not to be joined with another: nothing else may be written and executed
filled = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
filled.write(b"x" * len(filled))
file, listener, mapped = act("/root/warm", 0, b"before")
os.close(file), listener.close(), mapped.close()
if os.fork() == 0:
    run_child("first-secret")
open("ready", "w").close()
await_file("go")
things = act("/usr/local/made", int(sys.argv[1]), b"after!")
os.unlink("/etc/hosts")
for page in (5, 6, 40):
    filled[page * 4096 + 7] = page
open("done", "w").close()
await_file("never")
"""


def start(agent: Agent, port: int = 0) -> None:
    (agent.workdir / "program.py").write_text(PROGRAM.replace("NAME", repr(HOSTILE)))
    agent("run", "-d", "--name", "one", "--", PYTHON, "program.py", str(port))
    await_true(lambda: (agent.workdir / "ready").exists(), "it is ready")


def go_on(agent: Agent) -> None:
    (agent.workdir / "go").touch()
    await_true(lambda: (agent.workdir / "done").exists() and (agent.workdir / "child").exists(), "it has done it")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def differences(agent: Agent, *arguments: str) -> list[tuple[str, str, str]]:
    rows = agent("diff", *arguments, "--json").json["rows"]
    return [(f"{row['section']} {row['change']}", row["what"], row["detail"]) for row in rows]


def test_diff_shows_exactly_what_a_run_did_between_two_snapshots(agent: Agent) -> None:
    port = free_port()
    start(agent, port)
    agent("checkpoint", "one")
    go_on(agent)
    agent("checkpoint", "one")
    told = differences(agent, "one~1", "one")
    modes = {path: stat.S_IMODE(os.stat(path).st_mode) for path in ("/etc", "/usr", "/usr/local")}
    region = next(what for kind, what, _ in told if kind == "memory +")
    assert re.fullmatch(r"pid 2 \(python3\) [0-9a-f]+-[0-9a-f]+", region)
    executed = told[-1][2]
    assert re.fullmatch(r"executed anew, \d+ regions of \d+ bytes -> \d+ regions of \d+ bytes", executed)
    assert told == [
        ("descriptors +", "pid 2 (python3) fd 3", "file /usr/local/made/opened at 5, O_RDWR|O_CLOEXEC"),
        ("descriptors +", "pid 2 (python3) fd 4", f"socket tcp 127.0.0.1:{port}, O_RDWR|O_CLOEXEC"),
        ("connections +", f"tcp 127.0.0.1:{port}", "listen, pid 2 (python3) fd 4"),
        ("environment ~", "pid 3 (python3) TOKEN", "another value"),
        ("files +", "/etc", f"directory, mode {modes['/etc']:04o}"),
        ("files -", "/etc/hosts", "the host's"),
        ("files ~", "/root/kept", "content"),
        *(("files +", f"{agent.workdir}/{name}", "file, 0 bytes, mode 0644") for name in ("child", "done", "go")),
        ("files +", "/usr", f"directory, mode {modes['/usr']:04o}"),
        ("files +", "/usr/local", f"directory, mode {modes['/usr/local']:04o}"),
        ("files +", "/usr/local/made", "directory, mode 0755"),
        ("files +", "/usr/local/made/" + os.fsdecode(HOSTILE), "file, 256 bytes, mode 0600"),
        ("files +", "/usr/local/made/opened", "file, 5 bytes, mode 0640"),
        ("memory +", region, "r--p anonymous, 12288 bytes"),
        ("memory ~", "pid 3 (python3)", executed),
    ]
    said = agent("diff", "one~1", "one").out
    assert [line for line in said.splitlines() if line[1] != " "] == [
        "DESCRIPTORS",
        "CONNECTIONS",
        "ENVIRONMENT",
        "FILES",
        "MEMORY",
    ]
    assert len(said.splitlines()) == 5 + len(told)
    assert f"+ /usr/local/made/{SHOWN}" in said
    assert "\x1b" not in said
    assert "secret" not in said
    values = agent("diff", "one~1", "one", "--values").out
    assert re.search(r"^~ pid 3 \(python3\) TOKEN +first-secret -> second-secret$", values, re.MULTILINE)

    counted = [row for row in differences(agent, "one~1", "one", "--pages") if row not in told]
    regions = agent("exec", "one", "--", "grep", "rwxp", "/proc/2/maps").out.split("\n")
    (written,) = [row for row in counted if row[1].split()[-1] == regions[0].split()[0]]
    assert written == ("memory ~", written[1], "content of 3 pages")
    assert all(kind == "memory ~" and "content of " in detail for kind, _, detail in counted)


def test_a_restore_is_no_difference(agent: Agent) -> None:
    start(agent)
    go_on(agent)
    agent("suspend", "one")
    agent("resume", "one", "--detach")
    agent("suspend", "one")
    outcome = agent("diff", "one~1", "one")
    assert (outcome.out, outcome.err[:21]) == ("", "no differences betwee")
    assert agent("diff", "one", "one", "--json").json["rows"] == []


def test_ls_and_dump_give_what_the_box_saw(agent: Agent) -> None:
    start(agent)
    go_on(agent)
    script = "head -c 3000000 /dev/urandom >/root/large; ln /root/large /root/linked; ln -s kept /root/soft"
    agent("exec", "one", "--", "sh", "-c", script)
    script = "for name in /root/large /root/linked /root/kept /usr/local/made/*; do sha256sum <$name; done"
    seen = [line.split()[0] for line in agent("exec", "one", "--", "sh", "-c", script).out.splitlines()]
    agent("checkpoint", "one")

    listed = [json.loads(line) for line in agent("ls", "one", "--json").out.splitlines()]
    upper, through = agent.files_of("one"), f"{agent.workdir}/"
    written = {f"/{path.relative_to(upper)}" for path in upper.rglob("*")}
    assert {one["path"] for one in listed} == written | {str(path) for path in agent.workdir.rglob("*")} | {
        through[:-1]
    }
    for one in listed:
        there = Path(one["path"]) if f"{one['path']}/".startswith(through) else upper / one["path"][1:]
        status = there.lstat()
        assert (one["mode"], one["uid"], one["gid"]) == (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        assert one["size"] == (status.st_size if one["type"] == "file" else 0)
        assert one["message_type"] == "node"
    kinds = {one["path"]: one["type"] for one in listed}
    assert kinds["/etc/hosts"] == "whiteout"
    assert (kinds["/root/soft"], kinds["/root/linked"], kinds["/root"]) == ("symlink", "file", "directory")

    assert agent("ls", "one", str(agent.workdir)).out.splitlines() == sorted(map(str, agent.workdir.iterdir()))
    assert dumped(agent, "one", bytes(agent.workdir / "program.py")) == (agent.workdir / "program.py").read_bytes()
    assert agent("ls", "one", "/usr/local/made").out == f"/usr/local/made/{SHOWN}\n/usr/local/made/opened\n"
    assert agent("ls", "one", "/usr").out == "/usr/local\n"
    assert agent("ls", "one", "/usr", "--recursive").out.splitlines()[-1] == "/usr/local/made/opened"
    assert "/etc/hosts" not in agent("ls", "one").out.splitlines()
    long = agent("ls", "one", "-l").out
    assert re.search(r"^-rw-r----- +0 +0 +5 [-0-9]{10} [:0-9]{8} /usr/local/made/opened$", long, re.MULTILINE)
    assert re.search(r"^lrwxrwxrwx +0 +0 +0 [-0-9]{10} [:0-9]{8} /root/soft -> kept$", long, re.MULTILINE)
    assert re.search(r"^removed .* /etc/hosts$", long, re.MULTILINE)

    names = [
        b"/root/large",
        b"root/linked",
        b"//root/../root/kept",
        b"/usr/local/made/" + HOSTILE,
        b"/usr/local/made/opened",
    ]
    assert [hashlib.sha256(dumped(agent, ".", name)).hexdigest() for name in names] == seen
    assert dumped(agent, "one", b"/usr/local/made/" + HOSTILE) == bytes(range(256))


def dumped(agent: Agent, *arguments: str | bytes) -> bytes:
    argv = [*agent.program, "dump", *arguments]
    return subprocess.run(argv, cwd=agent.workdir, env=agent.env, capture_output=True, check=True).stdout


def test_what_is_not_there_has_its_exit_code_and_writes_nothing(agent: Agent) -> None:
    start(agent)
    go_on(agent)
    agent("checkpoint", "one")
    for code, message, *arguments in [
        (1, "/usr/local is a directory", "dump", "one", "/usr/local"),
        (1, "/ is a directory", "dump", "one", "/"),
        (10, "the snapshot has no file /root/nothing", "dump", "one", "/root/nothing"),
        (10, "/etc/hosts was removed by the run", "dump", "one", "/etc/hosts"),
        (10, "there is no snapshot two", "dump", "two", "/root/kept"),
        (10, "one has only 1 snapshot", "dump", "one~1", "/root/kept"),
        (10, "the snapshot has no image nothing", "dump", "one", "--image", "nothing"),
        (2, "name a file, or an image with --image", "dump", "one"),
        (2, "name a file, or an image with --image", "dump", "one", "/root/kept", "--image", "pstree.img"),
        (10, "the snapshot has no file /nothing", "ls", "one", "/nothing"),
        (10, "there is no snapshot two", "ls", "two"),
        (10, "there is no snapshot two", "diff", "one", "two"),
    ]:
        outcome = agent(*arguments, check=False)
        assert (outcome.code, outcome.out) == (code, ""), arguments
        assert message in outcome.err
    assert agent("dump", "one", "--image", "pstree.img").out


def test_the_images_of_a_snapshot_say_what_proc_says(agent: Agent) -> None:
    start(agent)
    go_on(agent)
    agent("checkpoint", "one")
    described = description(agent)
    seen = in_box(agent.root_pid("one"))
    assert set(described.processes) == set(seen) == {1, 2, 3}
    for pid, host in seen.items():
        process, proc = described.processes[pid], Path(f"/proc/{host}")
        assert process.program is not None
        told = [list(process.program.argv), list(process.program.environment)]
        assert told == [os.fsdecode((proc / name).read_bytes()).split("\0")[:-1] for name in ("cmdline", "environ")]
        assert process.comm == (proc / "comm").read_text().strip()
        assert process.cwd == os.readlink(proc / "cwd")
        assert {one.fd for one in process.descriptors} == {int(name) for name in os.listdir(proc / "fd")}
        for one in process.descriptors:
            fields = dict(line.split(":", 1) for line in (proc / f"fdinfo/{one.fd}").read_text().splitlines()[:4])
            close_on_exec = os.O_CLOEXEC if one.close_on_exec else 0
            assert int(fields["flags"], 8) == one.file.flags | close_on_exec
            if one.file.offset is not None:
                assert int(fields["pos"]) == one.file.offset
            if one.file.kind in ("file", "character"):
                assert one.file.name == os.readlink(proc / f"fd/{one.fd}")
        maps = [line.split(maxsplit=5) for line in (proc / "maps").read_text().splitlines() if "[vvar" not in line]
        regions = [one for one in process.regions if one.name != "[vvar]"]  # one for CRIU, two since Linux 6.13
        assert [f"{one.start:x}-{one.end:x}" for one in regions] == [line[0] for line in maps]
        names = [line[5] if len(line) > 5 else "" for line in maps]
        assert [one.name for one in regions] == names
        assert [bool(one.prot & 2) for one in regions] == [line[1][1] == "w" for line in maps]
        assert [bool(one.prot & 4) for one in regions] == [line[1][2] == "x" for line in maps]
        assert [bool(one.flags & 1) for one in regions] == [line[1][3] == "s" for line in maps]
        assert [one.offset for one in regions if one.name.startswith("/")] == [
            int(line[2], 16) for line, name in zip(maps, names, strict=True) if name.startswith("/")
        ]


def in_box(root: int) -> dict[int, int]:
    """The processes of a box: their pids in it to those on the host."""
    namespace = os.readlink(f"/proc/{root}/ns/pid")
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                (line,) = [one for one in Path(f"/proc/{name}/status").read_text().splitlines() if "NSpid" in one]
                found[int(line.split()[-1])] = int(name)
    return found


def description(agent: Agent) -> Description:
    repository = vault.open_repository(config_of(agent))
    return contents.description(repository, repository.find("one"))


def test_a_real_image_with_wrong_bytes_is_corrupt_or_another_answer(agent: Agent) -> None:
    start(agent)
    agent("checkpoint", "one")
    repository = vault.open_repository(config_of(agent))
    snapshot = repository.find("one")
    real = contents.images(repository, snapshot)
    whole = {name: real.read(name, 0, size) for name, size in real.sizes.items()}
    chance = random.Random(7)
    names = [
        name for name in whole if name.startswith(("core", "f", "ids", "mm", "pagemap", "pstree", "remap", "tty"))
    ]
    refused = 0
    for _ in range(1000):
        name = chance.choice(names)
        data = bytearray(whole[name])
        for _ in range(chance.choice((1, 8))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        changed = {**whole, name: bytes(data[: chance.randrange(len(data))] if chance.random() < 0.3 else data)}

        def read(image: str, offset: int, length: int, images: dict[str, bytes] = changed) -> bytes:
            return images[image][offset : offset + length]

        images = Images(sizes={image: len(one) for image, one in changed.items()}, read=read)
        try:
            describe(images, snapshot.manifest.host.page_size)
        except Corrupt:
            refused += 1
    assert refused > 100


def test_a_damaged_snapshot_is_14_and_no_traceback(agent: Agent) -> None:
    start(agent)
    agent("checkpoint", "one")
    objects = [path for path in (agent.directory / "repository").rglob("*") if path.is_file()]
    contained = [path for path in objects if {"chunks", "packs"} & set(path.parts)]
    assert contained
    for path in contained:
        data = bytearray(path.read_bytes())
        for at in range(40, len(data), 1000):
            data[at] ^= 1
        path.write_bytes(data)
    for arguments in (
        ["ls", "one"],
        ["dump", "one", "/root/kept"],
        ["dump", "one", "--image", "pstree.img"],
        ["diff", "one", "one"],
    ):
        outcome = agent(*arguments, check=False)
        assert (outcome.code, outcome.out) == (14, ""), outcome
        assert "Traceback" not in outcome.err
