"""Language runtimes with threads, event loops and children."""

from tests.conftest import PYTHON, Agent
from tests.workloads.ways import Run, Way, Workload, in_every_way

# The writers are never waited for by the readers, so that every pipe and buffer on the way is full.
ASYNCIO = """
import asyncio, sys
from asyncio.subprocess import PIPE

written, read = [0, 0], [0, 0]

async def write(which, process):
    while True:
        written[which] += 1
        process.stdin.write(b"%d %s\\n" % (written[which], b"x" * 200))
        await process.stdin.drain()

async def take(which, process):
    while True:
        number = int((await process.stdout.readline()).split()[0])
        if number != read[which] + 1:
            sys.exit(f"child {which}: {number} came after {read[which]}")
        read[which] = number
        if number % 20 == 0:
            await asyncio.sleep(0.02)

async def main():
    children = [await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE)
                for argv in (["cat"], ["sed", "-u", "s/x/y/g"])]
    tasks = [asyncio.create_task(work(which, child))
             for which, child in enumerate(children) for work in (write, take)]
    n = 0
    while not any(task.done() for task in tasks) and all(child.returncode is None for child in children):
        n += 1
        pids = ",".join(str(child.pid) for child in children)
        in_flight = min(written[which] - read[which] for which in (0, 1))
        print(f"round {n} first={read[0]} second={read[1]} in_flight={in_flight} pids={pids}", flush=True)
        await asyncio.sleep(0.03)
    sys.exit(f"a child or a task ended: {children} {tasks}")

asyncio.run(main())
"""


def pipes_are_in_flight(run: Run) -> None:
    rounds = run.await_rounds()
    for child in ("first", "second"):
        before = int(rounds[0][child])
        run.await_round(lambda last, of=child, before=before: int(last[of]) > before, f"{child} goes on")  # type: ignore[misc]
    # Two pipes hold 128 KiB; a line has about 200 bytes.
    run.await_round(lambda last: int(last["in_flight"]) > 600, "the pipes are full")
    assert {one["pids"] for one in run.rounds()} == {rounds[0]["pids"]}


@in_every_way
def test_asyncio_loses_nothing_of_what_is_in_the_pipes_to_its_two_children(agent: Agent, way: Way) -> None:
    workload = Workload(
        files={"loop.py": ASYNCIO},
        argv=(PYTHON, "loop.py"),
        ready=r"^round \d+ .* in_flight=\d{4}",
        proof=pipes_are_in_flight,
    )
    way(agent, workload)


JAVA = """
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

public class Pool {
    public static void main(String[] arguments) throws Exception {
        var workers = ConcurrentHashMap.<String>newKeySet();
        var ticks = new AtomicLong();
        var pool = Executors.newFixedThreadPool(4);
        Executors.newScheduledThreadPool(1).scheduleAtFixedRate(ticks::incrementAndGet, 5, 5, TimeUnit.MILLISECONDS);
        var kept = new ArrayDeque<byte[]>();
        for (long n = 1;; n++) {
            long number = n;
            var all = new CountDownLatch(4);
            var tasks = new ArrayList<Future<Long>>();
            for (int i = 0; i < 8; i++) {
                tasks.add(pool.submit(() -> {
                    all.countDown();
                    all.await();  // so that no worker does two of the first four
                    workers.add(Thread.currentThread().getName());
                    return number;
                }));
            }
            long sum = 0;
            for (var task : tasks) sum += task.get();
            kept.add(new byte[1 << 20]);  // work for the garbage collector
            if (kept.size() > 16) kept.remove();
            System.out.printf("round %d sum=%d workers=%d ticks=%d%n", n, sum, workers.size(), ticks.get());
            Thread.sleep(30);
        }
    }
}
"""


def the_pool_works(run: Run) -> None:
    rounds = run.await_rounds()
    assert all(int(one["sum"]) == 8 * one.number for one in rounds)
    assert {one["workers"] for one in rounds} == {"4"}  # the same four names since the start
    run.await_round(lambda last: int(last["ticks"]) > int(rounds[0]["ticks"]), "the scheduler goes on")


@in_every_way
def test_a_java_thread_pool_and_its_scheduler_work_on(agent: Agent, way: Way) -> None:
    workload = Workload(
        files={"Pool.java": JAVA},
        argv=("java", "-Xmx128m", "Pool.java"),
        proof=the_pool_works,
    )
    way(agent, workload)


DAEMON = """
import os, signal, socket, sys, time

SOCKET = "/tmp/daemon"

def daemon():
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    server = socket.socket(socket.AF_UNIX)
    server.bind(SOCKET)
    server.listen()
    lasting, _ = server.accept()
    n = 0
    while lasting.recv(1):
        n += 1
        once, _ = server.accept()
        said = f"daemon={os.getpid()} parent={os.getppid()} session={os.getsid(0)} served={n}".encode()
        once.sendall(said)
        once.close()
        lasting.sendall(said)

if (pid := os.fork()) == 0:
    daemon()
os.waitpid(pid, 0)
while not os.path.exists(SOCKET):
    time.sleep(0.01)
lasting = socket.socket(socket.AF_UNIX)
lasting.connect(SOCKET)
n = 0
while True:
    n += 1
    lasting.sendall(b"?")
    with socket.socket(socket.AF_UNIX) as once:
        once.connect(SOCKET)
        answer = once.recv(200)
    if lasting.recv(200) != answer:
        sys.exit("the two answers differ")
    print(f"round {n} {answer.decode()} first_child={pid}", flush=True)
    time.sleep(0.03)
"""


def the_daemon_serves(run: Run) -> None:
    run.await_rounds()
    rounds = run.rounds()
    assert [int(one["served"]) for one in rounds] == [one.number for one in rounds]
    assert {one["daemon"] for one in rounds} == {rounds[0]["daemon"]}
    assert {one["parent"] for one in rounds} == {"1"}, "it was handed to PID 1"
    assert {one["session"] for one in rounds} == {rounds[0]["first_child"]}, "its session's leader is gone"


@in_every_way
def test_a_daemon_that_double_forked_serves_its_socket_on(agent: Agent, way: Way) -> None:
    workload = Workload(
        files={"daemon.py": DAEMON},
        argv=(PYTHON, "daemon.py"),
        proof=the_daemon_serves,
    )
    way(agent, workload)
