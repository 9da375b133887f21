"""Random file operations, frozen at random moments: no byte of memory and files may differ after a restore."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import PYTHON, Agent, await_true

WRITER = Path(__file__).with_name("random_writer.py")
IN_LAYER = "/var/tmp/tree"
ROUNDS = 4  # of one writer: restores one after the other
WRITERS = int(os.environ.get("WRITERS", "3"))  # `make soak`: 50
PLACES = ("here", "elsewhere", "store alone")
moments = st.lists(st.tuples(st.integers(0, 400), st.sampled_from(PLACES)), min_size=ROUNDS, max_size=ROUNDS)
number = count(1)


@pytest.fixture
def place(agent: Agent) -> Iterator[Path]:
    """Where the work directory lies; not below /tmp, which a box has to itself."""
    path = Path(f"/var/lib/criu-agent-random-{os.getpid()}")
    path.mkdir()
    yield path
    agent.clean_up()
    shutil.rmtree(path)


@given(seed=st.integers(0, 2**32), moments=moments)
@settings(
    max_examples=WRITERS,
    suppress_health_check=list(HealthCheck),
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
)
def test_a_writer_finds_every_file_as_it_left_it(
    agent: Agent, place: Path, seed: int, moments: list[tuple[int, str]]
) -> None:
    name = f"writer{next(number)}"
    workdir = place / name
    workdir.mkdir()
    shutil.copy(WRITER, workdir)
    argv = (PYTHON, WRITER.name, str(seed), f"{workdir}/tree", IN_LAYER)
    agent("run", "-d", "--name", name, "-w", str(workdir), "--", *argv)
    await_true(lambda: "writes" in agent("logs", name).out, "it writes")
    done = 0
    for round_, (milliseconds, where) in enumerate(moments):
        time.sleep(milliseconds / 1000)
        agent("suspend", name)
        options = ["--into", str(place / f"{name}-{round_}")] if where == "elsewhere" else []
        if where == "store alone":
            agent.forget_everything(name)
            for left in place.glob(f"{name}*"):
                shutil.rmtree(left)
        agent("restore", "-d", *options, name)
        done = verified(agent, name, beyond=done)
    agent("rm", "-f", name)


def verified(agent: Agent, name: str, *, beyond: int) -> int:
    """Have it compare everything: how many operations it has done by then."""
    agent("kill", "-s", "USR1", name)
    numbers: list[int] = []

    def compared() -> bool:
        outcome = agent("logs", name)
        assert "Error" not in outcome.err, outcome
        assert "differences" not in outcome.err, outcome.err
        numbers[:] = map(int, re.findall(r"verified (\d+)", outcome.out))
        return bool(numbers) and numbers[-1] > beyond

    await_true(compared, "it has compared")
    return numbers[-1]
