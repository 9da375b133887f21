"""Programs in a terminal, and the ways in which each must survive.

A `Workload` says how a program is brought into a state that is only in its memory, how that state shows on the
screen, and what shows that it still works. The `WAYS` take it through checkpoints and restores.

Keys are written as in vim: text as it is, and <Enter>, <Escape>, <C-c>, <Up> by tmux's names.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.conftest import Agent, Screen, await_true

Step = tuple[str, str]  # keys to press, and the regular expression that the picture then matches; {n} in both: round


@dataclass(frozen=True, kw_only=True)
class Workload:
    """begin brings the program to where `shown` is on the screen; `again` ends there too, round by round.

    updates: the picture changes by itself. finish makes the program end by itself, with status 0.
    """

    command: str
    begin: Sequence[Step]
    shown: str
    again: Sequence[Step]
    finish: Sequence[Step] = ()
    updates: bool = False
    result: Callable[[Agent], None] | None = None
    generations: int = 3


def press(screen: Screen, keys: str) -> None:
    for key, text in re.findall(r"<([A-Za-z0-9-]+)>|((?:(?!<[A-Za-z0-9-]+>).)+)", keys, re.DOTALL):
        screen.keys(key) if key else screen.type(text)


def without(pattern: str) -> str:
    """Matches a picture in which nothing matches the pattern."""
    return rf"\A(?![\s\S]*{pattern})"


class Play:
    """One workload in one terminal, as the run `name`."""

    def __init__(self, agent: Agent, screen: Screen, workload: Workload, name: str) -> None:
        self.agent = agent
        self.screen = screen
        self.workload = workload
        self.name = name

    def begin(self) -> None:
        self.screen.agent_command(f"run --name {self.name} -- {self.workload.command}")
        self._follow(self.workload.begin, 0)
        self.must_show()

    def must_show(self) -> None:
        self.screen.await_text(self.workload.shown)
        for _ in range(2 if self.workload.updates else 0):
            before = self.screen.text()
            self.screen.await_picture(lambda text, before=before: text != before, "another picture")  # type: ignore[misc]

    def again(self, number: int) -> None:
        """Work with the program; it must know its state."""
        self._follow(self.workload.again, number)
        self.must_show()

    def finish(self) -> None:
        self._follow(self.workload.finish, 0)
        if self.workload.finish:
            await_true(lambda: self.agent.state_of(self.name) == "exited", f"{self.name} ends")
            assert self.agent.run_of(self.name)["exit_code"] == 0
        if self.workload.result is not None:
            self.workload.result(self.agent)

    def suspend(self) -> None:
        self.agent("suspend", self.name)
        self.screen.await_text(f"{self.name} was suspended at snapshot")

    def move_to(self, other: Agent, into: str) -> None:
        """It was suspended; from here on it is on the other host, shown in the same terminal."""
        apart = sorted(name for name in self.agent.env if name.startswith("CRIU_AGENT_"))
        given = " ".join(f"{name}={value}" for name, value in other.env.items() if name.startswith("CRIU_AGENT_"))
        self.screen.command(f"unset {' '.join(apart)}; export {given} HOME={other.env['HOME']}")
        self.agent = self.screen.agent = other
        self.screen.agent_command(f"restore --into {into} {self.name}")
        self.must_show()

    def restore(self) -> None:
        self.screen.agent_command(f"restore {self.name}")
        self.must_show()

    def _follow(self, steps: Sequence[Step], number: int) -> None:
        for keys, seen in steps:
            press(self.screen, keys.replace("{n}", str(number)))
            self.screen.await_text(seen.replace("{n}", str(number)))


def three_generations(play: Play) -> None:
    for number in range(1, play.workload.generations + 1):
        play.suspend()
        play.restore()
        play.again(number)
    play.finish()


def leave_running(play: Play) -> None:
    pid = play.agent.root_pid(play.name)
    play.agent("checkpoint", play.name)
    play.again(1)
    assert play.agent.root_pid(play.name) == pid, "the checkpoint left the processes alone"
    play.agent("kill", play.name)
    play.screen.await_text(r"\$\s*\Z")
    play.screen.command("echo status $?")
    play.screen.await_text("^status 137$")
    play.restore()
    play.again(1)  # round 1 a second time: the state is that of the snapshot
    play.finish()


def only_the_store(play: Play) -> None:
    play.suspend()
    play.agent.forget_everything(play.name)
    assert play.agent.runs() == []
    play.restore()
    play.again(1)
    play.finish()


WAYS = {way.__name__: way for way in (three_generations, leave_running, only_the_store)}
