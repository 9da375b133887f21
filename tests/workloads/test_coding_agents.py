"""Coding agents from npm in the middle of a conversation: they redraw, take what is typed, know what was said."""

import json
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import NODE_BIN, Agent, Screen, await_true
from tests.fakes.model import MODEL, Model
from tests.workloads.terminal import WAYS, Play, Workload, press

# Their own files are in the box's /tmp. What they would look up on the way is refused at once, on loopback.
ALONE = "HOME=/tmp HTTP_PROXY=http://127.0.0.1:9 HTTPS_PROXY=http://127.0.0.1:9 NO_PROXY=127.0.0.1"

CODEX_CONFIG = """
model = "{model}"
model_provider = "fake"
check_for_update_on_startup = false
[model_providers.fake]
name = "fake"
base_url = "{url}"
wire_api = "responses"
[analytics]
enabled = false
[projects."{workdir}"]
trust_level = "trusted"
"""

# All questions up to this round, none of them twice: after a rollback a question is asked once more.
KNOWN = r"I know (?!.*(ask \d).*\1)ask 0, (?:.*, )?ask {n}$"


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    yield made
    made.close()


def codex(agent: Agent, model: Model) -> Workload:
    config = CODEX_CONFIG.format(model=MODEL, url=model.url, workdir=agent.workdir)
    (agent.workdir / "config.toml").write_text(config)
    return Workload(
        command=f"sh -c 'mkdir /tmp/.codex && mv config.toml /tmp/.codex && exec env {ALONE} {NODE_BIN}/codex'",
        begin=[
            ("", r"^\S Ask Codex to do anything"),
            ("ask 0", r"^\S ask 0$"),
            ("<Enter>", "^• I know ask 0$"),
            ("ask", r"^\S ask$"),
        ],
        shown=r"^\S ask$",
        again=[
            (" {n}", r"^\S ask {n}$"),
            ("<Enter>", KNOWN),
            ("ask", r"^\S ask$"),
        ],
        generations=2,
    )


def opencode(agent: Agent, model: Model) -> Workload:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "fake",
        "options": {"baseURL": model.url, "apiKey": "none"},
        "models": {MODEL: {"name": MODEL}},
    }
    config = {"provider": {"fake": provider}, "model": f"fake/{MODEL}", "autoupdate": False, "share": "disabled"}
    (agent.workdir / "opencode.json").write_text(json.dumps(config))
    return Workload(
        command=f"env {ALONE} OPENCODE_DISABLE_MODELS_FETCH=1 {NODE_BIN}/opencode",
        begin=[
            ("", "Ask anything"),
            ("ask 0", "ask 0"),
            ("<Enter>", "I know ask 0"),
            ("ask", "┃ +ask *$"),
        ],
        shown="┃ +ask *$",
        again=[
            (" {n}", r"┃ +ask {n} *$"),
            ("<Enter>", KNOWN),
            ("ask", "┃ +ask *$"),
        ],
        generations=2,
    )


both_agents = pytest.mark.parametrize("start", [codex, opencode], ids=["codex", "opencode"])


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[] if way == "three_generations" else pytest.mark.slow) for way in WAYS]
)
@both_agents
def test_a_coding_agent_goes_on(
    agent: Agent, screen: Screen, model: Model, start: Callable[[Agent, Model], Workload], way: str
) -> None:
    play = Play(agent, screen, start(agent, model), start.__name__)
    play.begin()
    WAYS[way](play)


@both_agents
def test_an_answer_that_was_half_there_is_completed_after_the_restore(
    agent: Agent, screen: Screen, model: Model, start: Callable[[Agent, Model], Workload]
) -> None:
    play = Play(agent, screen, start(agent, model), start.__name__)
    play.begin()
    model.stop_in = "I know ask 0, ask 1"
    press(screen, " 1")
    screen.await_text("ask 1")
    screen.keys("Enter")
    await_true(model.waits.is_set, "the model stops in the middle of its answer")
    play.suspend()
    screen.agent_command(f"restore {play.name}")
    await_true(lambda: agent.state_of(play.name) == "running", "it is restored")
    model.may_go_on.set()
    screen.await_text(f"{model.stop_in}$")
    assert model.answers.count(model.stop_in) == 1, "it is the rest of that answer"
    assert model.broken == 0, "it came by the same connection"
