"""The settings of automatic checkpoints in a manifest, and what thinning out deletes."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from criu_agent.criu.dump import Cancel
from criu_agent.errors import Corrupt, Interrupted
from criu_agent.model import RunSpec
from criu_agent.ops import automatic
from criu_agent.repo.policy import AUTOMATIC
from criu_agent.repo.repository import Repository
from tests.fakes.repositories import EMPTY, opened, take

SPEC = RunSpec(id="r", name="n", argv=("sh",), workdir="/", env={})
LONG_AGO = {"user": "0:0", "tty": False}  # what the manifest of an older snapshot has of the run


@pytest.mark.parametrize(
    "settings",
    [
        {"every": None, "on_idle": None, "keep_last": None},
        {"every": 300.0, "on_idle": None, "keep_last": 3},
        {"every": None, "on_idle": 30.0, "keep_last": None},
    ],
)
def test_what_is_saved_is_read_as_the_same(settings: dict[str, Any]) -> None:
    spec = RunSpec(id="r", name="n", argv=("sh",), workdir="/", env={}, **settings)
    document = json.loads(json.dumps(automatic.saved(spec)))
    assert automatic.settings(document) == settings
    assert RunSpec(id="r", name="n", argv=("sh",), workdir="/", env={}, **automatic.settings(document)) == spec


def test_an_older_snapshot_has_none() -> None:
    assert automatic.settings(LONG_AGO) == {"every": None, "on_idle": None, "keep_last": None}
    assert automatic.saved(SPEC) == automatic.settings({})


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": "5m"},
        {"every": True},
        {"every": 0},
        {"every": -1.0},
        {"every": float("nan")},
        {"every": 1e12},
        {"on_idle": [30]},
        {"keep_last": 2.5},
        {"keep_last": False},
        {"keep_last": 0},
    ],
)
def test_what_we_cannot_have_written_is_corrupt(wrong: dict[str, Any]) -> None:
    with pytest.raises(Corrupt, match=next(iter(wrong))):
        automatic.settings(wrong)


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Twelve automatic snapshots of a run."""
    made = opened()
    for number in range(12):
        take(made, {"a": bytes([number]) * 5000}, of=replace(EMPTY, run_id="run", resources={AUTOMATIC: {}}))
    monkeypatch.setattr(automatic.vault, "open_repository", lambda _, make: made)
    return made


def ids(repository: Repository) -> list[str]:
    return [one.id for one in repository.snapshots().snapshots]


def thin_out(keep_last: int | None, newest: str, cancel: Cancel | None = None) -> int:
    live = SimpleNamespace(config=None, spec=SimpleNamespace(id="run", keep_last=keep_last))
    return automatic.thin_out(cast(Any, live), newest=newest, cancel=cancel or Cancel())


def test_what_is_more_than_was_asked_for_is_deleted_with_its_data(repository: Repository) -> None:
    before = ids(repository)
    assert thin_out(3, before[-1]) == 9
    assert ids(repository) == before[-3:]
    assert len(repository.store.list("packs/")) == 3
    for snapshot in repository.snapshots().snapshots:
        repository.reader(snapshot).verify()
    assert thin_out(3, before[-1]) == 0


def test_without_a_number_nothing_is_deleted_nor_read() -> None:
    assert thin_out(None, "") == 0


def test_nothing_is_deleted_of_a_run_that_somebody_else_has_gone_on_with(repository: Repository) -> None:
    before = ids(repository)
    assert thin_out(3, before[-2]) == 0
    assert ids(repository) == before


def test_thinning_out_can_be_given_up(repository: Repository) -> None:
    before = ids(repository)
    cancel = Cancel()
    cancel.wanted = True
    with pytest.raises(Interrupted):
        thin_out(3, before[-1], cancel)
    assert ids(repository) == before
    thin_out(3, before[-1])
    assert ids(repository) == before[-3:]
