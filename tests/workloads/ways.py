"""The three ways in which every program must go on, and a run whose output is read across all of them.

A program prints numbered lines, "round 1 key=value ...", as long as it lives. Nothing of them may be missing or
doubled, whatever happens to the run: that is what `Run.await_rounds` proves of each program. What else survived is
proved by the workload's own `proof`.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from tests.conftest import Agent, Outcome, await_true

NAME = "program"
_ROUND = re.compile(r"^round (\d+)(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Round:
    """A numbered line of a program, and what it said."""

    number: int
    said: Mapping[str, str]

    def __getitem__(self, key: str) -> str:
        return self.said[key]


class Run:
    """One run of a workload. Its output is kept when the run directory is not."""

    def __init__(self, agent: Agent, *argv: str, options: tuple[str, ...] = ()) -> None:
        self.agent = agent
        self.generation = 1
        self.frozen = 0.0  # seconds in all in which it did not or may not have run
        self._kept_output = self._kept_errors = ""
        agent("run", "-d", "--name", NAME, *options, "--", *argv)

    def checkpoint(self) -> None:
        with self._frozen():
            self.agent("checkpoint", NAME)

    def suspend_and_restore(self, *, only_the_store: bool = False) -> None:
        """The next generation. only_the_store: the run directory is taken away in between."""
        with self._frozen():
            self.agent("suspend", NAME)
            assert self.agent.state_of(NAME) == "suspended"
            if only_the_store:
                self._kept_output, self._kept_errors = self.output(), self.errors()
                self.agent.forget_everything(NAME)
                assert self.agent.runs() == []
            self.agent("restore", "-d", NAME)
        self.generation += 1

    def move_to(self, other: Agent, into: str) -> None:
        """The next generation, on another host. into: where its work directory lies there."""
        with self._frozen():
            self.agent("suspend", NAME)
            self._kept_output, self._kept_errors = self.output(), self.errors()
            other("restore", "-d", "--into", into, NAME)
            self.agent = other
        self.generation += 1

    def _frozen(self) -> "_Stopwatch":
        return _Stopwatch(self)

    # -- what it says

    def output(self) -> str:
        return self._kept_output + self._logs().out

    def errors(self) -> str:
        return self._kept_errors + self._logs().err

    def _logs(self) -> Outcome:
        return self.agent("logs", NAME)

    def await_output(self, wanted: str, *, errors: bool = False) -> str:
        """Wait until the output (errors: the standard error) matches the regular expression; the last match."""
        found: list[str] = []

        def looked() -> bool:
            text = self.errors() if errors else self.output()
            found[:] = [match[0] for match in re.finditer(wanted, text, re.MULTILINE)]
            return bool(found)

        self.await_that(looked, f"{wanted!r} is printed")
        return found[-1]

    def rounds(self) -> list[Round]:
        """All rounds so far. There is no gap, and nothing is there twice."""
        # The last line may be half printed.
        whole = self.output().rpartition("\n")[0]
        rounds = [Round(int(number), _said(words)) for number, words in _ROUND.findall(whole)]
        assert [one.number for one in rounds] == list(range(1, len(rounds) + 1))
        return rounds

    def await_rounds(self, count: int = 5) -> list[Round]:
        """Wait for `count` more rounds; all those that are new."""
        before = len(self.rounds())
        self.await_that(lambda: len(self.rounds()) >= before + count, f"round {before + count}")
        return self.rounds()[before:]

    def await_round(self, test: Callable[[Round], bool], what: str) -> None:
        self.await_that(lambda: test(self.rounds()[-1]), what)

    def await_end(self) -> int:
        """Wait until the run has ended by itself: its exit status."""
        return self.agent("wait", NAME, check=False).code

    def await_that(self, test: Callable[[], bool], what: str) -> None:
        try:
            await_true(test, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._logs()!r}{self.agent.logs()}") from None


def _said(words: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words.split())


class _Stopwatch:
    def __init__(self, run: Run) -> None:
        self._run = run

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._run.frozen += time.monotonic() - self._since


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A program, how to see that it is in the middle of its work, and how to see that it still is.

    ready is a regular expression for its output. proof is asked in every generation, end once at the end.
    """

    argv: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Agent], None] = lambda _agent: None
    ready: str = r"^round 3\b"
    ready_on_errors: bool = False
    proof: Callable[[Run], None] = lambda run: None
    end: Callable[[Run], None] = lambda run: None
    tools: tuple[str, ...] = ()  # programs of the host that the proof starts in the box
    silent: bool = True  # prints nothing on its standard error unless something is wrong


def start(agent: Agent, workload: Workload, *options: str) -> Run:
    fill(agent, workload)
    return begin(agent, workload, *options)


def begin(agent: Agent, workload: Workload, *options: str) -> Run:
    """Start it where its files are."""
    run = Run(agent, *workload.argv, options=options)
    run.await_output(workload.ready, errors=workload.ready_on_errors)
    workload.proof(run)
    return run


def fill(agent: Agent, workload: Workload) -> None:
    for name, text in workload.files.items():
        path = agent.workdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    workload.prepare(agent)


def go_on(run: Run, workload: Workload) -> None:
    workload.proof(run)
    if workload.silent:
        assert run.errors() == ""


def through_three_generations(agent: Agent, workload: Workload) -> None:
    """Suspended and restored, and suspended and restored again."""
    run = start(agent, workload)
    for _ in range(2):
        run.suspend_and_restore()
        go_on(run, workload)
    workload.end(run)


def unnoticed(agent: Agent, workload: Workload) -> None:
    """Checkpointed while it runs: it is the same processes, and nothing is missing."""
    run = start(agent, workload)
    before = sorted(_processes(agent))
    for _ in range(2):
        run.checkpoint()
        go_on(run, workload)
    assert sorted(_processes(agent)) == before
    workload.end(run)


def with_only_the_store_left(agent: Agent, workload: Workload) -> None:
    """Suspended, and restored where there is neither a run directory nor a process."""
    run = start(agent, workload)
    run.suspend_and_restore(only_the_store=True)
    go_on(run, workload)
    workload.end(run)


def on_another_host(other: Agent, into: str) -> "Way":
    """Suspended here, and restored there, which has nothing but the store and the key."""

    def way(agent: Agent, workload: Workload) -> None:
        run = start(agent, workload, *(word for tool in workload.tools for word in ("--capture", tool)))
        run.move_to(other, into)
        go_on(run, workload)
        workload.end(run)

    return way


def _processes(agent: Agent) -> Iterator[str]:
    """PID 1 and its direct children, as the host sees them; a program may start short-lived ones below them."""
    root = agent.root_pid(NAME)
    yield str(root)
    with open(f"/proc/{root}/task/{root}/children") as children:
        yield from children.read().split()


Way = Callable[[Agent, Workload], None]
in_every_way = pytest.mark.parametrize(
    "way",
    [through_three_generations, unnoticed, with_only_the_store_left],
    ids=lambda way: way.__name__,
)
