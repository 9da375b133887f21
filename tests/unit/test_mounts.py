"""The mounts of a box: what a dump names, a restore gives, under keys that nothing can be taken for."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent.box.layout import Bind, Layout
from criu_agent.box.mounts import system_binds, through_binds
from criu_agent.errors import HostCannot
from criu_agent.linux.proc import Mount
from criu_agent.ops import plan
from tests.unit.test_plan import BOX, ROOT_MOUNT, facts

NAMES = ["a", "a-b", "b", "[slug]", "x]:y", "a b", "é"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("through")
    for outer in NAMES:
        for inner in NAMES:
            (root / outer / inner).mkdir(parents=True)
    return root


@pytest.fixture
def init(tmp_path: Path) -> Path:
    (tmp_path / "init").touch()
    return tmp_path / "init"


relative = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2).map("/".join)


def layout(binds: list[Bind]) -> Layout:
    return Layout(directory=Path("/state/runs/x/box"), binds=tuple(binds), hidden=("/state",))


@given(st.lists(relative, min_size=1, max_size=8))
def test_every_path_is_written_through_by_exactly_one_bind(tree: Path, chosen: list[str]) -> None:
    paths = [f"{tree}/{name}" for name in chosen]
    binds = through_binds(paths)
    for path in paths:
        assert sum(path == bind.target or path.startswith(bind.target + "/") for bind in binds) == 1
    assert {bind.target for bind in binds} <= set(paths)
    assert all(bind.source == bind.target for bind in binds)


@given(st.lists(relative, min_size=1, max_size=8), st.randoms())
def test_the_same_paths_get_the_same_keys_at_dump_and_restore(tree: Path, chosen: list[str], random: object) -> None:
    paths = [f"{tree}/{name}" for name in chosen]
    shuffled = [*paths, *paths[:1]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert through_binds(shuffled) == through_binds(paths)


@given(st.lists(relative, min_size=1, max_size=8))
def test_no_two_binds_have_one_key_and_no_key_has_what_criu_reads_as_its_own(tree: Path, chosen: list[str]) -> None:
    keys = [bind.key for bind in through_binds(f"{tree}/{name}" for name in chosen)]
    assert len(set(keys)) == len(keys)
    assert not any(set(key) & set("[]:/") for key in keys)


def test_a_path_beside_one_whose_name_it_begins_with_is_bound_too(tree: Path) -> None:
    assert [bind.target for bind in through_binds([f"{tree}/a", f"{tree}/a-b"])] == [f"{tree}/a", f"{tree}/a-b"]


def test_the_root_is_not_written_through() -> None:
    assert through_binds(["/"]) == []


def test_a_path_that_is_not_there_is_refused_by_name(tree: Path) -> None:
    with pytest.raises(HostCannot, match="nothing here"):
        through_binds([f"{tree}/nothing here"])


def test_every_external_of_a_dump_has_its_counterpart_at_the_restore(tree: Path, init: Path) -> None:
    made = layout([*system_binds(init, user_namespace=False), *through_binds([f"{tree}/a", f"{tree}/[slug]"])])
    root, *dumped = made.dump_externals()
    assert root == "mnt[/]:root", "at the restore --root is its counterpart"
    restored = made.restore_externals()
    assert len(dumped) == len(restored) == len(made.binds)
    for bind, dump, restore in zip(made.binds, dumped, restored, strict=True):
        assert dump == f"mnt[{bind.target}]:{bind.key}"
        assert restore == f"mnt[{bind.key}]:{bind.source}"
    assert len({bind.key for bind in made.binds}) == len(made.binds)


def test_the_plan_knows_every_bind_by_its_mount_point(tree: Path, init: Path) -> None:
    made = layout([*system_binds(init, user_namespace=False), *through_binds(f"{tree}/{name}" for name in NAMES)])
    mounts = tuple(
        Mount(id=60 + n, parent=50, device="8:1", root=bind.target, point=bind.target, fstype="ext4", source="x")
        for n, bind in enumerate(made.binds)
    )
    found = facts(mounts={BOX["mnt"]: (ROOT_MOUNT, *mounts)})
    rows = plan.judge(found, externals=frozenset(made.dump_externals()))
    assert [row.action for row in rows if row.kind == "mount"] == ["re-plug"] * (1 + len(mounts))


def test_a_box_without_its_binds_is_refused_by_the_plan() -> None:
    mount = replace(ROOT_MOUNT, id=61, device="8:1", root="/work", point="/work", fstype="ext4")
    rows = plan.judge(facts(mounts={BOX["mnt"]: (ROOT_MOUNT, mount)}), externals=frozenset(["mnt[/]:root"]))
    assert [row.object for row in plan.refusals(rows)] == ["ext4 on /work"]


def test_a_box_in_a_user_namespace_has_no_sys(init: Path) -> None:
    with_sys = {bind.key for bind in system_binds(init, user_namespace=False)}
    assert with_sys - {bind.key for bind in system_binds(init, user_namespace=True)} == {"sys"}


def test_an_init_that_is_not_there_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(HostCannot, match="no-init"):
        system_binds(tmp_path / "no-init", user_namespace=False)


def test_the_devices_of_a_box_are_those_of_the_host(init: Path) -> None:
    devices = [bind for bind in system_binds(init, user_namespace=False) if bind.target.startswith("/dev/")]
    assert {bind.target for bind in devices} >= {"/dev/null", "/dev/zero", "/dev/urandom"}
    assert all(Path(bind.source).is_char_device() for bind in devices)
