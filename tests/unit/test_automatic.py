"""The settings of automatic checkpoints in a manifest, and what thinning out deletes."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from criu_agent.criu.dump import Cancel
from criu_agent.errors import Corrupt, Interrupted
from criu_agent.model import RunSpec, Snapshot
from criu_agent.ops import automatic
from tests.unit.test_policy import SUNDAYS

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


class Shelf:
    """A repository as far as thinning out needs one."""

    def __init__(self, snapshots: list[Snapshot]) -> None:
        self.kept = list(snapshots)

    def snapshots(self) -> SimpleNamespace:
        return SimpleNamespace(snapshots=tuple(self.kept), unreadable=())

    def delete_snapshot(self, snapshot_id: str) -> None:
        self.kept = [one for one in self.kept if one.id != snapshot_id]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    made = Shelf(SUNDAYS)
    monkeypatch.setattr(automatic.vault, "open_repository", lambda _: made)
    return made


def thin_out(keep_last: int | None, newest: str, cancel: Cancel | None = None) -> int:
    live = SimpleNamespace(config=None, spec=SimpleNamespace(id="run", keep_last=keep_last))
    return automatic.thin_out(cast(Any, live), newest=newest, cancel=cancel or Cancel())


def test_what_is_more_than_was_asked_for_is_deleted(shelf: Shelf) -> None:
    assert thin_out(3, SUNDAYS[-1].id) == 9
    assert shelf.kept == SUNDAYS[-3:]
    assert thin_out(3, SUNDAYS[-1].id) == 0


def test_without_a_number_nothing_is_deleted_nor_read() -> None:
    assert thin_out(None, "") == 0


def test_nothing_is_deleted_of_a_run_that_somebody_else_has_gone_on_with(shelf: Shelf) -> None:
    assert thin_out(3, SUNDAYS[-2].id) == 0
    assert shelf.kept == SUNDAYS


def test_thinning_out_can_be_given_up(shelf: Shelf) -> None:
    cancel = Cancel()
    cancel.wanted = True
    with pytest.raises(Interrupted):
        thin_out(3, SUNDAYS[-1].id, cancel)
    assert shelf.kept == SUNDAYS
