"""The main job: run, checkpoint, kill, restore, and it goes on."""

from tests.conftest import Agent, Screen, await_true

COUNTER = """
import time
n = 0
while True:
    n += 1
    print(n, flush=True)
    time.sleep(0.05)
"""


def numbers(agent: Agent, name: str) -> list[int]:
    return [int(line) for line in agent("logs", name).out.split()]


def start_counter(agent: Agent, name: str = "counter") -> None:
    (agent.workdir / "counter.py").write_text(COUNTER)
    agent("run", "-d", "--name", name, "--", "python3", "counter.py")
    await_true(lambda: len(numbers(agent, name)) > 5, "the counter counts")


def test_a_suspended_run_goes_on_with_its_next_number(agent: Agent) -> None:
    start_counter(agent)
    agent("suspend", "counter")
    assert agent.state_of("counter") == "suspended"
    before = numbers(agent, "counter")
    agent("resume", "-d", "counter")
    await_true(lambda: len(numbers(agent, "counter")) > len(before) + 5, "it counts on")
    after = numbers(agent, "counter")
    assert after == list(range(1, len(after) + 1))


def test_a_checkpoint_does_not_disturb_the_run(agent: Agent) -> None:
    start_counter(agent)
    pid = agent.root_pid("counter")
    for _ in range(3):
        agent("checkpoint", "counter")
    before = len(numbers(agent, "counter"))
    await_true(lambda: len(numbers(agent, "counter")) > before + 5, "it counts on")
    after = numbers(agent, "counter")
    assert after == list(range(1, len(after) + 1))
    assert agent.root_pid("counter") == pid


def test_a_killed_run_comes_back_from_its_last_checkpoint(agent: Agent) -> None:
    start_counter(agent)
    agent("checkpoint", "counter")
    at_checkpoint = len(numbers(agent, "counter"))
    await_true(lambda: len(numbers(agent, "counter")) > at_checkpoint + 5, "it counts on")
    agent("kill", "counter")
    killed_at = numbers(agent, "counter")[-1]
    agent("restore", "-d", "counter")
    await_true(lambda: len(numbers(agent, "counter")) > killed_at, "it counts again")
    again = numbers(agent, "counter")[killed_at]
    assert again <= at_checkpoint + 1 < killed_at, "it goes on from the snapshot, not from where it was killed"


def test_only_the_store_is_needed(agent: Agent) -> None:
    start_counter(agent)
    agent("suspend", "counter")
    last = numbers(agent, "counter")[-1]
    agent.forget_everything("counter")
    assert agent.runs() == []
    agent("restore", "-d", "counter")
    await_true(lambda: len(numbers(agent, "counter")) > 3, "it counts on")
    assert numbers(agent, "counter")[0] == last + 1


def test_a_terminal_comes_back_in_the_middle_of_the_line(agent: Agent, screen: Screen) -> None:
    screen.agent_command("run --name sh -- bash --norc")
    screen.await_text(r"^\$")
    screen.command("X=41; sleep 1000 &")
    screen.await_text(r"\[1\] \d+")
    screen.type("echo hal")
    screen.await_text("echo hal")
    agent("suspend", "sh")
    screen.await_text("sh was suspended at snapshot")
    screen.agent_command("resume sh")
    screen.await_text("echo hal")
    screen.command("lo $((X + 1)); jobs")
    screen.await_text(r"hallo 42\n\[1\].*Running +sleep 1000")
    screen.command("echo a nap''; sleep 500")
    screen.await_text(r"^a nap")
    screen.keys("C-c")
    screen.await_text(r"\^C\n\$")  # what is typed before that is thrown away by the terminal
    screen.command("exit 7")
    screen.await_text(r"exit\n\$$")
    screen.command("echo code $?")
    screen.await_text("code 7")
