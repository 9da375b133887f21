"""A sleep is as long as it was meant to be: no freeze cuts it short, and none is added to it."""

from tests.conftest import PYTHON, Agent
from tests.workloads.ways import Run, Way, Workload, in_every_way

SECONDS = 8
SLEEPERS = f"""
import subprocess, threading, time

def coreutils():
    subprocess.run(["sleep", "{SECONDS}"], check=True)

def python():
    time.sleep({SECONDS})

def event():
    threading.Event().wait({SECONDS})

def measure(sleep):
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    sleep()
    print(f"{{sleep.__name__}} slept {{time.clock_gettime(time.CLOCK_MONOTONIC) - before}}", flush=True)

for sleep in (coreutils, python, event):
    threading.Thread(target=measure, args=(sleep,)).start()
print("all sleep", flush=True)
"""


def they_sleep(run: Run) -> None:
    assert run.output() == "all sleep\n"


def they_slept_as_long_as_they_should(run: Run) -> None:
    assert run.await_end() == 0
    slept = dict(line.split(" slept ") for line in run.output().splitlines()[1:])
    assert slept.keys() == {"coreutils", "python", "event"}
    for sleeper, seconds in slept.items():
        assert SECONDS <= float(seconds) <= SECONDS + run.frozen, sleeper


@in_every_way
def test_a_sleep_ends_neither_early_nor_later_than_the_freeze(agent: Agent, way: Way) -> None:
    workload = Workload(
        files={"sleepers.py": SLEEPERS},
        argv=(PYTHON, "sleepers.py"),
        ready="^all sleep$",
        proof=they_sleep,
        end=they_slept_as_long_as_they_should,
    )
    way(agent, workload)
