"""A sleep is as long as it was meant to be: no freeze cuts it short, and none is added to it."""

import time

from tests.conftest import PYTHON, Agent
from tests.workloads.ways import Run, Way, Workload, in_every_way

SECONDS = 8
SLEEPERS = f"""
import os, subprocess, threading, time

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

print("all sleep since", time.monotonic(), flush=True)
threads = [threading.Thread(target=measure, args=(sleep,)) for sleep in (coreutils, python, event)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
while not os.path.exists("end"):
    time.sleep(0.02)
"""


def they_sleep(run: Run) -> None:
    """Unless the machine was so busy that their time is over already: how long they slept is told in any case."""
    first, *others = run.output().splitlines()
    assert not others or time.monotonic() > float(first.rpartition(" ")[2]) + SECONDS, "nobody woke early"


def they_slept_as_long_as_they_should(run: Run) -> None:
    run.await_that(lambda: len(run.output().splitlines()) == 4, "all woke")
    (run.agent.workdir / "end").touch()
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
        ready="^all sleep since .*",
        proof=they_sleep,
        end=they_slept_as_long_as_they_should,
    )
    way(agent, workload)
