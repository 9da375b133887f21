"""What is open: a database in a transaction, a repository that is just being cloned, files that have no name."""

import hashlib
import random
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import PYTHON, Agent
from tests.workloads.ways import NAME, Run, Way, Workload, in_every_way, start

# One database in the work directory, one in the box's own layer.
TRANSACTION = """
import os, sqlite3, time

def begin(path):
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("create table rows (n integer)")
    database.execute("begin immediate")
    database.executemany("insert into rows values (?)", ((-n,) for n in range(1000)))
    return database

databases = [begin("through.db"), begin("/var/tmp/own.db")]
n = 0
while not os.path.exists("commit"):
    n += 1
    for database in databases:
        database.execute("insert into rows values (?)", (n,))
    print(f"round {n}", flush=True)
    time.sleep(0.03)
for database in databases:
    database.execute("commit")
    database.close()
"""


def a_second_process_finds_them_locked(run: Run) -> None:
    run.await_rounds()
    insert = "insert into rows values (12345)"
    database = sqlite3.connect(run.agent.workdir / "through.db", timeout=0)
    with closing(database), pytest.raises(sqlite3.OperationalError, match="database is locked"):
        database.execute(insert)
    for path in ("through.db", "/var/tmp/own.db"):
        refused = run.agent("exec", NAME, "--", "sqlite3", path, insert, check=False)
        assert refused.code != 0
        assert "database is locked" in refused.err


def the_commit_brings_all_rows(run: Run) -> None:
    (run.agent.workdir / "commit").touch()
    assert run.await_end() == 0
    numbers = [*range(-999, 1), *range(1, len(run.rounds()) + 1)]
    for path in (run.agent.workdir / "through.db", run.agent.files_of(NAME) / "var/tmp/own.db"):
        with closing(sqlite3.connect(path)) as database:
            assert [n for (n,) in database.execute("select n from rows order by n")] == numbers
            assert database.execute("pragma integrity_check").fetchall() == [("ok",)]


@in_every_way
def test_a_sqlite_transaction_keeps_its_lock_and_can_commit(agent: Agent, way: Way) -> None:
    workload = Workload(
        files={"transaction.py": TRANSACTION},
        argv=(PYTHON, "transaction.py"),
        proof=a_second_process_finds_them_locked,
        end=the_commit_brings_all_rows,
        tools=("/usr/bin/sqlite3",),
    )
    way(agent, workload)


WRITE_AHEAD = """
import sqlite3, time
database = sqlite3.connect("log.db", isolation_level=None)
database.execute("pragma journal_mode = wal")
database.execute("create table rows (n integer)")
database.execute("begin immediate")
print("in a transaction", flush=True)
time.sleep(1000)
"""


def test_the_plan_says_that_a_restore_loses_the_locks_of_a_write_ahead_log(agent: Agent) -> None:
    # They are on a file that is mapped too: CRIU takes them first, and loses them when it maps it.
    start(agent, Workload(files={"log.py": WRITE_AHEAD}, argv=(PYTHON, "log.py"), ready="^in a trans"))
    rows = {Path(row["object"]).name: row["reason"] for row in agent("plan", NAME, "--json").json}
    assert rows["log.db-shm"].endswith("a restore loses the lock that is held on it")
    assert rows["log.db"].endswith("with its lock")
    said = agent("checkpoint", NAME).err  # it loses none where it runs on
    assert "log.db-shm: opened again at its offset; it is mapped too, and a restore loses the lock" in said
    refused = agent("exec", NAME, "--", "sqlite3", "log.db", "insert into rows values (1)", check=False)
    assert "database is locked" in refused.err


UPLOAD_PACK = '#!/bin/sh\ngit upload-pack "$@" | /usr/bin/python3 slow.py\n'
SLOW = """
import os, time
while data := os.read(0, 4096):
    os.write(1, data)
    if not os.path.exists("fast"):
        time.sleep(0.02)
"""
CLONE = """
git clone --no-local --progress --upload-pack ./upload-pack "file://$PWD/origin" /var/tmp/clone &&
git -C /var/tmp/clone fsck --full --strict --no-progress &&
git -C /var/tmp/clone status --porcelain &&
echo cloned $(git -C /var/tmp/clone rev-parse HEAD)
"""
RECEIVING = r"Receiving objects: +(\d+)%"


