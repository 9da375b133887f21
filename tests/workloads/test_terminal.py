"""The terminal itself across a restore: who is attached, its size, what was printed, and what was typed ahead."""

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Agent, Screen, await_true
from tests.workloads.terminal import press, without

SHELL = "bash --norc --noprofile"
PROMPT = {"PS1": "$ "}

# Ends only when the program in the terminal sees this size.
AWAIT_SIZE = "until [ \"$(stty size)\" = '{}' ]; do sleep 0.1; done; echo fits {}"


@pytest.fixture
def another_screen(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Screen]]:
    """Makes more terminals for `agent`."""
    made: list[Screen] = []

    def make() -> Screen:
        made.append(Screen(agent, tmp_path_factory.mktemp("tmux") / "socket"))
        made[-1].await_text(r"^\$")
        return made[-1]

    yield make
    for one in made:
        one.close()


def start_shell(screen: Screen, name: str = "sh") -> None:
    screen.agent_command(f"run --name {name} -- {SHELL}")
    screen.await_text(r"\A\$$")


def test_a_run_without_a_terminal_attached_is_typed_into_and_goes_on(agent: Agent, screen: Screen) -> None:
    agent("run", "-d", "-t", "--name", "sh", "--", *SHELL.split(), env=PROMPT)
    for number in range(3):
        screen.agent_command("attach sh")
        screen.await_text(r"^\$ echo$" if number else r"^\$$")
        if number:
            screen.command(f" $((X += 1)) of {number}")
            screen.await_text(rf"^{number} of {number}$")
        press(screen, "echo")
        screen.await_text(r"^\$ echo$")
        screen.keys("C-\\")
        screen.await_text("detached from sh; it goes on")
        agent("suspend", "sh")
        agent("restore", "-d", "sh")


def test_all_terminals_that_are_attached_show_the_same(
    agent: Agent, screen: Screen, another_screen: Callable[[], Screen]
) -> None:
    start_shell(screen)
    other = another_screen()
    screens = (screen, other)
    other.agent_command("attach sh")
    other.await_text(r"\A\$$")
    for generation in range(2):
        if generation:
            agent("suspend", "sh")
            for one in screens:
                one.await_text("sh was suspended at snapshot")
            screen.agent_command("restore sh")
            screen.await_text(r"^\$$")
            other.agent_command("attach sh")
            other.await_text(r"^\$$")
        for number, typing in enumerate(screens):
            typing.type(f"echo by {number}, {generation}")
            for one in screens:
                one.await_text(rf"^\$ echo by {number}, {generation}$")
            typing.keys("Enter")
            for one in screens:
                one.await_text(rf"^by {number}, {generation}$")
    other.keys("C-\\")
    other.await_text("detached from sh; it goes on")
    screen.command("exit 3")
    screen.await_text(r"^exit\n\$$")
    screen.command("echo status $?")
    screen.await_text("^status 3$")


def test_the_size_of_the_window_follows_the_terminal_before_and_after_a_restore(agent: Agent, screen: Screen) -> None:
    def must_fit(rows: int, columns: int) -> None:
        size = f"{rows} {columns}"
        screen.command(AWAIT_SIZE.format(size, size))
        screen.await_text(f"^fits {size}$")

    start_shell(screen)
    must_fit(30, 100)
    screen.tmux("resize-window", "-x", "90", "-y", "25")
    must_fit(25, 90)
    agent("suspend", "sh")
    screen.await_text("sh was suspended at snapshot")
    screen.tmux("resize-window", "-x", "110", "-y", "35")
    screen.agent_command("restore sh")
    screen.await_text(r"^\$$")
    must_fit(35, 110)
    screen.tmux("resize-window", "-x", "80", "-y", "24")
    must_fit(24, 80)


def test_a_full_screen_program_draws_itself_anew_for_another_size_after_the_restore(
    agent: Agent, screen: Screen
) -> None:
    (agent.workdir / "lines.txt").write_text("".join(f"line {number}\n" for number in range(1, 100)))
    screen.agent_command("run --name vim -- vim -u NONE -i NONE -n -N lines.txt")
    screen.await_text(r"\Aline 1\n")
    screen.await_text(r"^line 29$")
    agent("suspend", "vim")
    screen.await_text("vim was suspended at snapshot")
    screen.tmux("resize-window", "-x", "70", "-y", "20")
    screen.agent_command("restore vim")
    screen.await_text(r"\Aline 1\n(line \d+\n)+line 19\n")
    screen.tmux("resize-window", "-x", "70", "-y", "30")
    screen.await_text(r"\Aline 1\n(line \d+\n)+line 29\n")
    press(screen, ":q<Enter>")
    screen.await_text(r"^\$$")


def test_what_was_printed_before_is_shown_after_the_restore(agent: Agent, screen: Screen) -> None:
    start_shell(screen)
    screen.command("seq -f 'before %g' 60")
    screen.await_text(r"^before 60$")
    agent("suspend", "sh")
    agent.forget_everything("sh")
    agent("restore", "-d", "sh")
    screen.agent_command("attach sh")
    screen.await_text(r"^before 40\n(before \d\d\n)+before 60\n\$$")
    screen.command("echo after")
    screen.await_text(r"^before 60\n\$ echo after\nafter\n\$$")


def test_what_a_terminal_prints_while_nobody_is_attached_is_shown_to_who_attaches(
    agent: Agent, screen: Screen
) -> None:
    agent("run", "-d", "-t", "--name", "clock", "--", *SHELL.split(), env=PROMPT)
    agent("suspend", "clock")
    agent("restore", "-d", "clock")
    screen.agent_command("attach clock")
    screen.await_text(r"^\$$")
    screen.command("clear; for i in 1 2 3; do sleep 0.3; echo tick $i; done")
    screen.keys("C-\\")
    screen.await_text("detached from clock; it goes on")
    await_true(lambda: "tick 3\n" in agent("logs", "clock").out, "it prints")
    agent("suspend", "clock")
    screen.agent_command("restore clock")
    screen.await_text(r"^tick 1\ntick 2\ntick 3\n\$$")


def test_what_was_typed_ahead_is_read_after_the_restore(agent: Agent, screen: Screen) -> None:
    start_shell(screen)
    screen.command("echo busy; until [ -e go ]; do sleep 0.1; done")
    screen.await_text("^busy$")
    screen.command("echo typed ahead")
    screen.await_text("^echo typed ahead$")
    agent("suspend", "sh")
    screen.await_text("sh was suspended at snapshot")
    screen.agent_command("restore sh")
    screen.await_text("^echo typed ahead$")
    (agent.workdir / "go").touch()
    screen.await_text("^typed ahead$")


# What vim shows behind the end of a file. Its greeting goes away when the window is set, as attaching does.
EMPTY = r"(~\n){5}"


def test_the_terminal_of_the_user_is_as_before_when_a_full_screen_program_is_suspended(
    agent: Agent, screen: Screen
) -> None:
    screen.command("clear; echo mine")
    screen.agent_command("run --name vim -- vim -u NONE -i NONE -n -N")
    screen.await_text(EMPTY)
    agent("suspend", "vim")
    screen.await_text("vim was suspended at snapshot")
    screen.await_text(without(EMPTY))
    screen.command("stty -a | grep -o ' icanon'; tput lines")
    screen.await_text(r"^ icanon\n30$")
