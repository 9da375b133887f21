"""What was typed and not yet read comes back: once, without a second echo, and a half line can still be edited."""

from tests.conftest import Agent, Screen, await_true

# Line mode, as a shell script has it: it reads nothing until it is told to.
READER = 'touch sleeping; while [ ! -e go ]; do sleep 0.05; done; while read -r line; do echo "got <$line>"; done'


def start_reader(agent: Agent, screen: Screen) -> None:
    (agent.workdir / "reader.sh").write_text(READER)
    screen.agent_command("run --name reader -- sh reader.sh")
    await_true((agent.workdir / "sleeping").exists, "the reader waits")
    screen.command("one")
    screen.command("two")
    screen.type("hax")
    screen.await_text(r"^one\ntwo\nhax$")


def finish(agent: Agent, screen: Screen) -> None:
    screen.keys("BSpace")
    screen.type("lf")
    (agent.workdir / "go").touch()
    screen.await_text(r"got <one>\ngot <two>$")
    screen.keys("Enter")
    picture = screen.await_text(r"^got <half>$")
    assert [picture.count(f"got <{word}>") for word in ("one", "two", "half")] == [1, 1, 1]


def test_lines_that_nobody_has_read_are_read_after_the_restore(agent: Agent, screen: Screen) -> None:
    start_reader(agent, screen)
    for _ in range(2):
        agent("suspend", "reader")
        screen.await_text("reader was suspended")
        screen.agent_command("resume reader")
        screen.await_text(r"^one\ntwo\nhax$")
    finish(agent, screen)


def test_a_checkpoint_neither_takes_nor_repeats_what_was_typed(agent: Agent, screen: Screen) -> None:
    start_reader(agent, screen)
    agent("checkpoint", "reader")
    agent("checkpoint", "reader")
    assert screen.text().count("two") == 1, "no second echo"
    finish(agent, screen)
