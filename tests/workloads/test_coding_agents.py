"""Coding agents from npm, in the middle of a conversation: they redraw, take what is typed, and know what was said."""

import json
from collections.abc import Iterator

import pytest

from tests.conftest import NODE_BIN, Agent, Screen
from tests.fakes.model import MODEL, Model
from tests.workloads.terminal import WAYS, Play, Workload

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
            ("", "^› Ask Codex to do anything"),
            ("ask 0", "^› ask 0$"),
            ("<Enter>", "^• I know ask 0$"),
            ("ask", "^› ask$"),
        ],
        shown="^› ask$",
        again=[
            (" {n}", "^› ask {n}$"),
            ("<Enter>", KNOWN),
            ("ask", "^› ask$"),
        ],
        generations=2,
    )


# All questions up to this round, none of them twice: after a rollback a question is asked once more.
KNOWN = r"I know (?!.*(ask \d).*\1)ask 0, (?:.*, )?ask {n}$"


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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("start", [codex, opencode], ids=["codex", "opencode"])
def test_a_coding_agent_goes_on(agent: Agent, screen: Screen, model: Model, start, way: str) -> None:
    play = Play(agent, screen, start(agent, model), start.__name__)
    play.begin()
    WAYS[way](play)
