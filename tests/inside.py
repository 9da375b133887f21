"""What a supervisor does, done by a test in its own process."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from criu_agent import config as configuration
from criu_agent.config import Config
from criu_agent.ops import live, vault
from criu_agent.repo import catalogue, envelope
from criu_agent.repo.heads import Head
from criu_agent.store.file import FileStore
from tests.conftest import Agent
from tests.fakes.hostile import Honest, Hostile


def config_of(agent: Agent) -> Config:
    """The configuration of the agent's command lines."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in agent.env.items():
            patch.setenv(key, value)
        return configuration.load()


def in_private_mounts(body: Callable[[], None]) -> None:
    """Run body in a child of this process: what it mounts is seen by nobody else, and goes with it.

    A child, because a process with more than one thread cannot go back to its mounts (man 2 setns), and the
    threads of obstore, which another test may have started in this one, never end.
    """

    def alone() -> None:
        live.enter_private_mounts()
        body()

    child = multiprocessing.get_context("fork").Process(target=alone)
    child.start()
    child.join()
    assert child.exitcode == 0, "its traceback is in what was captured of stderr"


def planted(agent: Agent, name: str, make: Callable[[Honest], Hostile]) -> str:
    """Sign another manifest for the run and make it its newest snapshot, as who has the key can; its id."""
    config = config_of(agent)
    repository = vault.open_repository(config)
    place = catalogue.name_of(repository.find(name))
    store = FileStore(Path(config.repository))
    plain = envelope.open_manifest(repository.secret, place.run, place.snapshot, store.get(place.object, 1 << 30))
    made = make(Honest(secret=repository.secret, run_id=place.run, sequence=place.sequence, plain=plain))
    for key, data in made.objects.items():
        store.put(key, data)
    head = repository.heads.read(place.run)
    repository.heads.renew(
        place.run, Head(revision=head.revision, sequence=place.sequence + 1, snapshot=made.snapshot)
    )
    return made.snapshot
