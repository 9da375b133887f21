"""What the kernel keeps for a program besides memory and files: each is used in every round, and says what it did."""

from tests.conftest import PYTHON, Agent
from tests.workloads.ways import Run, Way, Workload, in_every_way

OBJECTS = """
import ctypes, os, select, signal, socket, struct, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)

def check(result):
    if result == -1 or result is None:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # it is read from a descriptor

# Two threads that hand a number to and fro: all that holds them back is futexes.
ball, turn, condition = 0, 0, threading.Condition()

def play(mine):
    global ball, turn
    while True:
        with condition:
            condition.wait_for(lambda: turn == mine)
            ball, turn = ball + 1, 1 - mine
            condition.notify_all()
        time.sleep(0.002)

for mine in (0, 1):
    threading.Thread(target=play, args=(mine,), daemon=True).start()

# A POSIX timer (timer_create), and an interval timer (setitimer), each with its own signal.
ticks = {signal.SIGRTMIN: 0, signal.SIGVTALRM: 0, signal.SIGALRM: 0}

def tick(number, frame):
    ticks[number] += 1

for number in ticks:
    signal.signal(number, tick)

class sigevent(ctypes.Structure):
    _fields_ = [("value", ctypes.c_void_p), ("signo", ctypes.c_int), ("notify", ctypes.c_int),
                ("rest", ctypes.c_byte * 48)]

class itimerspec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("every", "every_ns", "first", "first_ns")]

timer = ctypes.c_void_p()
check(libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(sigevent(signo=signal.SIGRTMIN)), ctypes.byref(timer)))
spec = itimerspec(0, 7_000_000, 0, 7_000_000)
check(libc.timer_settime(timer, 0, ctypes.byref(spec), None))
signal.setitimer(signal.ITIMER_REAL, 0.009, 0.009)

# A timer descriptor; and a signal descriptor, an event descriptor and a pipe, all in one epoll.
timerfd = check(libc.timerfd_create(time.CLOCK_MONOTONIC, 0))
check(libc.timerfd_settime(timerfd, 0, ctypes.byref(itimerspec(0, 11_000_000, 0, 11_000_000)), None))
mask = struct.pack("128s", struct.pack("Q", 1 << signal.SIGUSR1 - 1))
signalfd = check(libc.signalfd(-1, mask, os.O_NONBLOCK))
counter = os.eventfd(0, os.EFD_NONBLOCK)
stored = os.eventfd(42, os.EFD_NONBLOCK)  # never read before the end
reader, writer = os.pipe()
epoll = select.epoll()
for number, fd in enumerate([signalfd, counter, reader]):
    epoll.register(fd, select.EPOLLIN | (select.EPOLLET if fd == reader else 0))

# Memory that has no name: memfd, with a seal; and System V shared memory, which a child writes too.
memfd = os.memfd_create("kept", os.MFD_ALLOW_SEALING)
os.write(memfd, b"m" * 100_000)
import fcntl
fcntl.fcntl(memfd, 1033, 0x0002)  # F_ADD_SEALS: F_SEAL_SHRINK
libc.shmat.restype = ctypes.c_void_p
shm = check(libc.shmget(0x5eed, 65536, 0o1600))  # IPC_CREAT
address = check(libc.shmat(shm, None, 0))
shared = (ctypes.c_long * 2).from_address(address)
sem = check(libc.semget(0x5eed, 1, 0o1600))
queue = check(libc.msgget(0x5eed, 0o1600))
check(libc.msgsnd(queue, struct.pack("l8s", 1, b"unread"), 8, 0))

# Two children: one writes to the shared memory; one is stopped; and one is dead, and not yet waited for.
def child(work):
    if (pid := os.fork()) == 0:
        signal.setitimer(signal.ITIMER_REAL, 0)
        work()
        os._exit(7)
    return pid

def count():
    while True:
        shared[1] += 1
        time.sleep(0.005)

counting = child(count)
stopped = child(lambda: (os.kill(os.getpid(), signal.SIGSTOP), os._exit(9)))
zombie = child(lambda: None)
os.waitid(os.P_PID, stopped, os.WSTOPPED | os.WNOWAIT)
os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)

def state(pid):
    return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]

def sealed():
    try:
        os.ftruncate(memfd, 5)
    except PermissionError:
        return True
    return False

timer_fd_ticks = 0

def read_timer():
    global timer_fd_ticks
    while True:
        timer_fd_ticks += struct.unpack("Q", os.read(timerfd, 8))[0]

threading.Thread(target=read_timer, daemon=True).start()
n = 0
while not os.path.exists("end"):
    n += 1
    shared[0] = n
    os.kill(os.getpid(), signal.SIGUSR1)
    os.eventfd_write(counter, n)
    os.write(writer, b"%d" % n)
    events = {}
    while len(events) < 3:
        for fd, _ in epoll.poll(5) or sys.exit("the epoll tells nothing"):
            if fd == signalfd:
                events["signalfd"] = struct.unpack_from("I", os.read(fd, 128))[0] == signal.SIGUSR1
            elif fd == counter:
                events["eventfd"] = os.eventfd_read(fd) == n
            elif fd == reader:
                events["pipe"] = int(os.read(fd, 100)) == n
    said = dict(
        events="".join(sorted(f"{name}:{ok}," for name, ok in events.items())),
        ball=ball, timer=ticks[signal.SIGRTMIN], itimer=ticks[signal.SIGALRM], timerfd=timer_fd_ticks,
        memfd=f"{os.fstat(memfd).st_size}:{sealed()}", shm=f"{shared[0]}", child=shared[1],
        stopped=state(stopped), zombie=state(zombie),
    )
    print(f"round {n}", *(f"{key}={value}" for key, value in said.items()), flush=True)
    time.sleep(0.03)

os.kill(stopped, signal.SIGCONT)
print("end", *(f"{key}={value}" for key, value in dict(
    stopped=os.waitstatus_to_exitcode(os.waitpid(stopped, 0)[1]),
    zombie=os.waitstatus_to_exitcode(os.waitpid(zombie, 0)[1]),
    eventfd=os.eventfd_read(stored),
    memfd=len(os.pread(memfd, 200_000, 0).strip(b"m")),
    semaphore=libc.semctl(sem, 0, 12, 0),  # GETVAL
    message=libc.msgrcv(queue, ctypes.create_string_buffer(16), 8, 0, 0o4000),  # IPC_NOWAIT
    shm=libc.shmget(0x5eed, 0, 0) == shm,
).items()), flush=True)
os.kill(counting, signal.SIGKILL)
os._exit(0)  # the timers tick on, and Python's own end would give their signals their deadly defaults back
"""