def git(directory: Path, *arguments: str) -> str:
    # It may be another user's.
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "safe.directory=*"]
    done = subprocess.run(["git", *identity, *arguments], cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make_origin(agent: Agent) -> None:
    """A repository of 10 MB in 200 files that do not compress."""
    origin = agent.workdir / "origin"
    origin.mkdir()
    noise = random.Random(1)
    for number in range(200):
        (origin / f"{number}.bin").write_bytes(noise.randbytes(50_000))
    git(origin, "init", "--quiet")
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "--message", "all")


def percent(run: Run) -> int:
    return int(run.await_output(RECEIVING, errors=True).rpartition(":")[2].strip(" %"))


def it_receives_on(run: Run) -> None:
    before = percent(run)
    run.await_that(lambda: percent(run) > before, f"more than {before}% are received")
    assert percent(run) < 100, "it is still in the middle"


def the_clone_is_whole(run: Run) -> None:
    (run.agent.workdir / "fast").touch()
    assert run.await_end() == 0, run.errors()
    assert run.output() == f"cloned {git(run.agent.workdir / 'origin', 'rev-parse', 'HEAD')}\n"


@in_every_way
def test_a_git_clone_goes_on_in_the_middle_and_is_whole_at_the_end(agent: Agent, way: Way) -> None:
    workload = Workload(
        prepare=make_origin,
        files={"upload-pack": UPLOAD_PACK, "slow.py": SLOW},
        argv=("sh", "-c", CLONE),
        ready=RECEIVING,
        ready_on_errors=True,
        proof=it_receives_on,
        end=the_clone_is_whole,
        silent=False,
    )
    way(agent, workload)


# big: 200 MB without a name, read once around and around; half: of two names one is gone; small: as big, but in
# the work directory, and written at its end.
DELETED = """
import hashlib, os, random, time

MB = 1 << 20
noise = random.Random(2)
big = open("/var/tmp/big", "w+b", buffering=0)
for _ in range(200):
    big.write(noise.randbytes(MB))
big.seek(0)
os.unlink("/var/tmp/big")
half = open("half", "a+b", buffering=0)
os.link("half", "other-half")
os.unlink("half")
small = open("small", "w+b", buffering=0)
os.unlink("small")
n = 0
read = hashlib.sha256()
while not os.path.exists("end"):
    n += 1
    if n <= 100:
        read.update(big.read(MB))
    for file in (half, small):
        file.write(b"%d\\n" % n)
    print(f"round {n} offset={big.tell()} links={os.fstat(half.fileno()).st_nlink}", flush=True)
    time.sleep(0.03)
while data := big.read(MB):
    read.update(data)
small.seek(0)
print("read", read.hexdigest(), "small", hashlib.sha256(small.read()).hexdigest(), flush=True)
"""


def they_are_open_and_nameless(run: Run) -> None:
    run.await_rounds()
    rounds = run.rounds()
    assert [int(one["offset"]) for one in rounds] == [min(one.number, 100) << 20 for one in rounds]
    assert {one["links"] for one in rounds} == {"1"}
    names = {path.name for path in run.agent.workdir.iterdir()}
    assert names == {"deleted.py", "other-half"}, "no name was given to them for good"
    assert list((run.agent.files_of(NAME) / "var/tmp").glob("*big*")) == []


def their_content_is_what_was_written(run: Run) -> None:
    (run.agent.workdir / "end").touch()
    assert run.await_end() == 0
    noise = random.Random(2)
    big = hashlib.sha256()
    for _ in range(200):
        big.update(noise.randbytes(1 << 20))
    lines = "".join(f"{one.number}\n" for one in run.rounds()).encode()
    said = run.await_output("^read .*")
    assert said == f"read {big.hexdigest()} small {hashlib.sha256(lines).hexdigest()}"
    assert (run.agent.workdir / "other-half").read_bytes() == lines


@in_every_way
def test_deleted_files_keep_their_content_and_offsets(agent: Agent, way: Way) -> None:
    workload = Workload(
        files={"deleted.py": DELETED},
        argv=(PYTHON, "deleted.py"),
        proof=they_are_open_and_nameless,
        end=their_content_is_what_was_written,
    )
    way(agent, workload)