def every_object_works(run: Run) -> None:
    rounds = run.await_rounds()
    for one in rounds:
        assert one["events"] == "eventfd:True,pipe:True,signalfd:True,"
        assert one["memfd"] == "100000:True"
        assert one["shm"] == str(one.number)
        assert one["stopped"] == "T"
        assert one["zombie"] == "Z"
    for counter in ("ball", "timer", "itimer", "timerfd", "child"):
        before = int(rounds[0][counter])
        run.await_round(lambda last, of=counter, before=before: int(last[of]) > before, f"{counter} goes on")  # type: ignore[misc]
        counts = [int(one[counter]) for one in run.rounds()]
        assert counts == sorted(counts), f"{counter} went back"


def what_was_kept_is_there(run: Run) -> None:
    (run.agent.workdir / "end").touch()
    said = run.await_output("^end .*")
    assert said == "end stopped=9 zombie=7 eventfd=42 memfd=0 semaphore=0 message=8 shm=True"
    assert run.await_end() == 0


@in_every_way
def test_threads_timers_descriptors_memory_and_children_are_all_there(agent: Agent, way: Way) -> None:
    workload = Workload(
        files={"objects.py": OBJECTS},
        argv=(PYTHON, "objects.py"),
        proof=every_object_works,
        end=what_was_kept_is_there,
    )
    way(agent, workload)
